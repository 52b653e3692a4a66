"""How two rules differ on the same prompts, with 95 % intervals of the paired bootstrap.

Prompts are drawn anew with replacement, and both rules keep what they did on each (Koehn, 2004,
"Statistical significance tests for machine translation evaluation"). `mean`, `ratio` and
`perplexity_ratio` take what each prompt, or problem, has as arrays; the others the benchmark's
samples.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from experiments.bench.measure import Sample
from experiments.bench.scores import perplexity_of

RESAMPLES = 10_000
_BLOCK = 1_000  # resamples drawn at once
_MOST_KEPT = 2_000  # prompts whose draws are kept for the next statistic: 20 MB


class Interval(NamedTuple):
    """A value as measured, and its 95 % interval."""

    value: float
    low: float
    high: float


def mean(values: np.ndarray) -> Interval:
    """Return the mean of `values`, [N], one a prompt."""
    return Interval(float(values.mean()), *_middle(_resampled(values)))


def ratio(counts: np.ndarray) -> Interval:
    """Return the ratio of two rates: (sum a / sum b) / (sum c / sum d).

    Args:
      counts: a, b, c and d of each prompt: [N, 4].
    """

    def of(sums: np.ndarray) -> np.ndarray:
        return sums[..., 0] / sums[..., 1] / (sums[..., 2] / sums[..., 3])

    return Interval(float(of(counts.sum(0))), *_middle(of(_resampled(counts))))


def perplexity_ratio(losses: np.ndarray, texts: np.ndarray) -> Interval:
    """Return the ratio of two macro perplexities: exp of the mean loss over texts.

    Args:
      losses: sum over each prompt's texts of the text's mean -log-probability by the one rule, less
        that by the other: [N]. Without the other, the ratio is the perplexity itself.
      texts: how many texts each prompt has: [N].
    """
    value = losses.sum() / texts.sum()
    ends = _middle(_resampled(losses) / _resampled(texts))
    return Interval(*(perplexity_of(-x) for x in (value, *ends)))


def perplexity_change(samples: Sequence[Sample], base: Sequence[Sample]) -> Interval:
    """Return how macro perplexity changes against the base, as a share of it."""
    pairs = _pairs(samples, base)
    losses = np.array([b.logp_raw / b.tokens - a.logp_raw / a.tokens for a, b in pairs])
    return Interval(*(x - 1 for x in perplexity_ratio(losses, np.ones(len(pairs)))))


def right_change(samples: Sequence[Sample], base: Sequence[Sample]) -> Interval | None:
    """Return the difference of the shares of right answers; None where none are judged."""
    pairs = [
        (a.correct, b.correct)
        for a, b in _pairs(samples, base)
        if a.correct is not None and b.correct is not None
    ]
    return mean(np.array([float(a) - float(b) for a, b in pairs])) if pairs else None


def calls_ratio(samples: Sequence[Sample], base: Sequence[Sample]) -> Interval:
    """Return the ratio of the tokens a target call."""
    pairs = _pairs(samples, base)
    return ratio(np.array([(a.tokens, a.rounds, b.tokens, b.rounds) for a, b in pairs], float))


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
    count = len(values)
    blocks = _kept_draws(count) if count <= _MOST_KEPT else _draws(count)
    return np.concatenate([block.astype(np.float64) @ values for block in blocks]) / count


def _middle(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


@functools.lru_cache(maxsize=4)
def _kept_draws(count: int) -> list[np.ndarray]:
    return list(_draws(count))


def _draws(count: int) -> Iterator[np.ndarray]:
    """Yield how often each of `count` prompts is drawn, a block at a time: [_BLOCK, count].

    A byte a count: that one of more than 255 prompts is drawn 256 times has no chance (1e-507).
    """
    rng, law = np.random.default_rng(0), np.full(count, 1 / count)
    for _ in range(RESAMPLES // _BLOCK):
        yield rng.multinomial(count, law, _BLOCK).astype(np.uint8)
