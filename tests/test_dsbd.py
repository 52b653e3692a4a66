"""Speculative beam decoding with dynamic width: every round replayed by the NumPy reference."""

import functools
import math
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
from hypothesis import given
from hypothesis import strategies as st
from replay_cases import BATCH, SETTINGS, Case, Expected, check_rounds, check_tally, sum_of

from mtad_jax import keys as rng
from mtad_jax.decode.draft_verify import DraftVerify
from mtad_jax.decode.drafters import Beam, Chain
from mtad_jax.decode.dsbd import DynamicWidth, PairDraws, dynamic_width
from mtad_jax.decode.lossless import Rejection
from mtad_jax.decode.strategy import Request
from mtad_jax.warp import Warp


def rule(depth, width, threshold=0.8):
    return DraftVerify(PairDraws(depth, width), DynamicWidth(threshold))


@functools.cache
def pair_noise(depth: int, width: int, vocab: int):
    """Noise of the draft by (depth, draw), uniforms of the tests, noise of the last slots."""

    @jax.jit
    def draw(keys, length):
        steps = []
        for step in range(depth):
            key = rng.round_keys(keys, length, rng.DRAFT, step)
            steps.append(rng.gumbel(key, (width, width if step else 1, vocab)))
        accept = rng.round_keys(keys, length, rng.ACCEPT)
        uniforms = rng.uniform(accept, (depth, width))
        return steps, uniforms, rng.gumbel(rng.fold(accept, 1), (width, width, vocab))

    return draw


class Chance(ref.Given):
    """The engine's draws, in the reference's slots: the last ones over as many places as asked."""

    def __init__(self, noise):
        steps, uniforms, last = noise
        drafts = {(d + 1, w): row for d, step in enumerate(steps) for w, row in enumerate(step)}
        super().__init__(uniforms.reshape(-1), drafts)
        self.last = last

    def draws(self, slot, logp, count, replace):
        if isinstance(slot[0], str):
            self.noise[slot] = self.last[slot[1]].reshape(-1)[: len(logp)]
        return super().draws(slot, logp, count, replace)


def judge(case: Case, depth: int, width: int, tally: Counter):
    """What DSBD does in a round, by the reference, given the engine's draws."""
    ends = frozenset(case.ends)

    def expected(round_, noise, target, draft):
        text, chance = round_.text, Chance(noise)
        levels = ref.pair_draws(draft, text, depth, width, ends, chance)
        # tau of the case, from 0.05 to 1.5, serves as the threshold, cut at 1.
        chosen = ref.dsbd_round(target, draft, text, levels, chance, min(case.tau, 0.97))
        accepted, follow = ref.dsbd_kept(chosen, case.tables.shape[2])
        star = max(levels[-1], key=lambda place: place.log_q).path
        for n in chosen.widths:
            tally[f"width {n}"] += 1
        log_q = sum_of(draft, text, accepted)
        gap = min(chance.gap, chosen.gap)
        return Expected(accepted, follow, len(star), log_q, chosen.depth < depth, gap)

    return expected


@pytest.mark.parametrize(
    ("depth", "width", "vocab", "top_k"), [(3, 3, 6, 0), (2, 4, 5, 3), (3, 1, 7, 0)]
)
def test_dsbd_round_by_round(depth, width, vocab, top_k):
    tally: Counter = Counter()

    @SETTINGS
    @given(st.data())
    def every_round(data):
        case = Case.draw(data.draw, vocab, top_k)
        strategy = rule(depth, width, min(case.tau, 0.97))
        noise = pair_noise(depth, width, vocab)
        check_rounds(case, strategy, judge(case, depth, width, tally), noise, tally)

    every_round()
    check_tally(tally, depth)
    assert all(tally[f"width {n}"] for n in range(1, width + 1)), tally


def test_the_controls_reach_every_beam():
    tally: Counter = Counter()
    depth, width, vocab = 2, 3, 6

    @SETTINGS
    @given(st.data())
    def every_round(data):
        case = Case.draw(data.draw, vocab, 4, ("penalty", "banned", "min_new"), apart=True)
        strategy = rule(depth, width, min(case.tau, 0.97))
        noise = pair_noise(depth, width, vocab)
        check_rounds(case, strategy, judge(case, depth, width, tally), noise, tally)

    every_round()
    assert tally["checked"] > 0.8 * tally["all"], tally


def distributions(seed, beams, vocab):
    """P and Q [B, U, V], each summing to 1, with zeros in them."""
    random = np.random.default_rng(seed)
    found = random.gamma(0.5, size=(2, BATCH, beams, vocab))
    found = np.where(random.random(found.shape) < 0.2, 0.0, found)
    return (found / found.sum(axis=(2, 3), keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("width", [1, 3, 5])
def test_the_width_is_what_can_be_expected(width):
    checked, seen = 0, set()
    for seed in range(30):
        p, q = distributions(seed, 3, 4)
        least = 0.05 + 0.03 * seed
        got = dynamic_width(jnp.asarray(p), jnp.asarray(q), width, least)
        for row in range(BATCH):
            want, gap = ref.dynamic_width(p[row].astype(float), q[row].astype(float), width, least)
            if gap > 1e-5:
                checked += 1
                seen.add(want)
                assert got[row] == want
    assert checked > 120 and len(seen) >= min(width, 3)


def test_a_dead_draft_tests_one_beam():
    """Q = 0 everywhere, as after parents that have all been pruned: nothing can pass."""
    p, _ = distributions(0, 2, 4)
    assert dynamic_width(jnp.asarray(p), jnp.zeros_like(p), 4, 0.8).tolist() == [1] * BATCH


def test_one_beam_is_speculative_sampling():
    """The first rounds accept the same tokens of the same chain, given the same uniforms."""
    random = np.random.default_rng(2)
    tables = random.normal(scale=1.5, size=(2, 31, 7)).astype(np.float32)
    tables[1] = tables.mean(axis=0)
    prompts, lengths = random.integers(0, 7, (BATCH, 6)), random.integers(1, 7, BATCH)
    subject = Case(tables, Warp(), Warp(), 0.5, [1, 2], 4, prompts, lengths)
    got, want = (
        {r.row: r for r in reversed(subject.rounds(s))}
        for s in (rule(4, 1), DraftVerify(Chain(4), Rejection()))
    )
    assert {row: r.drafted for row, r in got.items()} == {row: r.drafted for row, r in want.items()}
    assert len({len(r.drafted) for r in want.values()}) > 1


BAD = {
    "threshold": (DynamicWidth(1.5), PairDraws(2, 2), r"threshold=1\.5 must be in \[0, 1\]"),
    "no number": (DynamicWidth(math.nan), PairDraws(2, 2), r"threshold=nan must be in"),
    "chosen": (DynamicWidth(0.8), Beam(2, 2, "search", "tree"), r"drafter=Beam: .* PairDraws"),
    "depth": (DynamicWidth(0.8), PairDraws(0, 2), r"depth=0 must be >= 1"),
    "width": (DynamicWidth(0.8), PairDraws(2, 0), r"width=0 must be >= 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_setting_is_named(name):
    verifier, drafter, message = BAD[name]
    with pytest.raises(ValueError, match=message) as error:
        DraftVerify(drafter, verifier).check(Request())
    assert "\n" not in str(error.value)


def test_chains_only():
    with pytest.raises(ValueError, match="a model runs chains only"):
        rule(2, 1).check(Request(trees=False))
