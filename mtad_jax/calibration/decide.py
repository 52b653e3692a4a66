"""Whether a rule is fast enough and its text good enough: intervals and the floor of quality."""

import dataclasses
from collections.abc import Callable, Hashable, Sequence

import numpy as np

from mtad_jax.calibration.meter import Decoded

_RESAMPLES = 2000
LOSSLESS = "lossless"
ONE_GROUP = "one batch of prompts gives no interval"
"""Why nothing may be chosen where there is one batch of prompts only."""

Floor = str | float | None
"""The least quality: "lossless"; the highest perplexity allowed, as a multiple of plain sampling's,
at least 1; or None: any."""


@dataclasses.dataclass(frozen=True)
class Interval:
    """A measured value with its 95 % interval; without ends where one group or prompt was seen."""

    value: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        if self.low is None:
            return f"{self.value:.2f} (no interval)"
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


def speed_ratio(
    rule: Sequence[Decoded], plain: Sequence[Decoded], groups: Sequence[int]
) -> Interval:
    """Return the rule's tokens per second over plain decoding's on the same groups of prompts.

    All tokens over all seconds, on either side; the interval resamples the groups, in pairs, each
    with all of its draws.

    Args:
      rule, plain: each draw of a group, by either.
      groups: which group was drawn.
    """
    counts = [[r.tokens, r.seconds, p.tokens, p.seconds] for r, p in _pairs(rule, plain)]

    def ratio(rows):  # [..., groups, 4]
        sums = rows.sum(axis=-2)
        return sums[..., 0] / sums[..., 1] / (sums[..., 2] / sums[..., 3])

    return _interval(_added(counts, groups), ratio)


def perplexity_ratio(
    rule: Sequence[Decoded], plain: Sequence[Decoded], groups: Sequence[int]
) -> Interval:
    """Return the rule's perplexity under the un-warped target over plain decoding's.

    exp(-mean over texts of a text's mean log p_raw) on either side; the interval resamples the
    prompts, each with all of its texts by both.

    Args:
      rule, plain, groups: as `speed_ratio`.
    """
    gaps, prompts = [], []
    for r, p, group in zip(rule, plain, groups, strict=True):
        for row, (a, b) in enumerate(zip(r.logp_raw, p.logp_raw, strict=True)):
            gaps.append([a - b, 1])
            prompts.append((group, row))

    def ratio(rows):  # [..., prompts, 2]
        sums = rows.sum(axis=-2)
        return np.exp(-sums[..., 0] / sums[..., 1])

    return _interval(_added(gaps, prompts), ratio)


def _pairs(rule: Sequence[Decoded], plain: Sequence[Decoded]) -> list[tuple[Decoded, Decoded]]:
    return list(zip(rule, plain, strict=True))


def _added(rows: Sequence[Sequence[float]], owners: Sequence[Hashable]) -> np.ndarray:
    """Return the sums of each owner's rows, [owners, columns].

    Draws of one prompt are alike, and at temperature 0 the same: taken for independent they would
    narrow an interval that is about prompts.
    """
    sums: dict[Hashable, np.ndarray] = {}
    for row, owner in zip(rows, owners, strict=True):
        sums[owner] = sums.get(owner, 0.0) + np.array(row, float)
    return np.array(list(sums.values()))


def _interval(rows: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]) -> Interval:
    """Return a statistic of the rows with its 95 % bootstrap interval; the same at every call.

    One row says nothing of how rows differ: then there is no interval.
    """
    if len(rows) == 1:
        return Interval(float(statistic(rows)), None, None)
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
    if speed.low is None or quality.high is None:  # more than one group has more than one prompt
        return ONE_GROUP
    if not exact and floor is not None and quality.high > float(floor):
        return f"perplexity may be {quality.high:.2f} of plain's, above {float(floor):g}"
    if speed.low < 1 + margin:
        return f"speed may be {speed.low:.2f} of plain's, below {1 + margin:g}"
    return None
