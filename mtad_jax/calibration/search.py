"""One calibration: probe, predict, time the best few, choose, and time the choice once more."""

import dataclasses
from collections.abc import Callable, Sequence

from mtad_jax import recipes
from mtad_jax.calibration.calls import Calls
from mtad_jax.calibration.candidates import Candidate
from mtad_jax.calibration.decide import (
    LOSSLESS,
    Floor,
    Interval,
    perplexity_ratio,
    speed_ratio,
    why_not,
)
from mtad_jax.calibration.meter import Decoded, Meter
from mtad_jax.calibration.predict import Probe, call_costs, predicted_ratio
from mtad_jax.calibration.report import OUT_OF_TIME, Calibration, Row
from mtad_jax.decode.protocols import Strategy

_FINALISTS = 4  # rules that are timed
_PROBES = 4  # groups of prompts that a probe decodes
_UNITS = 8  # groups of prompts that are timed at least; few prompts are drawn several times
_REPEATS, _MOST = 3, 9  # timings of a text; the fastest counts, as noise only ever adds
_PROBING = 0.6  # share of the budget after which no further family is probed
_FRESH = 1000  # first seed of the run after the choice

Progress = Callable[[str], object]
"""Called before each piece of work with what it is."""


@dataclasses.dataclass
class _Entry:
    """What is known of a candidate so far."""

    candidate: Candidate
    exact: bool  # plain decoding's own law, so that every floor is met
    calls: Calls = Calls((), ())
    predicted: float | None = None
    speed: Interval | None = None
    quality: Interval | None = None
    verdict: str = ""

    def row(self) -> Row:
        return Row(self.candidate, self.predicted, self.speed, self.quality, self.verdict)


class Search:
    """One calibration; `calibrate` says what its arguments are."""

    def __init__(
        self,
        meter: Meter,
        candidates: tuple[Candidate, ...],
        floor: Floor,
        margin: float,
        budget_s: float,
        greedy: bool,
        progress: Progress,
    ):
        self._meter, self._floor, self._margin, self._say = meter, floor, margin, progress
        self._begin = meter.clock()
        self._budget = budget_s
        self._plain = recipes.sample()
        self._entries = [
            _Entry(c, c.greedy_at_zero if greedy else c.strategy.lossless) for c in candidates
        ]
        passes = -(-_UNITS // meter.groups)
        self._units = [(group, seed) for seed in range(passes) for group in range(meter.groups)]

    def find(self) -> Calibration:
        """Do everything in order."""
        self._meter.check(self._plain)  # what is wrong for plain decoding is wrong for all
        for entry in self._entries:
            entry.verdict = self._refusal(entry)
        open_ = [entry for entry in self._entries if not entry.verdict]
        self._say("compiling plain decoding")
        self._meter.compile(self._plain)
        self._predict(open_)
        finalists = self._finalists([entry for entry in open_ if entry.predicted is not None])
        finalists, base = self._time(finalists)
        chosen = self._choose(finalists)
        return self._report(chosen, base)

    def _refusal(self, entry: _Entry) -> str:
        """Return why a candidate is out before anything is measured; empty: it is not."""
        if self._floor == LOSSLESS and not entry.exact:
            return "not lossless"
        try:
            self._meter.check(entry.candidate.strategy)
        except ValueError as error:
            return f"refused: {error}"
        entry.calls = self._meter.calls(entry.candidate.strategy)
        return ""

    def _predict(self, entries: list[_Entry]) -> None:
        """Run the deepest of each family, and predict all of the family's speeds."""
        if not entries:
            return
        self._say("timing model calls")
        cost = call_costs(self._meter, [entry.calls for entry in entries])
        for family in dict.fromkeys(entry.candidate.family for entry in entries):
            members = [entry for entry in entries if entry.candidate.family == family]
            deepest = max(members, key=lambda entry: entry.candidate.strategy.depth)
            if self._late(_PROBING):
                for entry in members:
                    entry.verdict = f"{OUT_OF_TIME} before its family's probe"
                continue
            self._say(f"probing {deepest.candidate.label}")
            strategy = deepest.candidate.strategy
            self._meter.compile(strategy)
            base, decoded = self._decode([self._plain, strategy], units=_PROBES)
            probe, plain = Probe(deepest.calls, decoded), Probe(Calls((1,), ()), base)
            for entry in members:
                depth = entry.candidate.strategy.depth
                entry.predicted = predicted_ratio(entry.calls, depth, probe, plain, cost)

    def _finalists(self, entries: list[_Entry]) -> list[_Entry]:
        """Return the best by prediction, one that meets every floor among them if there is one."""
        ranked = sorted(entries, key=lambda entry: -(entry.predicted or 0.0))
        best = ranked[:_FINALISTS]
        exact = [entry for entry in ranked if entry.exact][:1]
        if exact and not any(entry.exact for entry in best):
            best = best[:-1] + exact
        for entry in ranked:
            if entry not in best:
                entry.verdict = "predicted to be slower than those timed"
        return best

    def _time(self, finalists: list[_Entry]) -> tuple[list[_Entry], list[Decoded]]:
        """Time the finalists against plain decoding; return those timed, and plain's groups."""
        timed = []
        for entry in finalists:
            if self._late():
                entry.verdict = f"{OUT_OF_TIME} before it was timed"
                continue
            self._say(f"compiling {entry.candidate.label}")
            self._meter.compile(entry.candidate.strategy)
            timed.append(entry)
        base, *groups = self._decode(
            [self._plain, *(e.candidate.strategy for e in timed)], most=_MOST
        )
        for entry, decoded in zip(timed, groups, strict=True):
            self._compare(entry, decoded, base)
            entry.verdict = self._why_not(entry) or "slower than the choice"
        return timed, base

    def _choose(self, timed: list[_Entry]) -> _Entry | None:
        """Return the fastest that may be chosen and holds on fresh draws; None: plain decoding."""
        able = [entry for entry in timed if self._why_not(entry) is None]
        for entry in sorted(able, key=lambda e: -e.speed.value if e.speed else 0.0):
            self._say(f"confirming {entry.candidate.label}")
            base, decoded = self._decode(
                [self._plain, entry.candidate.strategy], seed=_FRESH, most=_MOST
            )
            self._compare(entry, decoded, base)
            reason = self._why_not(entry)
            if reason is None:
                entry.verdict = "chosen"
                return entry
            entry.verdict = f"on fresh draws {reason}"
        return None

    def _compare(self, entry: _Entry, decoded: Sequence[Decoded], base: Sequence[Decoded]) -> None:
        """Note a rule's speed and quality over plain decoding's."""
        groups = self._groups(base)
        entry.speed = speed_ratio(decoded, base, groups)
        entry.quality = perplexity_ratio(decoded, base, groups)

    def _groups(self, decoded: Sequence[Decoded]) -> list[int]:
        """Return the group of each unit that was decoded; the budget may have left out the last."""
        return [group for group, _ in self._units[: len(decoded)]]

    def _why_not(self, entry: _Entry) -> str | None:
        assert entry.speed is not None and entry.quality is not None
        return why_not(
            entry.speed, entry.quality, exact=entry.exact, floor=self._floor, margin=self._margin
        )

    def _decode(
        self,
        strategies: Sequence[Strategy],
        *,
        units: int | None = None,
        seed: int = 0,
        most: int = _REPEATS,
    ) -> list[list[Decoded]]:
        """Decode the same groups of prompts with every rule, interleaved.

        Interleaved, so that a machine that slows down for a while slows all rules down. All is run
        again, up to `most` times, while noise leaves open which rules are fast enough. The budget
        does not cut short the first pass: too few groups would feign certainty.
        """
        best: list[list[Decoded]] = [[] for _ in strategies]
        for repeat in range(most):
            if repeat >= _REPEATS and self._settled(best):
                break
            for unit, (group, own) in enumerate(self._units[:units]):
                if self._late() and (repeat or unit >= _UNITS):
                    return best
                for i, strategy in enumerate(strategies):
                    decoded = self._meter.decode(strategy, group, seed + own)
                    if repeat == 0:
                        best[i].append(decoded)
                    elif decoded.seconds < best[i][unit].seconds:
                        best[i][unit] = decoded
        return best

    def _settled(self, decoded: Sequence[Sequence[Decoded]]) -> bool:
        """Return whether every rule is beyond noise faster than asked for, or slower.

        What has no interval is not settled by timing it again, and left at that.
        """
        groups = self._groups(decoded[0])
        speeds = [speed_ratio(rule, decoded[0], groups) for rule in decoded[1:]]
        return not any(
            speed.low is not None and speed.high is not None
            and speed.low < 1 + self._margin <= speed.high
            for speed in speeds
        )  # fmt: skip

    def _late(self, share: float = 1.0) -> bool:
        return self._meter.clock() > self._begin + share * self._budget

    def _report(self, chosen: _Entry | None, base: Sequence[Decoded]) -> Calibration:
        one = Interval(1.0, 1.0, 1.0)
        speed, quality = (one, one) if chosen is None else (chosen.speed, chosen.quality)
        assert speed is not None and quality is not None
        return Calibration(
            choice=self._plain if chosen is None else chosen.candidate.strategy,
            name="sample" if chosen is None else chosen.candidate.name,
            settings={} if chosen is None else dict(chosen.candidate.settings),
            speed=speed,
            quality=quality,
            plain_tokens_per_second=sum(d.tokens for d in base) / sum(d.seconds for d in base),
            rows=tuple(entry.row() for entry in self._entries),
            floor=self._floor,
            margin=self._margin,
            programs=self._meter.programs,
            seconds=self._meter.clock() - self._begin,
        )
