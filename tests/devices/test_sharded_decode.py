"""Every rule decodes to the same tokens on one device and on eight, in several mesh shapes."""

import numpy as np
import pytest
import sharded

from mtad_jax import generate, recipes
from mtad_jax.decode.protocols import Strategy
from mtad_jax.decode.warp import Warp
from mtad_jax.models.early_exit import early_exit

pytestmark = pytest.mark.slow

RULES = {
    "greedy": recipes.greedy(),
    "sample": recipes.sample(),
    "beam": recipes.beam(2),
    "mtjd": recipes.mtjd(2, 2),
    "speculative_beam": recipes.speculative_beam(2, 2, 2),
    "speculative_mtjd": recipes.speculative_mtjd(2, 2, 2, 2),
    "speculative": recipes.speculative(2),
    "threshold": recipes.threshold(2, 2),
    "lenient": recipes.lenient(2),
    "cascade": recipes.cascade(2),
    "fuzzy": recipes.fuzzy(2),
    "mentored": recipes.mentored(2),
    "block": recipes.block(2),
    "specinfer": recipes.specinfer((2, 1)),
    "mcsd": recipes.mcsd((2, 1)),
    "traversal": recipes.traversal((2, 1)),
    "rsd_s": recipes.rsd_s(2, 2),
    "spectr": recipes.spectr(2, 2),
    "typical": recipes.typical(2, 2),
    "bild": recipes.bild(2),
    "dsbd": recipes.dsbd(2, 2),
    "lookup": recipes.lookup(2, 1),
    "recycle": recipes.recycle(2, 2),
    "suffix": recipes.suffix(2, 4, np.random.default_rng(7).integers(-1, sharded.VOCAB, 900)),
    "mtad": recipes.mtad(2, 2),
    "mmtad": recipes.mmtad(2, 2),
}
# 1 x 8, 2 x 4 and 8 x 1 devices; four key/value heads are repeated on the first.
MESHES = ["model:8", "data:2,model:4", "data:8"]
LENGTHS = np.array([20, 1, 7, 12, 3, 15, 20, 2])
IDS = np.random.default_rng(0).integers(0, sharded.VOCAB, (8, 20))


@pytest.fixture(scope="module")
def plain():
    return sharded.pair()


@pytest.fixture(scope="module")
def laid_out(plain):
    target, draft = plain
    return {
        shape: (sharded.on_mesh(target, shape), sharded.on_mesh(draft, shape, replicated=True))
        for shape in MESHES
    }


def decode(pair, strategy: Strategy, **settings):
    target, draft = pair
    return generate(
        target,
        IDS,
        LENGTHS,
        strategy=strategy,
        draft=draft,
        max_new_tokens=12,
        eos_id=(5, 22, 40),
        warp=Warp(temperature=1.0, top_k=10, top_p=0.9),
        seed=3,
        **settings,
    )


def same(got, want):
    np.testing.assert_array_equal(got.tokens, want.tokens)
    np.testing.assert_array_equal(got.length, want.length)
    np.testing.assert_array_equal(got.stats().rounds, want.stats().rounds)
    np.testing.assert_array_equal(got.stats().accepted, want.stats().accepted)
    np.testing.assert_allclose(got.trace.logp_raw, want.trace.logp_raw, atol=1e-4)


@pytest.mark.heavy
@pytest.mark.parametrize("shape", MESHES)
def test_an_early_exit_lies_where_its_target_does(shape, plain, laid_out):
    strategy = recipes.speculative(2)
    want, got = (
        decode((pair[0], early_exit(pair[0], 1)), strategy) for pair in (plain, laid_out[shape])
    )
    assert want.stats().accepted.sum() > 0
    same(got, want)


def test_no_recipe_is_left_out():
    assert RULES.keys() == recipes.RECIPES.keys()


def rules_and_meshes():
    """All of them; in `make test` a chain, the target's beams and a lattice, each on one mesh."""
    rules = ("speculative", "beam", "mmtad")
    turns = dict(zip(rules, MESHES, strict=True))
    return [
        pytest.param(rule, shape, marks=() if turns.get(rule) == shape else pytest.mark.heavy)
        for rule in RULES
        for shape in MESHES
    ]


@pytest.mark.parametrize(("rule", "shape"), rules_and_meshes())
def test_one_device_and_eight_give_the_same_tokens(rule, shape, plain, laid_out):
    want = decode(plain, RULES[rule])
    assert len(set(np.asarray(want.length).tolist())) > 1, "rows of one length show little"
    same(decode(laid_out[shape], RULES[rule]), want)
