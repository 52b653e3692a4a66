"""The models and rules of the documents keep their promises; tests/test_docs.py runs the pages."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from doc_snippets import run_snippet
from flax import nnx

from mtad_jax import Warp, adapters, generate, recipes
from mtad_jax.testing import check_strategy, tiny_pair

PROMPTS, LENGTH = [[3, 1, 4, 1], [5, 9, 0, 0]], [4, 2]
# A rule with a draft, and one without that has its text.
PAIRS = {
    "chain": (recipes.speculative(3), recipes.greedy(), Warp(0.0)),
    "tree": (recipes.mmtad(3, 2), recipes.greedy(), Warp(0.0)),
    "target beams": (recipes.speculative_beam(2, 2, 3), recipes.beam(2), Warp(1.0)),
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page():
    return run_snippet("own_model.md", "class Small(nnx.Module)")


@pytest.mark.parametrize("name", PAIRS)
def test_a_plain_nnx_model_has_the_texts_of_the_target_alone(page, name):
    *rules, warp = PAIRS[name]
    call = {"draft": page["draft"], "max_new_tokens": 16, "warp": warp}
    one, two = (generate(page["target"], PROMPTS, LENGTH, strategy=r, **call) for r in rules)
    np.testing.assert_array_equal(one.tokens, two.tokens)


def test_dropout_is_off_and_the_module_stays_as_it_was():
    class Noisy(nnx.Module):
        def __init__(self, rngs):
            self.table = nnx.Embed(11, 11, rngs=rngs)
            self.dropout = nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, tokens):
            return self.dropout(self.table(tokens))

    def call(model, x):
        return model(x.tokens), x.cache

    model = Noisy(nnx.Rngs(0))
    lm = adapters.from_nnx(
        model, call, lambda b, s, d: jnp.zeros((b, s), d), max_positions=64, trees=False
    )
    assert lm.dtype == jnp.float32 and model.dropout.deterministic is False
    result = generate(lm, [[3]], [1], strategy=recipes.greedy(), max_new_tokens=8)
    table = np.asarray(model.table.embedding[...])
    want = [3]
    for _ in range(8):
        want.append(int(table[want[-1]].argmax()))
    assert np.asarray(result.tokens)[0].tolist() == want[1:]


def test_equal_modules_share_programs_and_those_without_a_hash_do_not(page):
    @dataclasses.dataclass  # not frozen: no hash, as tunix's configs
    class Config:
        width: int = 32

    def both(config):
        model = page["Small"](1, nnx.Rngs(0))
        model.config = config
        init_cache = page["draft"].model.init
        pair = (adapters.from_nnx(model, page["call"], init_cache, max_positions=64) for _ in "ab")
        one, two = (lm.model for lm in pair)
        assert hash(one) == hash(one) and one == one
        return one == two

    assert both("frozen") and not both(Config())


def test_the_verifier_of_the_page():
    rule = run_snippet("own_rule.md", "class TopN")["top_n"]
    check_strategy(rule(3, 2), *tiny_pair(), accepts_itself=False)


def test_the_drafter_of_the_page():
    rule = run_snippet("own_rule.md", "class Likeliest")["likeliest"]
    check_strategy(rule(3), *tiny_pair())
