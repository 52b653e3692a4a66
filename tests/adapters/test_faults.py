"""What is wrong with a foreign model, on one line: by its shapes, or by `check_causal_lm`."""

import dataclasses

import foreign_table as foreign
import jax.numpy as jnp
import numpy as np
import pytest

from mtad_jax import generate, recipes
from mtad_jax.testing import check_causal_lm, table_lm

SPECULATIVE = recipes.speculative(2)
OURS = table_lm(foreign.TABLE)


def decoded(target, draft, strategy=SPECULATIVE):
    prompts = [[1, 2, 3], [4, 0, 0]]
    return generate(target, prompts, [3, 1], strategy=strategy, draft=draft, max_new_tokens=12)


@pytest.mark.slow
def test_a_foreign_table_is_ours():
    lm = foreign.adapted()
    check_causal_lm(lm, partner=OURS, atol=0)
    rule = recipes.mmtad(3, 2)
    np.testing.assert_array_equal(decoded(lm, OURS, rule).tokens, decoded(OURS, OURS, rule).tokens)


def test_rows_together_are_the_rows_apart():
    def by_row(params, x):
        rows, slot = jnp.arange(len(x.tokens))[:, None], foreign.slots_of_call(x)
        token = x.cache["token"].at[rows, slot].set(x.tokens)
        position = x.cache["position"].at[rows, slot].set(x.positions)
        cache = x.cache | {"token": token, "position": position}
        return foreign.forward(params, x.tokens[:, :0], x.positions[:, :0], x.mask, cache)

    check_causal_lm(foreign.adapted(by_row, together=True), atol=0)


WRONG = {
    "padding": (foreign.counts_padding, {}, "logits depend on padding or on tokens to come: row"),
    "unwritten slots": (foreign.sees_all, {}, "logits depend on padding .*window .* is ignored"),
    "neighbours": (foreign.sees_neighbours, {"together": True}, "logits depend on the batch: row"),
    "positions start anew": (
        foreign.new_positions, {},
        "a second chunk against the whole call: .*; positions are ignored: the logits are the same",
    ),
    "rollback": (
        foreign.fills_gaps, {"make": foreign.empty_slots},
        "the cache cannot be rolled back: another text from slot 5 on, after 14 tokens: logits",
    ),
    "rows": (foreign.call, {"together": True}, "rows cannot write at different slots: row 1 at"),
    "slots for positions": (
        foreign.own_positions, {}, "trees=True, but tree node 2 .*; positions are ignored: the",
    ),
    "its own mask": (
        foreign.own_mask, {},
        r"trees=True, but tree node \d .*; the window \(an adapter's mask\) is ignored: give t",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_fault_is_named(name):
    how, changes, message = WRONG[name]
    with pytest.raises(AssertionError, match=message) as caught:
        check_causal_lm(foreign.adapted(how, **changes), atol=0)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_model_of_chains_runs_chains_and_is_refused_trees_before_anything_compiles():
    chains = foreign.adapted(foreign.own_both, trees=False)
    check_causal_lm(chains, partner=OURS, atol=0)
    got, want = decoded(chains, chains), decoded(OURS, OURS)
    np.testing.assert_array_equal(got.tokens, want.tokens)
    for pair in ((chains, OURS), (OURS, chains)):
        with pytest.raises(
            ValueError, match="a model runs chains only .*: use a strategy that dra"
        ):
            decoded(*pair, recipes.mmtad(3, 2))


@pytest.mark.slow
def test_vocabularies():
    wide = foreign.adapted(table=np.pad(foreign.TABLE, ((0, 0), (0, 4)), constant_values=50.0))
    with pytest.raises(AssertionError, match="vocabulary 16 != the partner's 12: .* vocab=<real"):
        check_causal_lm(wide, partner=OURS)
    with pytest.raises(
        ValueError, match="draft vocabulary 12 != target vocabulary 16: .* vocab=12"
    ):
        decoded(wide, OURS)
    got, want = decoded(dataclasses.replace(wide, vocab=12), OURS), decoded(OURS, OURS)
    np.testing.assert_array_equal(got.tokens, want.tokens)


def cache_of(**changes):
    def make(batch, slots, dtype):
        new = {name: change(batch, slots) for name, change in changes.items()}
        return foreign.init_cache(batch, slots, dtype) | new

    return make


def gives(logits=None, cache=None):
    def how(params, x):
        old, new = foreign.call(params, x)
        return (logits or (lambda y: y))(old), (cache or (lambda y: y))(new)

    return how


REFUSED = {
    "a state of the whole text": (
        {"make": cache_of(state=lambda b, s: jnp.zeros((b, 8)))},
        r"the cache's \['state'\] float32\[2,8\] has no axis of 4608 slots .* not accepted",
    ),
    "a rolling window": (
        {"make": cache_of(k=lambda b, s: jnp.zeros((b, min(s, 512), 4)))},
        r"the cache's \['k'\] float32\[2,512,4\] has no axis of 4608 slots .*no rolling window",
    ),
    "slots that rows share": (
        {"make": cache_of(position=lambda b, s: jnp.zeros(s))},
        r"the cache's \['position'\] float32\[16\] has no axis of 2 rows: ",
    ),
    "no cache": ({"make": lambda b, s, d: jnp.int32(0)}, "no array with an axis of 16 slots"),
    "nothing": ({"make": lambda b, s, d: None}, "init_cache gives 0 arrays for 2 rows"),
    "an index for all rows": (
        {"make": cache_of(end_index=lambda b, s: jnp.int32(0)), "together": True},
        r"together=True, but the cache's \['end_index'\] is one index for all rows: leave together",
    ),
    "a cache that fails": (
        {"make": lambda batch, slots: None},
        r"init_cache fails for 2 rows, 16 slots and float32: TypeError: .*takes 2 positional",
    ),
    "a call that fails": (
        {"how": lambda params, x: x.attention_mask},
        r"call fails for tokens int32\[1,3\], mask bool.* and .*: AttributeError: .*attention_mask",
    ),
    "logits alone": (
        {"how": lambda p, x: foreign.call(p, x)[0]},
        r"call returns float32\[1,3,12\]: return \(logits, cache\)",
    ),
    "the last token": (
        {"how": gives(logits=lambda y: y[:, -1])}, r"logits float32\[1,12\] .*: give \[1,3,V\]",
    ),
    "tokens": ({"how": gives(logits=lambda y: jnp.argmax(y, -1))}, r"logits int32\[1,3\] .*give"),
    "whole numbers": (
        {"how": gives(logits=lambda y: y.astype(jnp.int32))}, r"int32\[1,3,12\]: give real numbers",
    ),
    "another structure": ({"how": gives(cache=lambda c: [c])}, "a cache of another structure: "),
    "another dtype": (
        {"how": gives(cache=lambda c: c | {"token": c["token"].astype(jnp.float32)})},
        r"makes the cache's \['token'\] float32\[1,16\] of int32\[1,16\]: .* cast",
    ),
    "vocab": ({"vocab": 13}, "vocab=13 must be between 1 and the model's 12 logits: lower it"),
    "no position": ({"max_positions": 0}, "max_positions=0 must be >= 1: give the model's own"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_shapes_tell_is_refused_when_the_model_is_adapted(name):
    changes, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as caught:
        foreign.adapted(**changes)
    assert "\n" not in str(caught.value)


def test_shapes_of_a_model_written_by_hand():
    class Half(type(OURS.model)):
        def apply(self, params, tokens, **call):
            logits, cache = super().apply(params, tokens, **call)
            return logits.astype(jnp.bfloat16), cache

    class Short(type(OURS.model)):
        def keep(self, cache, source, dest, *, span):
            return dataclasses.replace(cache, token=cache.token[:, :4])

    wrong = {
        Half: r"apply gives logits bfloat16\[2,3,12\]: give float32\[2,3,12\], \[B, T, V\]",
        Short: r"keep makes the cache's \.token int32\[2,4\] of int32\[2,16\]",
    }
    for model, message in wrong.items():
        with pytest.raises(AssertionError, match=message):
            check_causal_lm(dataclasses.replace(OURS, model=model(31, 12)))
    with pytest.raises(AssertionError, match="vocab=13 > vocab_size=12 logits: lower vocab"):
        check_causal_lm(dataclasses.replace(OURS, vocab=13))
    with pytest.raises(AssertionError, match="dict has no vocab_size, .*, keep: see CausalLM"):
        check_causal_lm(dataclasses.replace(OURS, model={}))
