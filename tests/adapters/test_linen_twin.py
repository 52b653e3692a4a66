"""A foreign twin of our Llama: equal logits, and equal texts under rules of every kind."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from doc_snippets import run_snippet
from draft_shapes import each
from linen_llama import twin

from mtad_jax import Pipeline, Warp, generate
from mtad_jax.recipes import RECIPES
from mtad_jax.registry import settings_of
from mtad_jax.testing import check_causal_lm, tiny_pair

VOCAB = 20
PROMPTS, LENGTH = np.arange(1, 19).reshape(2, 9), [9, 4]


@pytest.fixture(scope="module")
def pairs():
    ours = tiny_pair(vocab=VOCAB, max_positions=128)
    return ours, tuple(map(twin, ours))


@pytest.mark.slow
def test_equal_logits(pairs):
    (lm, _), (other, _) = pairs
    ids, at = jnp.asarray(PROMPTS), jnp.zeros(2, jnp.int32)
    got, want = (
        x.model.apply(
            x.params, ids, positions=jnp.arange(9) + at[:, None], write_at=at, prefix=at,
            window=None, cache=x.model.init_cache(2, 12, x.dtype),
        )[0]
        for x in (other, lm)
    )  # fmt: skip
    np.testing.assert_allclose(got, want, atol=2e-5)


@pytest.mark.slow
def test_the_twin_is_a_causal_model(pairs):
    check_causal_lm(pairs[1][0], partner=pairs[1][1])


def small(name):
    """Return a small rule of a recipe."""
    sizes = {"depth": 2, "width": 2, "branching": (2, 1), "chains": 2, "ahead": 2, "lattice": 2}
    sizes |= {"ngram": 1}
    return RECIPES[name](**{s: sizes[s] for s in settings_of(RECIPES[name]) if s in sizes})


@pytest.mark.parametrize("name", each(RECIPES, among=("speculative", "mmtad", "beam")))
def test_equal_texts(pairs, name):
    """Of a chain, a tree and the target's own beams; the others only take longer."""
    strategy = small(name)
    one, two = (
        generate(
            target, PROMPTS, LENGTH, strategy=strategy, draft=draft, max_new_tokens=10, seed=3,
            warp=Warp(temperature=0.9, top_k=8),
        )
        for target, draft in pairs
    )  # fmt: skip
    np.testing.assert_array_equal(one.tokens, two.tokens)
    np.testing.assert_array_equal(one.trace.place, two.trace.place)
    np.testing.assert_allclose(one.trace.logp_raw, two.trace.logp_raw, atol=1e-4)


@pytest.mark.heavy
def test_a_twin_of_the_shipped_draft_drafts_its_text():
    shipped = Pipeline.shipped()
    lm = shipped.draft.lm.replace(
        params=jax.tree.map(lambda x: x.astype(jnp.float32), shipped.draft.lm.params)
    )
    row = run_snippet(
        "own_model.md", "given `draft`, as the adapters", draft=twin(lm, vocab=lm.vocab)
    )["row"]
    want = run_snippet("own_model.md", "given `draft`, as the adapters", draft=lm)["row"]
    assert (row.text, row.stats.rounds) == (want.text, want.stats.rounds)
