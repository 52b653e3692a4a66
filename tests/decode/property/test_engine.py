"""The engine's rounds of MTAD and MMTAD, and plain sampling, against the NumPy reference."""

import math
from collections import Counter

import numpy as np
import pytest
import reference as ref
import replay
from hypothesis import given
from hypothesis import strategies as st
from replay_cases import (
    SETTINGS,
    Case,
    Expected,
    check_greedy_at_zero,
    check_rounds,
    check_tally,
)

from mtad_jax import recipes
from mtad_jax.decode.warp import Warp


def joint_rule(
    case: Case, depth: int, width: int, draw: str, own: float | None, many: bool, tally: Counter
):
    """What MTAD (`many`: MMTAD) does in a round, by the reference; its bounds on the way.

    `own` is the bonus's own temperature, if it has one.
    """
    ends = frozenset(case.ends)
    size = {"depth": depth, "width": width, "ends": ends}

    def expected(round_, noise, target, draft):
        text = round_.text
        if draw == "search":
            lattice = ref.draft_search(draft, text, **size)
        else:
            lattice = ref.draft_sample(draft, text, noise, **size)
        one = ref.mtad_accept(lattice, target, text, case.tau)
        all_ = ref.mmtad_accept(lattice, target, text, case.tau)
        ref.check_depths(one.depth, all_.depth)
        verdict = all_ if many else one
        gap = min(lattice.gap, ref.accept_gap(lattice, target, text, case.tau))
        if min(gap, target.gap, draft.gap) > replay.EDGE and len(verdict.tokens) <= round_.room:
            got = float(round_.logp[: len(verdict.tokens)].sum())  # by the engine's own trace
            ref.check_accepted_joint(verdict.depth, got, verdict.log_q_star, case.tau, 1e-4)
            passing = ref.passing(lattice, target, text, case.tau)
            path = range(1, one.depth)
            tally["a shorter one failed"] += any(lattice.star[d] not in passing[d] for d in path)
            tally["not the first place"] += all_.place > min(passing[all_.depth], default=0)
        candidate = len(lattice.star_tokens)
        rejected = verdict.depth < depth if many else len(verdict.tokens) < candidate
        follow = verdict.bonus
        if follow is not None and own is not None:
            law = case.target_at(round_.row, own)
            follow = law(text + verdict.tokens)
            gap = min(gap, law.gap)
        return Expected(verdict.tokens, follow, candidate, float(verdict.log_q_star), rejected, gap)

    return expected


SHAPES = [  # depth, width, vocabulary, top-k, draw, controls, temperature of the bonus
    pytest.param(
        3, 3, 8, 0, "search", ("penalty", "banned", "min_new"), None, marks=pytest.mark.heavy
    ),
    (3, 3, 8, 0, "search", ("penalty", "banned", "min_new"), 0.0),
    (3, 2, 7, 4, "sample", (), 0.6),
    pytest.param(1, 5, 5, 0, "sample", (), None, marks=pytest.mark.heavy),
    pytest.param(4, 3, 6, 4, "search", (), None, marks=pytest.mark.heavy),
]


@pytest.mark.slow
@pytest.mark.parametrize("many", [False, True], ids=["mtad", "mmtad"])
@pytest.mark.parametrize(("depth", "width", "vocab", "top_k", "draw", "controls", "own"), SHAPES)
def test_joint_rules_round_by_round(depth, width, vocab, top_k, draw, controls, own, many):
    tally: Counter = Counter()
    recipe = recipes.mmtad if many else recipes.mtad
    noise = replay.beam_noise(depth, width, vocab) if draw == "sample" else None

    @SETTINGS
    @given(st.data())
    def every_round(data):
        case = Case.draw(data.draw, vocab, top_k, controls)
        strategy = recipe(depth, width, case.tau, draw, own)
        expected = joint_rule(case, depth, width, draw, own, many, tally)
        check_rounds(case, strategy, expected, noise, tally)

    every_round()
    check_tally(tally, depth)
    if depth > 1:
        assert tally["not the first place" if many else "a shorter one failed"], tally
    check_limits(
        lambda data: Case.draw(data.draw, vocab, top_k, controls),
        # A bonus that is drawn at temperature 0 is not greedy's.
        lambda tau: recipe(depth, width, tau, draw, own if own == 0 else None),
        many,
        exact=own is None,
    )


def check_limits(draw_case, strategy, many: bool, exact: bool) -> None:
    """Greedy's text at temperature 0 for every tau; the target's own draft is accepted whole."""

    @SETTINGS
    @given(st.data())
    def limits(data):
        case = draw_case(data)
        cold = case.but(warp=Warp(0.0, 1.0, case.warp.top_k))
        check_greedy_at_zero(cold, strategy(case.tau))
        same = case.but(tables=np.stack([case.tables[0]] * 2))
        result = same.decode(strategy(min(case.tau, 0.99)))
        if many:  # or a path as probable as x*
            np.testing.assert_allclose(result.trace.log_ratio, 0, atol=1e-6)
        else:
            stats = result.stats()
            np.testing.assert_array_equal(stats.accepted, stats.drafted)
            # Exactly 0, unless the bonus's own law makes XLA fuse the sums otherwise.
            atol = 0 if exact else 1e-6
            np.testing.assert_allclose(result.trace.log_ratio, 0, atol=atol)

    limits()


def no_draft(round_, noise, target, draft):
    """Plain sampling: nothing is accepted, the token comes from the target."""
    return Expected((), target(round_.text), 0, 0.0, False, math.inf)


@pytest.mark.slow
@pytest.mark.parametrize(("top_k", "controls"), [(0, ("penalty", "banned", "min_new")), (3, ())])
def test_sampling_draws_from_the_target(top_k, controls):
    tally: Counter = Counter()

    @SETTINGS
    @given(st.data())
    def every_round(data):
        case = Case.draw(data.draw, 6, top_k, controls)
        check_rounds(case, recipes.sample(), no_draft, None, tally)

    every_round()
    assert tally["bonus"] > 0.9 * tally["all"], tally
