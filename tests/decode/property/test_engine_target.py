"""The rules that look for likely texts of the target alone, against the NumPy reference."""

import functools
import math
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
import replay
from hypothesis import given
from hypothesis import strategies as st
from replay_cases import (
    ALL_CONTROLS,
    BATCH,
    LIMIT,
    SETTINGS,
    Case,
    check_greedy_at_zero,
    with_heavy,
)

from mtad_jax import recipes
from mtad_jax.decode import random
from mtad_jax.decode.state import DEPTH, END, LENGTH
from mtad_jax.decode.warp import Warp


def blocks_of(case: Case, result) -> list[replay.Round]:
    """Every block of a result as one round; a block begins where the trace has its ending."""
    got, found = jax.tree.map(np.asarray, result), []
    for row, n in enumerate(got.length):
        trace = jax.tree.map(lambda x, row=row, n=n: x[row, :n], got.trace)
        new, starts = tuple(got.tokens[row, :n].tolist()), np.flatnonzero(trace.ending)
        assert n > 0 and starts[0] == 0
        assert not (trace.place.any() or trace.candidate.any() or trace.log_ratio.any())
        for start, stop in zip(starts, [*starts[1:], n], strict=True):
            at = slice(start, stop)
            found.append(
                replay.Round(
                    row, case.prompt(row) + new[:start], new[at], [0] * (stop - start),
                    trace.logp[at], trace.logp_raw[at], 0, 0.0, int(trace.ending[start]),
                    LIMIT - int(start),
                )
            )  # fmt: skip
    return found


def check_blocks(case: Case, strategy, expected, noise, tally: Counter) -> None:
    """`expected(text, noise, target, ends)` is a block, uncut, and how near an edge was."""
    blocks, ends = blocks_of(case, case.decode(strategy)), frozenset(case.ends)
    drawn = [None] * len(blocks)
    if noise is not None:
        drawn = replay.noise_of(case.seed, blocks, noise, BATCH * LIMIT)
    laws = {row: case.laws(row)[0] for row in range(BATCH)}
    for block, its_noise in zip(blocks, drawn, strict=True):
        target = laws[block.row]
        target.gap = math.inf
        replay.check_trace(block, target)
        want, gap = expected(block.text, its_noise, target, ends)
        tally["all"] += 1
        if min(gap, target.gap) < replay.EDGE:
            continue
        tally["checked"] += 1
        assert block.tokens == want[: block.room], (block, want)
        ending = replay.check_ending(block, ends, rejected=False)
        tally[f"ending {ending}"] += 1
        tally["shorter"] += ending == END and len(want) > 1
        tally["not greedy"] += want != ref.greedy(
            target, block.text, max_new_tokens=len(want), ends=ends
        )


def search(depth, width):
    return lambda text, noise, target, ends: ref.mtjd_block(target, text, depth, width, ends, noise)


def exact(depth):
    def expected(text, noise, target, ends):
        block, _ = ref.exact_block(target, text, depth, ends)
        return block, ref.block_gap(target, text, depth, ends)

    return expected


def beam(width):
    return lambda text, noise, target, ends: ref.beam_text(target, text, width, LIMIT, ends, noise)


@functools.cache
def beam_search_noise(width: int, vocab: int):
    """Gumbel noise [M, W, V] of beam sampling: a key a round, by the length that it reaches."""

    @jax.jit
    def draw(keys, length):
        rounds = [
            random.gumbel(random.round_keys(keys, length + at, random.DRAFT), (width, vocab))
            for at in range(LIMIT)
        ]
        return jnp.stack(rounds, axis=1)

    return draw


RULES = {  # strategy, what the reference says, noise, vocabulary, top-k, controls
    "mtjd": (recipes.mtjd(3, 3), search(3, 3), None, 6, 0, ALL_CONTROLS),
    "mtjd-sample": (
        recipes.mtjd(3, 2, "sample"), search(3, 2), replay.beam_noise(3, 2, 5), 5, 4, (),
    ),
    "mtjd-exact": (recipes.mtjd(3, draw="exact"), exact(3), None, 4, 0, ("penalty", "min_new")),
    "beam": (recipes.beam(3), beam(3), None, 6, 0, ALL_CONTROLS),
    "beam-sample": (recipes.beam(3, "sample"), beam(3), beam_search_noise(3, 5), 5, 4, ()),
}  # fmt: skip


HEAVY = {"mtjd-sample", "beam-sample"}


@pytest.mark.slow
@pytest.mark.parametrize("name", with_heavy(RULES, HEAVY))
def test_block_by_block(name):
    """One test a rule: whoever runs it compiles its program once."""
    strategy, expected, noise, vocab, top_k, controls = RULES[name]
    tally: Counter = Counter()

    def draw_case(draw) -> Case:
        return Case.draw(draw, vocab, top_k, controls)

    @SETTINGS
    @given(st.data())
    def every_block(data):
        case = draw_case(data.draw)
        check_blocks(case, strategy, expected, noise, tally)

    every_block()
    assert tally["checked"] > 0.8 * tally["all"], tally
    assert tally["not greedy"] > 0.05 * tally["checked"], tally
    mtjd = name.startswith("mtjd")
    endings = [END, LENGTH, DEPTH] if mtjd else [END, LENGTH]
    assert all(tally[f"ending {ending}"] for ending in endings), tally
    assert tally["shorter"], tally
    check_limits(strategy, draw_case, mtjd)


def check_limits(strategy, draw_case, mtjd: bool) -> None:
    """At temperature 0 the text is greedy's; each token of a block counts as a target call."""

    @SETTINGS
    @given(st.data())
    def every_text(data):
        case = draw_case(data.draw)
        check_greedy_at_zero(case.but(warp=Warp(0.0, 1.0, case.warp.top_k)), strategy)
        if mtjd:
            result = case.decode(strategy)
            length = np.asarray(result.length)
            np.testing.assert_array_equal(result.stats().rounds, length)
            for row, n in enumerate(length):
                np.testing.assert_array_equal(result.trace.round[row, :n], np.arange(n))

    every_text()
