"""Drawn cases for replays: models, settings and prompts, and the check of all their rounds."""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import reference as ref
import replay
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from mtad_jax.decode.engine import generate
from mtad_jax.decode.result import DecodeResult
from mtad_jax.decode.state import DEPTH, END, LENGTH, REJECTED
from mtad_jax.decode.warp import Warp
from mtad_jax.testing import table_lm

SETTINGS = settings(
    max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
ROWS, BATCH, LIMIT = 31, 5, 12  # of the table, of a call, and new tokens of a row
ALL_CONTROLS = ("penalty", "banned", "min_new")


@dataclass(frozen=True)
class Case:
    """Two tables, how they are warped and controlled, prompts, a threshold and end tokens."""

    tables: np.ndarray
    warp: Warp
    draft_warp: Warp
    tau: float
    ends: list[int]
    seed: int
    prompts: np.ndarray
    lengths: np.ndarray
    controls: dict = field(default_factory=dict)  # as `generate` takes them

    @classmethod
    def draw(
        cls,
        draw,
        vocab: int,
        top_k: int = 0,
        controls: tuple[str, ...] = (),
        apart: bool = False,
        shortest: int = 1,
    ) -> "Case":
        """`controls`: which of ALL_CONTROLS are set. `apart`: the draft has a warp of its own.

        `shortest`: fewest tokens of a prompt.
        """
        seed = draw(st.integers(0, 2**31 - 1))
        rng = np.random.default_rng(seed)
        target = rng.normal(scale=draw(st.sampled_from([1.5, 1.0, 2.0])), size=(ROWS, vocab))
        change = draw(st.sampled_from([1.0, 0.5, 1.5, 0.7, 0.0])) * rng.normal(size=target.shape)
        tables = np.stack([target, target + change]).astype(np.float32)
        warp = draw_warp(draw, top_k, apart)
        # From 0.05 to 1.5.
        tau = math.exp(draw(st.integers(-60, 8)) / 20 + 0.01)  # never exactly 1
        ends = draw(st.lists(st.integers(0, vocab - 1), min_size=2, max_size=2))
        tables[:, :, ends] -= draw(st.sampled_from([2.0, 1.0, 4.0]))  # or few rounds would be run
        prompts, lengths = rng.integers(0, vocab, (BATCH, 6)), rng.integers(shortest, 7, BATCH)
        chosen = {
            "penalty": lambda: {"repetition_penalty": draw(st.sampled_from([1.3, 0.8, 2.0, 1.0]))},
            "banned": lambda: {"banned_ids": [draw(st.integers(0, vocab - 1))]},
            "min_new": lambda: {"min_new_tokens": draw(st.integers(1, 5))},
        }
        given = {name: value for c in controls for name, value in chosen[c]().items()}
        own = draw_warp(draw, top_k, apart) if apart else warp
        return cls(tables, warp, own, tau, ends, seed, prompts, lengths, given)

    def laws(self, row: int) -> list[replay.WatchedLaw]:
        """Target and draft as the row sees them."""
        return self._laws(row, (self.warp, self.draft_warp))

    def target_at(self, row: int, temperature: float) -> replay.WatchedLaw:
        """The target as the row sees it, at another temperature."""
        return self._laws(row, (dataclasses.replace(self.warp, temperature=temperature),))[0]

    def _laws(self, row: int, warps: tuple[Warp, ...]) -> list[replay.WatchedLaw]:
        return [
            replay.WatchedLaw(
                ref.ControlledLaw(
                    ref.TableModel(table.astype(float)),
                    float(warp.temperature),
                    warp.top_k,
                    float(warp.top_p),
                    float(warp.min_p),
                    self.controls.get("repetition_penalty", 1.0),
                    frozenset(self.controls.get("banned_ids", ())),
                    frozenset(self.ends),
                    int(self.lengths[row]) + self.controls.get("min_new_tokens", 0),
                )
            )
            for table, warp in zip(self.tables, warps, strict=False)
        ]

    def but(self, **changes) -> "Case":
        """The same case with some fields changed."""
        return dataclasses.replace(self, **changes)

    def prompt(self, row: int) -> ref.Text:
        return tuple(self.prompts[row][: self.lengths[row]].tolist())

    def decode(self, strategy) -> DecodeResult:
        target, draft = (table_lm(table) for table in self.tables)
        own = self.draft_warp if strategy.needs_draft else None
        return generate(
            target, self.prompts, self.lengths, strategy=strategy, draft=draft, warp=self.warp,
            draft_warp=own, max_new_tokens=LIMIT, eos_id=self.ends, seed=self.seed,
            **self.controls,
        )  # fmt: skip

    def rounds(self, strategy) -> list[replay.Round]:
        return replay.rounds_of(self.decode(strategy), self.prompts, self.lengths, LIMIT)


def draw_warp(draw, top_k: int, with_min_p: bool) -> Warp:
    temperature = draw(st.sampled_from([1.0, 1.5, 0.7, 1.2, 0.0]))
    min_p = draw(st.sampled_from([0.0, 0.05, 0.2])) if with_min_p else 0.0
    return Warp(temperature, draw(st.sampled_from([1.0, 0.9, 0.97, 0.6, 0.0])), top_k, min_p=min_p)


@dataclass(frozen=True)
class Expected:
    """What the reference says of a round.

    accepted, follow: tokens, and the law of the next (None after an end). candidate: tokens of x*.
    log_q: reference of what was accepted. rejected: some deeper level was drafted, not accepted.
    gap: how near a decision came to its edge.
    """

    accepted: ref.Text
    follow: np.ndarray | None
    candidate: int
    log_q: float
    rejected: bool
    gap: float


Judge = Callable[[replay.Round, object, replay.WatchedLaw, replay.WatchedLaw], Expected]


def check_rounds(case: Case, strategy, expected: Judge, noise, tally: Counter) -> None:
    """Replay all rounds; `expected(round, noise, target, draft)` judges one."""
    rounds, most = case.rounds(strategy), BATCH * LIMIT
    drawn = [None] * len(rounds) if noise is None else replay.noise_of(
        case.seed, rounds, noise, most
    )  # fmt: skip
    with_bonus, ends = [], frozenset(case.ends)
    laws = {row: case.laws(row) for row in range(BATCH)}
    for round_, its_noise in zip(rounds, drawn, strict=True):
        target, draft = laws[round_.row]
        tally["all"] += 1
        target.gap = draft.gap = math.inf
        replay.check_trace(round_, target)
        want = expected(round_, its_noise, target, draft)
        if min(want.gap, target.gap, draft.gap) < replay.EDGE:
            continue
        tally["checked"] += 1
        tally[f"accepted {len(want.accepted)}"] += 1
        tally["ended"] += want.follow is None
        replay.check_committed(round_, want.accepted, want.candidate, want.follow is not None)
        tally[f"ending {replay.check_ending(round_, ends, want.rejected)}"] += 1
        log_ratio = sum_of(target, round_.text, want.accepted) - want.log_q
        np.testing.assert_allclose(round_.log_ratio, log_ratio, atol=1e-4, err_msg=str(round_))
        if round_.bonus is not None:
            with_bonus.append((round_, want.follow))
    if with_bonus:
        tally["bonus"] += replay.check_bonus(case.seed, *zip(*with_bonus, strict=True), most)


def check_tally(tally: Counter, depth: int) -> None:
    """Enough rounds were away from every edge, and all kinds of them came up."""
    assert tally["checked"] > 0.9 * tally["all"], tally
    assert tally["bonus"] > 0.3 * tally["checked"], tally
    assert tally["ended"] and all(tally[f"accepted {j}"] for j in range(depth + 1)), tally
    assert all(tally[f"ending {e}"] for e in (REJECTED, DEPTH, END, LENGTH)), tally


def sum_of(law: ref.Law, text: ref.Text, tokens: ref.Text) -> float:
    """log of the joint of `tokens` after `text`."""
    return float(sum(law(text + tokens[:i])[token] for i, token in enumerate(tokens)))


def of_chain(draft: ref.Law, text: ref.Text, chain: ref.Text, accepted, follow, gap) -> Expected:
    """What a rule over a chain comes to; its reference is the chain's own log q."""
    log_q, rejected = sum_of(draft, text, accepted), len(accepted) < len(chain)
    return Expected(accepted, follow, len(chain), log_q, rejected, gap)


def of_tree(draft: ref.Law, text: ref.Text, tree: ref.Tree, accepted, follow, gap) -> Expected:
    """What a rule over a drawn tree comes to; each node's reference is its own log q."""
    deepest = max((depth for depth, _ in ref.places_of_tree(tree)), default=0)
    log_q, rejected = sum_of(draft, text, accepted), len(accepted) < deepest
    return Expected(accepted, follow, len(tree.first_chain), log_q, rejected, gap)


def given_chain(noise) -> ref.Given:
    """The chance of a chain draft and of its tests."""
    gumbel, uniforms = noise
    return ref.Given(uniforms, dict(enumerate(gumbel)))


def given_tree(noise) -> ref.Given:
    """The chance of a tree draft and of its tests."""
    levels, uniforms = noise
    by_node = {(d, j): rows for d, level in enumerate(levels) for j, rows in enumerate(level)}
    return ref.Given(uniforms, by_node)


def check_greedy_at_zero(case: Case, strategy) -> None:
    """At temperature 0 every row is the target's greedy text, wherever that is clear."""
    result = case.decode(strategy)
    for row, n in enumerate(np.asarray(result.length)):
        target, _ = case.laws(row)
        want = ref.greedy(target, case.prompt(row), max_new_tokens=LIMIT, ends=frozenset(case.ends))
        if target.gap > replay.EDGE:
            assert tuple(np.asarray(result.tokens)[row, :n].tolist()) == want, (case, row)


def check_accepts_itself(case: Case, strategy) -> None:
    """A draft by the target itself is accepted whole."""
    stats = case.decode(strategy).stats()
    np.testing.assert_array_equal(stats.accepted, stats.drafted)


def with_heavy(names, heavy) -> list:
    """The names as pytest's parameters; those in `heavy` are marked so: other sizes of a rule."""
    return [pytest.param(name, marks=pytest.mark.heavy if name in heavy else ()) for name in names]
