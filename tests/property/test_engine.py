"""The engine's rounds against the NumPy reference, on tables that hash the whole context."""

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
import reference as ref
import replay
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtad_jax import recipes
from mtad_jax.decode.generate import generate
from mtad_jax.testing import table_lm
from mtad_jax.warp import Warp

SETTINGS = settings(
    max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
ROWS, BATCH, LIMIT = 31, 5, 12  # of the table, of a call, and new tokens of a row


@dataclass(frozen=True)
class Case:
    """Two tables, how they are warped, prompts, a threshold and end tokens."""

    tables: np.ndarray
    warp: Warp
    tau: float
    ends: list[int]
    seed: int
    prompts: np.ndarray
    lengths: np.ndarray

    @classmethod
    def draw(cls, draw, vocab: int, top_k: int) -> "Case":
        seed = draw(st.integers(0, 2**31 - 1))
        rng = np.random.default_rng(seed)
        target = rng.normal(scale=draw(st.sampled_from([1.5, 1.0, 2.0])), size=(ROWS, vocab))
        change = draw(st.sampled_from([1.0, 0.5, 1.5, 0.7, 0.0])) * rng.normal(size=target.shape)
        tables = np.stack([target, target + change]).astype(np.float32)
        temperature = draw(st.sampled_from([1.0, 1.5, 0.7, 1.2, 0.0]))
        warp = Warp(temperature, draw(st.sampled_from([1.0, 0.9, 0.97, 0.6, 0.0])), top_k)
        # From 0.05 to 1.5.
        tau = math.exp(draw(st.integers(-60, 8)) / 20 + 0.01)  # never exactly 1
        ends = draw(st.lists(st.integers(0, vocab - 1), min_size=2, max_size=2))
        tables[:, :, ends] -= draw(st.sampled_from([2.0, 1.0, 4.0]))  # or few rounds would be run
        prompts, lengths = rng.integers(0, vocab, (BATCH, 6)), rng.integers(1, 7, BATCH)
        return cls(tables, warp, tau, ends, seed, prompts, lengths)

    def laws(self) -> list[replay.WatchedLaw]:
        return [replay.WatchedLaw(ref.TableModel(t.astype(float)), self.warp) for t in self.tables]

    def decode(self, strategy) -> list[replay.Round]:
        target, draft = (table_lm(table) for table in self.tables)
        result = generate(
            target, self.prompts, self.lengths, strategy=strategy, draft=draft, warp=self.warp,
            max_new_tokens=LIMIT, eos_id=self.ends, seed=self.seed,
        )  # fmt: skip
        return replay.rounds_of(result, self.prompts, self.lengths, LIMIT)


def check_rounds(case: Case, strategy, expected, noise, tally: Counter) -> None:
    """Replay all rounds; `expected(round, noise, target, draft)` judges one.

    It returns its accepted text, the candidate's length, the law of the bonus (None: none) and
    how near a decision came to its edge.
    """
    rounds, most = case.decode(strategy), BATCH * LIMIT
    drawn = [None] * len(rounds) if noise is None else replay.noise_of(
        case.seed, rounds, noise, most
    )  # fmt: skip
    with_bonus = []
    target, draft = case.laws()
    for round_, its_noise in zip(rounds, drawn, strict=True):
        tally["all"] += 1
        replay.check_trace(round_, target)
        target.gap = draft.gap = math.inf
        accepted, candidate, bonus, gap = expected(round_, its_noise, target, draft)
        if min(gap, target.gap, draft.gap) < replay.EDGE:
            continue
        tally["checked"] += 1
        tally[f"accepted {len(accepted)}"] += 1
        tally["ended"] += bonus is None
        replay.check_committed(round_, accepted, candidate, bonus is not None)
        if round_.bonus is not None:
            with_bonus.append((round_, bonus))
    if with_bonus:
        tally["bonus"] += replay.check_bonus(case.seed, *zip(*with_bonus, strict=True), most)


def joint_rule(case: Case, depth: int, width: int, draw: str, many: bool, tally: Counter):
    """What MTAD (`many`: MMTAD) does in a round, by the reference; its bounds on the way."""
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
        return verdict.tokens, len(lattice.star_tokens), verdict.bonus, gap

    return expected


SHAPES = [  # depth, width, vocabulary, top-k, draw
    (3, 3, 8, 0, "search"),
    (3, 2, 7, 4, "sample"),
    (1, 5, 5, 0, "sample"),
    (4, 3, 6, 4, "search"),
]


@pytest.mark.parametrize("many", [False, True], ids=["mtad", "mmtad"])
@pytest.mark.parametrize(("depth", "width", "vocab", "top_k", "draw"), SHAPES)
def test_joint_rules_round_by_round(depth, width, vocab, top_k, draw, many):
    tally: Counter = Counter()
    recipe = recipes.mmtad if many else recipes.mtad
    noise = replay.beam_noise(depth, width, vocab) if draw == "sample" else None

    @SETTINGS
    @given(st.data())
    def every_round(data):
        case = Case.draw(data.draw, vocab, top_k)
        strategy = recipe(depth, width, case.tau, draw)
        expected = joint_rule(case, depth, width, draw, many, tally)
        check_rounds(case, strategy, expected, noise, tally)

    every_round()
    check_tally(tally, depth)
    if depth > 1:
        assert tally["not the first place" if many else "a shorter one failed"], tally


def check_tally(tally: Counter, depth: int) -> None:
    """Enough rounds were away from every edge, and all kinds of them came up."""
    assert tally["checked"] > 0.9 * tally["all"], tally
    assert tally["bonus"] > 0.3 * tally["checked"], tally
    assert tally["ended"] and all(tally[f"accepted {j}"] for j in range(depth + 1)), tally


def rejection_rule(case: Case, depth: int):
    """What speculative sampling does in a round, by the reference, given the engine's draws."""
    ends = frozenset(case.ends)

    def expected(round_, noise, target, draft):
        (gumbel, uniforms), chain, gap = noise, (), math.inf
        for step in range(depth):
            scores = draft(round_.text + chain) + gumbel[step]
            best = np.sort(scores)[::-1]
            gap = min(gap, best[0] - best[1])
            chain += (int(ref.argmax(scores)),)
            if chain[-1] in ends:
                break
        accepted, follow = ref.speculative_round(
            target, draft, round_.text, chain, uniforms.astype(float), ends
        )
        for i, token in enumerate(chain[: len(accepted) + 1]):
            text = round_.text + chain[:i]
            if target(text)[token] > -np.inf:
                ratio = target(text)[token] - draft(text)[token]
                gap = min(gap, abs(math.log(max(uniforms[i], 1e-30)) - ratio))
        return accepted, len(chain), follow, gap

    return expected


@pytest.mark.parametrize(("depth", "vocab", "top_k"), [(3, 8, 0), (1, 5, 3), (4, 7, 5)])
def test_speculative_sampling_round_by_round(depth, vocab, top_k):
    tally: Counter = Counter()

    @SETTINGS
    @given(st.data())
    def every_round(data):
        case = Case.draw(data.draw, vocab, top_k)
        expected, noise = rejection_rule(case, depth), replay.chain_noise(depth, vocab)
        check_rounds(case, recipes.speculative(depth), expected, noise, tally)

    every_round()
    check_tally(tally, depth)


def no_draft(round_, noise, target, draft):
    """Plain sampling: nothing is accepted, the token comes from the target."""
    return (), 0, target(round_.text), math.inf


@pytest.mark.parametrize("top_k", [0, 3])
def test_sampling_draws_from_the_target(top_k):
    tally: Counter = Counter()

    @SETTINGS
    @given(st.data())
    def every_round(data):
        check_rounds(Case.draw(data.draw, 6, top_k), recipes.sample(), no_draft, None, tally)

    every_round()
    assert tally["bonus"] > 0.9 * tally["all"], tally
