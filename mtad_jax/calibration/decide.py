"""Whether a rule is fast enough and its text good enough: intervals and the floor of quality."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from mtad_jax.calibration.meter import Decoded

_RESAMPLES = 2000
LOSSLESS = "lossless"

Floor = str | float | None
"""The least quality: "lossless"; the highest perplexity allowed, as a multiple of plain sampling's,
at least 1; or None: any."""


@dataclasses.dataclass(frozen=True)
class Interval:
    """A measured value with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def check_floor(floor: Floor) -> None:
    """Check a floor of quality.

    Raises:
      ValueError: neither "lossless", nor a number of at least 1, nor None.
    """
    number = isinstance(floor, int | float) and not isinstance(floor, bool)
    if not (floor is None or floor == LOSSLESS or number):
        raise ValueError(
            f"floor={floor!r} must be {LOSSLESS!r}, a number >= 1 (perplexity over plain "
            "sampling's) or None (any)"
        )
    if number and not 1 <= float(floor) < float("inf"):  # type: ignore[arg-type]
        raise ValueError(
            f"floor={floor} must be finite and >= 1, as plain decoding, which is 1 by definition, "
            "must stay allowed: for likelier text lower the temperature or top_p"
        )


def speed_ratio(rule: Sequence[Decoded], plain: Sequence[Decoded]) -> Interval:
    """Return the rule's tokens per second over plain decoding's on the same groups of prompts.

    All tokens over all seconds, on either side; the interval resamples the groups, in pairs.
    """
    counts = np.array([[r.tokens, r.seconds, p.tokens, p.seconds] for r, p in _pairs(rule, plain)])

    def ratio(rows):  # [..., groups, 4]
        sums = rows.sum(axis=-2)
        return sums[..., 0] / sums[..., 1] / (sums[..., 2] / sums[..., 3])

    return _interval(counts, ratio)


def perplexity_ratio(rule: Sequence[Decoded], plain: Sequence[Decoded]) -> Interval:
    """Return the rule's perplexity under the un-warped target over plain decoding's.

    exp(-mean over texts of a text's mean log p_raw) on either side; the interval resamples the
    texts, in pairs that share a prompt.
    """
    gaps = np.array(
        [
            [a - b]
            for r, p in _pairs(rule, plain)
            for a, b in zip(r.logp_raw, p.logp_raw, strict=True)
        ]
    )
    return _interval(gaps, lambda rows: np.exp(-rows[..., 0].mean(axis=-1)))


def _pairs(rule: Sequence[Decoded], plain: Sequence[Decoded]) -> list[tuple[Decoded, Decoded]]:
    return list(zip(rule, plain, strict=True))


def _interval(rows: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]) -> Interval:
    """Return a statistic of the rows with its 95 % bootstrap interval; the same at every call."""
    index = np.random.default_rng(0).integers(0, len(rows), (_RESAMPLES, len(rows)))
    low, high = np.quantile(statistic(rows[index]), [0.025, 0.975])
    return Interval(float(statistic(rows)), float(low), float(high))


def why_not(
    speed: Interval, quality: Interval, *, exact: bool, floor: Floor, margin: float
) -> str | None:
    """Return why a measured rule may not be chosen; None: it may.

    Args:
      speed: tokens per second over plain decoding's; even its lower end must reach 1 + margin.
      quality: perplexity over plain decoding's; even its upper end must be within a floor that is
        a number.
      exact: the text has plain decoding's own law, so that every floor is met.
      floor: of quality.
      margin: gain in speed that is worth the change.
    """
    if not exact and floor == LOSSLESS:
        return "not lossless"
    if not exact and floor is not None and quality.high > float(floor):
        return f"perplexity may be {quality.high:.2f} of plain's, above {float(floor):g}"
    if speed.low < 1 + margin:
        return f"speed may be {speed.low:.2f} of plain's, below {1 + margin:g}"
    return None
