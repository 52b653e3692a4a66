"""The engine's rounds of speculative beam decoding against the NumPy reference."""

import functools
from collections import Counter
from dataclasses import dataclass

import jax
import numpy as np
import pytest
import reference as ref
from hypothesis import given
from hypothesis import strategies as st
from replay_cases import (
    ALL_CONTROLS,
    SETTINGS,
    Case,
    Expected,
    check_accepts_itself,
    check_greedy_at_zero,
    check_rounds,
    check_tally,
    with_heavy,
)

from mtad_jax import recipes
from mtad_jax.decode import random
from mtad_jax.decode.draft_verify import DraftVerify
from mtad_jax.decode.state import REJECTED
from mtad_jax.decode.warp import Warp


@dataclass(frozen=True)
class Shape:
    """A depth, a width, and the cases that they are replayed on."""

    depth: int
    width: int
    vocab: int
    top_k: int = 0
    controls: tuple[str, ...] = ()
    apart: bool = False

    def case(self, draw) -> Case:
        return Case.draw(draw, self.vocab, self.top_k, self.controls, self.apart)

    def strategy(self, least: float) -> DraftVerify:
        return recipes.dsbd(self.depth, self.width, least)


SHAPES = {
    "3x3": Shape(3, 3, 5, controls=ALL_CONTROLS),
    "2x4": Shape(2, 4, 5, top_k=4, apart=True),
    "3x1": Shape(3, 1, 5),
}
LEAST = st.sampled_from([0.8, 0.3, 0.5, 0.95])


@functools.cache
def pair_noise(depth: int, width: int, vocab: int):
    """Noise of the draft's pairs by depth, uniforms [K, W], noise of the last slots [W, W, V]."""

    @jax.jit
    def draw(keys, length):
        levels = []
        for d in range(depth):
            shape = (width, width if d else 1, vocab)
            levels.append(random.gumbel(random.round_keys(keys, length, random.DRAFT, d), shape))
        tests = random.round_keys(keys, length, random.ACCEPT)
        uniforms = random.uniform(random.fold(tests, 0), (depth, width))
        return levels, uniforms, random.gumbel(random.fold(tests, 1), (width, width, vocab))

    return draw


class GivenPairs(ref.Given):
    """The chance of DSBD: a slot's noise is cut to the beams that there are."""

    def __init__(self, noise):
        levels, uniforms, last = noise
        super().__init__(uniforms.reshape(-1))
        self.last = last
        for d, level in enumerate(levels):
            self.noise |= {(d + 1, w): rows.reshape(-1) for w, rows in enumerate(level)}

    def draws(self, slot, logp, count, replace):
        kind, i = slot
        if kind in ("rest", "new"):
            self.noise[slot] = self.last[i].reshape(-1)[: len(logp)]
        return super().draws(slot, logp, count, replace)


def rule(case: Case, shape: Shape, least: float, tally: Counter):
    """What DSBD does in a round, by the reference."""
    ends = frozenset(case.ends)

    def expected(round_, noise, target, draft):
        chance, text = GivenPairs(noise), round_.text
        levels = ref.pair_draws(draft, text, shape.depth, shape.width, ends, chance)
        chosen = ref.dsbd_round(target, draft, text, levels, chance, least)
        accepted, follow = ref.dsbd_kept(chosen, shape.vocab)
        last = sorted(levels[-1], key=lambda place: -place.log_q)
        others = [place.log_q for place in last if place.path != last[0].path]
        log_q = sum(draft(text + accepted[:i])[t] for i, t in enumerate(accepted))
        gap = min(chance.gap, chosen.gap, last[0].log_q - others[0] if others else 1.0)
        for n in chosen.widths:
            tally[f"width {n}"] += 1
        rejected = chosen.depth < shape.depth
        return Expected(accepted, follow, len(last[0].path), float(log_q), rejected, gap)

    return expected


HEAVY = {"3x3", "3x1"}


@pytest.mark.slow
@pytest.mark.parametrize("name", with_heavy(SHAPES, HEAVY))
def test_round_by_round(name):
    """One test a shape: whoever runs it compiles its program once."""
    shape, tally = SHAPES[name], Counter()

    @SETTINGS
    @given(st.data())
    def every_round(data):
        case, least = shape.case(data.draw), data.draw(LEAST)
        noise = pair_noise(shape.depth, shape.width, shape.vocab)
        expected = rule(case, shape, least, tally)
        check_rounds(case, shape.strategy(least), expected, noise, tally)

    every_round()
    check_tally(tally, shape.depth)
    assert all(tally[f"width {n}"] for n in range(1, shape.width + 1)), tally
    check_limits(shape)


def check_limits(shape: Shape) -> None:
    """Greedy's text at temperature 0; of a draft by the target itself all depths are kept."""

    @SETTINGS
    @given(st.data())
    def limits(data):
        case, strategy = shape.case(data.draw), shape.strategy(data.draw(LEAST))
        check_greedy_at_zero(case.but(warp=Warp(0.0, 1.0, shape.top_k)), strategy)
        same = case.but(tables=np.stack([case.tables[0]] * 2), draft_warp=case.warp)
        if shape.width == 1:
            check_accepts_itself(same, strategy)
        else:  # the emitted beam may be another one than the likeliest
            assert not (np.asarray(same.decode(strategy).trace.ending) == REJECTED).any()

    limits()
