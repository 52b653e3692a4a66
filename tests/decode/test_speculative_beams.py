"""Speculative beam search and MTJD give what beam search and MTJD give, in fewer calls."""

import dataclasses

import jax
import numpy as np
import pytest

from mtad_jax import recipes
from mtad_jax.decode.engine import generate
from mtad_jax.decode.request import Request
from mtad_jax.decode.warp import Warp
from mtad_jax.testing import table_lm, tiny_pair

PROMPTS = np.random.default_rng(0).integers(0, 12, (5, 9))
LENGTHS = np.array([9, 1, 4, 7, 2])
SIZES = [  # of a block, beams, levels, places of a level
    (3, 3, 2, 6),
    (2, 2, 4, 3),
    (4, 1, 3, 1),
    (1, 3, 1, 4),
]


def tables(noise: float):
    rng = np.random.default_rng(1)
    target = rng.normal(scale=1.5, size=(31, 12))
    return table_lm(target), table_lm(target + rng.normal(scale=noise, size=target.shape))


def decode(pair, strategy, **changes):
    target, draft = pair
    call = {"max_new_tokens": 14, "eos_id": (3, 7), "warp": Warp(1.0, 0.95, 8)} | changes
    call["draft"] = draft if strategy.needs_draft else None
    return generate(target, PROMPTS, LENGTHS, strategy=strategy, **call)


def same(got, want, block):
    """Equal texts and log-probabilities, in no more calls; return how many were saved.

    MTJD counts a call for each token of the text, not for those of its last block that were cut.
    """
    np.testing.assert_array_equal(got.tokens, want.tokens)
    np.testing.assert_array_equal(got.length, want.length)
    for name in ("logp", "logp_raw"):
        got_, want_ = getattr(got.trace, name), getattr(want.trace, name)
        np.testing.assert_allclose(got_, want_, atol=1e-4)
    np.testing.assert_array_equal(got.trace.ending, want.trace.ending)
    saved = want.stats().rounds - got.stats().rounds
    assert (saved >= -(block - 1)).all()
    return saved


def twins(block, width, ahead, lattice):
    """The rules that must agree, and the tokens of a block: of whole texts, and of blocks."""
    yield recipes.beam(width), recipes.speculative_beam(width, ahead, lattice), 1
    size = (block, width, ahead, lattice)
    yield recipes.mtjd(block, width), recipes.speculative_mtjd(*size), block


# Compiled once a size, at the first noise.
@pytest.mark.parametrize("noise", [0.0, 0.5, 5.0])
@pytest.mark.parametrize(
    "size",
    [*SIZES[:2], *(pytest.param(size, marks=pytest.mark.heavy) for size in SIZES[2:])],
    ids=str,
)
def test_on_tables(size, noise):
    """Whatever the draft; the less it knows, the fewer calls are saved."""
    pair = tables(noise)
    for plain, fast, block in twins(*size):
        saved = same(decode(pair, fast), decode(pair, plain), block)
        if noise == 0:
            assert saved.sum() > 0


CONTROLS = {
    "all": {"repetition_penalty": 1.3, "banned_ids": [4], "min_new_tokens": 5},
    "no warp": {"warp": Warp()},
    "cold": {"warp": Warp(0.0)},
    "no ends": {"eos_id": ()},
    "one token": {"max_new_tokens": 1},
    "a draft that is cut": {"draft_warp": Warp(0.7, 0.3, 2)},
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name == "all" else pytest.mark.heavy) for name in CONTROLS],
)
def test_under_controls(name):
    change = CONTROLS[name]
    pair = tables(0.5)
    for plain, fast, block in twins(3, 3, 3, 6):
        want = decode(pair, plain, **{k: v for k, v in change.items() if k != "draft_warp"})
        same(decode(pair, fast, **change), want, block)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.heavy
def test_on_llamas(size):
    """The caches of both models hold what a text needs, whichever nodes it went through."""
    target, draft = tiny_pair()
    near = jax.tree.map(lambda x: x * 1.02, target.params)
    for draft_lm in (draft, dataclasses.replace(target, params=near)):
        for plain, fast, block in twins(*size):
            pair = target, draft_lm
            saved = same(decode(pair, fast), decode(pair, plain), block)
        assert saved.sum() > 0 or draft_lm is draft


def test_a_draft_that_is_the_target_takes_the_fewest_calls():
    """With a lattice as wide as the beams and one block, every step but the last is covered."""
    pair = tables(0.0)
    fast = recipes.speculative_beam(2, 4, 2)
    result = decode((pair[0], pair[0]), fast, warp=Warp(), eos_id=(), max_new_tokens=10)
    assert result.stats().rounds.tolist() == [2] * 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lattice": 2}, r"lattice=2 must be between width=3 and"),
        ({"lattice": 99}, r"lattice=99 must be between width=3 and 3 times the vocabulary"),
        ({"ahead": 0}, r"ahead=0 must be >= 1"),
        ({"ahead": 1.5}, r"ahead=1.5 must be a whole number"),
        ({"width": 0}, r"width=0 must be between 1 and"),
    ],
)
@pytest.mark.parametrize("recipe", [recipes.speculative_beam, recipes.speculative_mtjd])
def test_refuses_sizes(recipe, change, message):
    with pytest.raises(ValueError, match=message):
        recipe(**{"width": 3, "ahead": 2, "lattice": 4} | change).check(Request(vocab=12))


@pytest.mark.parametrize("recipe", [recipes.speculative_beam, recipes.speculative_mtjd])
def test_refuses_several_samples(recipe):
    with pytest.raises(ValueError, match="samples=2: this strategy draws nothing"):
        recipe().check(Request(samples=2))
