"""What a calibration found."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from mtad_jax.calibration.candidates import Candidate, shown
from mtad_jax.calibration.decide import ONE_GROUP, Floor, Interval
from mtad_jax.decode.protocols import Strategy

OUT_OF_TIME = "out of time"
"""How the verdict on a rule begins that the budget of seconds left no time for."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A candidate's line of the table.

    Attributes:
      candidate: the rule.
      predicted: its predicted tokens per second over plain decoding's; None: not predicted.
      speed: the measured ones; None: not timed.
      quality: its measured perplexity over plain decoding's; None: not measured.
      verdict: "chosen", or why not.
    """

    candidate: Candidate
    predicted: float | None
    speed: Interval | None
    quality: Interval | None
    verdict: str


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Which rule to decode with, and everything that was measured on the way.

    Attributes:
      choice: the rule.
      name: of its recipe: "sample" is plain decoding.
      settings: its recipe's keyword arguments.
      speed: its tokens per second over plain decoding's, of a run after it was chosen; exactly 1
        for plain decoding itself.
      quality: its perplexity over plain decoding's, of the same run.
      plain_tokens_per_second: of plain decoding, on all rows of a batch together.
      rows: all candidates, in the order given.
      floor: of quality, as asked for.
      margin: gain in speed that was asked for.
      programs: how many were compiled for decoding and timing.
      seconds: that it all took.
    """

    choice: Strategy
    name: str
    settings: Mapping[str, Any]
    speed: Interval
    quality: Interval
    plain_tokens_per_second: float
    rows: tuple[Row, ...]
    floor: Floor
    margin: float
    programs: int
    seconds: float

    def __str__(self) -> str:
        width = max((len(row.candidate.label) for row in self.rows), default=4) + 2
        head = f"{'rule':<{width}}{'predicted':>10}  {'measured':<22}{'perplexity':<22}verdict"
        lines = [head, "-" * len(head)]
        for row in self.rows:
            predicted = "-" if row.predicted is None else f"{row.predicted:.2f}"
            speed, quality = (str(x) if x else "-" for x in (row.speed, row.quality))
            label = row.candidate.label
            lines.append(f"{label:<{width}}{predicted:>10}  {speed:<22}{quality:<22}{row.verdict}")
        return "\n".join([*lines, "", *self._summary()])

    def _summary(self) -> list[str]:
        chosen = " ".join([self.name, *(f"{k}={shown(v)}" for k, v in self.settings.items())])
        measured = any(row.speed for row in self.rows)
        if not measured and any(row.verdict.startswith(OUT_OF_TIME) for row in self.rows):
            gain = "plain decoding: no other rule was measured in the budget of seconds: raise it"
        elif any(row.verdict == ONE_GROUP for row in self.rows):
            gain = (
                f"plain decoding: {ONE_GROUP}, so nothing was shown to beat it: give more prompts "
                "or smaller batches"
            )
        elif self.name == "sample":
            gain = "plain decoding: nothing was shown to beat it by the margin"
        else:
            gain = f"{self.speed} x plain, perplexity {self.quality} x plain"
        return [
            "predicted, measured: tokens/s over plain decoding's; perplexity: under the un-warped",
            "target, over plain decoding's; in brackets 95 % intervals.",
            f"choice: {chosen}: {gain}",
            f"floor {self.floor}, margin {self.margin:.0%}, plain decoding "
            f"{self.plain_tokens_per_second:.0f} tokens/s, {self.programs} programs, "
            f"{self.seconds:.0f} s",
        ]
