"""How two rules differ on the same prompts, with 95 % intervals of the paired bootstrap.

Prompts are drawn anew with replacement, and both rules keep what they did on each (Koehn, 2004,
"Statistical significance tests for machine translation evaluation").
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments.bench.measure import Sample
from experiments.bench.scores import perplexity_of

RESAMPLES = 10_000


class Interval(NamedTuple):
    """A difference as measured, and its 95 % interval."""

    value: float
    low: float
    high: float


def perplexity_change(samples: Sequence[Sample], base: Sequence[Sample]) -> Interval:
    """Return how macro perplexity changes against the base, as a share of it."""
    pairs = _pairs(samples, base)
    change = np.array([b.logp_raw / b.tokens - a.logp_raw / a.tokens for a, b in pairs])
    means = _resampled(change)
    return Interval(*(perplexity_of(-x) - 1 for x in (change.mean(), *_middle(means))))


def right_change(samples: Sequence[Sample], base: Sequence[Sample]) -> Interval | None:
    """Return the difference of the shares of right answers; None where none are judged."""
    pairs = [
        (a.correct, b.correct)
        for a, b in _pairs(samples, base)
        if a.correct is not None and b.correct is not None
    ]
    if not pairs:
        return None
    change = np.array([float(a) - float(b) for a, b in pairs])
    return Interval(change.mean(), *_middle(_resampled(change)))


def calls_ratio(samples: Sequence[Sample], base: Sequence[Sample]) -> Interval:
    """Return the ratio of the tokens a target call."""
    pairs = _pairs(samples, base)
    counts = np.array([(a.tokens, a.rounds, b.tokens, b.rounds) for a, b in pairs], float)

    def ratio(sums: np.ndarray) -> np.ndarray:
        return sums[..., 0] / sums[..., 1] / (sums[..., 2] / sums[..., 3])

    return Interval(float(ratio(counts.sum(0))), *_middle(ratio(_resampled(counts))))


def _pairs(samples: Sequence[Sample], base: Sequence[Sample]) -> list[tuple[Sample, Sample]]:
    """Return each sample with the base's of the same prompt.

    Raises:
      ValueError: the two do not have the same prompts.
    """
    other = {sample.prompt: sample for sample in base}
    if other.keys() != {sample.prompt for sample in samples}:
        raise ValueError("the two rules were not run on the same prompts")
    return [(sample, other[sample.prompt]) for sample in samples]


def _resampled(values: np.ndarray) -> np.ndarray:
    """Return the means of `values`, [N, ...], in every resample: [RESAMPLES, ...]."""
    return _draws(len(values)) @ values / len(values)


def _middle(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


@functools.lru_cache(maxsize=4)
def _draws(count: int) -> np.ndarray:
    """Return how often each of `count` prompts is drawn: [RESAMPLES, count]."""
    rng = np.random.default_rng(0)
    return rng.multinomial(count, np.full(count, 1 / count), RESAMPLES).astype(np.float64)
