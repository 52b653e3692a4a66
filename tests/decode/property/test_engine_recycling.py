"""The engine's rounds of token recycling against the NumPy reference, tables and all."""

import functools
from collections import Counter

import jax
import pytest
import reference as ref
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from replay_cases import (
    ALL_CONTROLS,
    SETTINGS,
    Case,
    Expected,
    check_greedy_at_zero,
    check_rounds,
    check_tally,
)

from mtad_jax import recipes
from mtad_jax.decode import random
from mtad_jax.decode.warp import Warp


@functools.cache
def uniforms(count: int):
    """The uniforms of a round's tests."""

    @jax.jit
    def draw(keys, length):
        return random.uniform(random.round_keys(keys, length, random.ACCEPT), (count,))

    return draw


def recycled(case: Case, depth: int, width: int, begin: ref.Table, *, forgets: bool = False):
    """What the rule does in a round; a row's rounds come in order, and teach its table."""
    ends, tables = frozenset(case.ends), {}

    def expected(round_, noise, target, draft):
        text, last = round_.text, round_.text[-1]
        table = begin if forgets else tables.get(round_.row, begin)
        tree, likeliest = ref.recycled_paths(last, table, depth, width, ends)
        chance = ref.Given(noise)
        accepted, follow = ref.point_round(target, text, tree, chance, ends)
        paths = [path for path in tree.paths if path is not None]
        logits = {path: target.law.model.logits(text + path) for path in paths}
        tables[round_.row] = ref.recycled_table(table, last, tree, logits, width)
        rejected = len(accepted) < tree.deepest
        return Expected(accepted, follow, likeliest, 0.0, rejected, chance.gap)

    return expected


SHAPES = [  # depth, width, vocabulary, top-k, controls
    (2, 3, 5, 0, ALL_CONTROLS),
    pytest.param(3, 2, 4, 3, (), marks=pytest.mark.heavy),
    # Nearly all tokens have an entry: end tokens, which the cases make unlikely, are drafted too.
    pytest.param(1, 4, 5, 0, (), marks=pytest.mark.heavy),
]


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "width", "vocab", "top_k", "controls"), SHAPES)
def test_round_by_round(depth, width, vocab, top_k, controls):
    """One test a shape: whoever runs it compiles its program once."""
    strategy, tally = recipes.recycle(depth, width), Counter()
    tests = strategy.drafter.nodes - 1

    def replayed(tally, phases, **how):
        @settings(SETTINGS, phases=phases)
        @given(st.data())
        def every_round(data):
            case = Case.draw(data.draw, vocab, top_k, controls)
            expected = recycled(case, depth, width, {}, **how)
            check_rounds(case, strategy, expected, uniforms(tests), tally)

        every_round()

    replayed(tally, tuple(Phase))
    check_tally(tally, depth)

    @SETTINGS
    @given(st.data())
    def limits(data):
        case = Case.draw(data.draw, vocab, top_k, controls)
        check_greedy_at_zero(case.but(warp=Warp(0.0, 1.0, top_k)), strategy)

    limits()
    with pytest.raises(AssertionError):  # the replay sees whether the table learns
        replayed(Counter(), (Phase.generate,), forgets=True)
