"""Buckets, prefill, and what a drafter asks of the draft model, by hand."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from jitted import jit_of_rule

from mtad_jax import recipes
from mtad_jax.decode import engine, loop
from mtad_jax.decode.drafters.base import OneChain, chain_draft, last_logits
from mtad_jax.decode.drafters.none import NoDraft
from mtad_jax.models.protocol import BoundLM
from mtad_jax.testing import table_lm


@pytest.mark.parametrize(
    ("size", "padded"),
    [(1, 32), (32, 32), (33, 48), (49, 64), (128, 128), (129, 192), (385, 512), (512, 512),
     (513, 1024), (1024, 1024), (1025, 1536)],
)  # fmt: skip
def test_sizes_are_padded_to_few(size, padded):
    assert loop.bucket(size) == padded


def test_a_prompt_is_run_in_chunks_once():
    lm = table_lm(np.zeros((7, 9)))
    width, slots = loop.CHUNK + 100, loop.CHUNK + 128
    tokens = (jnp.arange(slots, dtype=jnp.int32) % 9)[None]
    empty = lm.model.init_cache(1, slots, jnp.float32)
    full = loop._fill(lm, empty, tokens, width, jnp.array(False))
    np.testing.assert_array_equal(full.position[0, :width], np.arange(width))
    np.testing.assert_array_equal(full.token[0, :width], np.arange(width) % 9)
    np.testing.assert_array_equal(full.token[0, width:], empty.token[0, width:])
    again = loop._fill(lm, empty, tokens, width, jnp.array(True))
    np.testing.assert_array_equal(again.token, empty.token)


@dataclasses.dataclass(frozen=True)
class Asked:
    """Stands for a model: gives back what it was asked, as its cache."""

    def apply(self, params, tokens, *, positions, write_at, prefix, window, cache):
        asked = [x.tolist() for x in (tokens, positions, write_at, prefix)]
        assert window is None
        return jnp.arange(2.0)[None, :, None] + jnp.zeros((len(tokens), 2, 5)), asked


class State:
    tokens = jnp.array([[4, 5, 6, 7], [8, 9, 3, 2]])
    length = jnp.array([3, 1])
    draft_cache = None


def test_the_draft_runs_the_last_two_tokens():
    """Of a text of one token that token and a slot of scratch, whose logits nobody wants."""
    lm = BoundLM({"x": jnp.zeros(1)}, Asked(), vocab=4)  # type: ignore[arg-type]
    logits, asked = last_logits(lm, State())  # type: ignore[arg-type]
    assert asked == [[[5, 6], [8, 9]], [[1, 2], [0, 1]], [1, 0], [1, 0]]
    assert logits.tolist() == [[1.0] * 4, [0.0] * 4]


def test_a_chain_of_nodes():
    tokens = jnp.array([[1, 2, 3], [4, 5, 6]])
    valid = jnp.array([[True, True, False], [False] * 3])
    reference = jnp.zeros((2, 4))
    tree = chain_draft(State(), tokens, valid, reference)  # type: ignore[arg-type]
    assert tree.tokens.tolist() == [[6, 1, 2, 3], [8, 4, 5, 6]]
    assert tree.parent.tolist() == [[0, 0, 1, 2]] * 2 and tree.depth == (0, 1, 2, 3)
    assert tree.valid.tolist() == [[False, True, True, False], [False] * 4]
    assert tree.filler.tolist() == [[False, False, False, True], [False, True, True, True]]
    assert tree.length.tolist() == [2, 0] and tree.scratch == 4 and tree.is_chain


def test_no_draft_is_node_0_alone():
    tree, cache = NoDraft().propose(None, State(), None)  # type: ignore[arg-type]
    assert tree.tokens.tolist() == [[6], [8]] and tree.parent.tolist() == [[0], [0]]
    assert not (tree.valid.any() or tree.filler.any() or tree.reference.any() or tree.length.any())
    assert (tree.depth, tree.scratch, tree.is_chain, cache) == ((0,), 1, True, None)
    rule = NoDraft
    assert (rule.depth, rule.nodes, rule.needs_draft, rule.chain) == (0, 1, False, True)
    assert rule.candidate and not rule.drawn


def test_what_a_drawn_chain_says_of_itself():
    chain = OneChain()
    chain.depth = 3
    assert chain.nodes == 4 and chain.chain and chain.candidate and chain.drawn
    assert chain.needs_draft


def test_rules_that_jax_takes_for_equal_are_told_apart():
    """Where two trees differ in their classes only, a compiled program must not serve both."""
    rules = [recipe() for recipe in recipes.RECIPES.values()]

    def classes(rule):
        return type(rule), *(type(getattr(rule, part, None)) for part in ("drafter", "verifier"))

    pairs = [(a, b) for a, b in itertools.combinations(rules, 2) if classes(a) != classes(b)]
    assert all(loop.kinds_of(a) != loop.kinds_of(b) for a, b in pairs)
    assert loop.kinds_of(recipes.mtad(tau=0.1)) == loop.kinds_of(recipes.mtad(tau=0.9))
    if not any(jax.tree.structure(a) == jax.tree.structure(b) for a, b in pairs):
        pytest.skip("this JAX compares classes itself")


def test_a_hundred_rules_of_one_shape_keep_their_own_programs():
    """By JAX's own comparison about one in six is given the program of another class."""
    number = jit_of_rule(lambda rule, x: x + rule.number)
    for i in range(100):
        rule = struct.dataclass(type(f"Rule{i}", (), {"number": i, "__annotations__": {}}))
        assert number(rule(), 0) == i


def test_a_call_is_timed_in_two_parts(monkeypatch):
    """Prefill from the state's being ready, and the rounds from prefill's end."""
    lm = table_lm(np.zeros((7, 9)))
    call = engine.prepare(lm, [[1, 2]], [2], strategy=recipes.sample(), max_new_tokens=2)
    monkeypatch.setattr(engine.time, "perf_counter", iter([10.0, 14.0, 21.0]).__next__)
    timed = call.timed()
    monkeypatch.undo()
    assert (timed.prefill_seconds, timed.seconds) == (4.0, 7.0)
    assert timed.result.length.tolist() == [2]
