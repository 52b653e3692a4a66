"""Tokens per second of rules that were not run, from model costs and one probe a family."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from mtad_jax.calibration.calls import Calls
from mtad_jax.calibration.meter import Decoded, Meter

_POINTS = 5  # sizes of a call that are timed; those between are interpolated


@dataclasses.dataclass(frozen=True)
class Probe:
    """The deepest rule of a family, as it was run.

    Attributes:
      calls: of one of its rounds.
      decoded: its groups of prompts.
    """

    calls: Calls
    decoded: Sequence[Decoded]

    @property
    def round_seconds(self) -> float:
        """Seconds of a round, of the group whose rounds were fastest: noise only ever adds."""
        return min(d.seconds / d.rounds for d in self.decoded)

    def tokens_a_round(self, depth: int) -> float:
        """Return a row's tokens a round at a lower depth: the bonus, and what was accepted there.

        The share of rounds that accept i tokens is taken to be the same at every depth.
        """
        accepted = np.sum([d.accepted_at for d in self.decoded], axis=0)[:depth]
        return 1 + float(np.sum(accepted)) / sum(d.row_rounds for d in self.decoded)


def call_costs(meter: Meter, every: Sequence[Calls]) -> Callable[[Calls], float]:
    """Time each model's calls at a few sizes; return the seconds of a round's calls."""
    tables = {}
    for model in ("target", "draft"):
        sizes = sorted({n for calls in every for n in getattr(calls, model)})
        if not sizes:  # there may be no draft model
            continue
        if len(sizes) > _POINTS:
            ranks = np.linspace(0, len(sizes) - 1, _POINTS).round().astype(int)
            sizes = [sizes[i] for i in ranks]
        times = meter.call_seconds(model, sizes)
        # A call takes no longer than a larger one: what seems to is noise.
        tables[model] = sizes, np.minimum.accumulate(times[::-1])[::-1]

    def cost(calls: Calls) -> float:
        return float(sum(np.interp(n, *tables[m]) for m in tables for n in getattr(calls, m)))

    return cost


def predicted_ratio(
    calls: Calls, depth: int, probe: Probe, plain: Probe, cost: Callable[[Calls], float]
) -> float:
    """Return a rule's predicted tokens per second over plain decoding's.

    `probe` and `plain` were run side by side. A round is taken to be longer or shorter than the
    probe's as its model calls are: so it does not matter that these were timed at another time,
    when the machine may have been faster or slower.
    """
    seconds = probe.round_seconds * cost(calls) / cost(probe.calls)
    return probe.tokens_a_round(depth) / seconds * plain.round_seconds
