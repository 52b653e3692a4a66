"""Logits to warped log-probabilities (algorithms: Notation, Warp)."""

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

Text = tuple[int, ...]
Law = Callable[[Text], np.ndarray]  # text -> warped log-probabilities [V]
Outcomes = dict[Text, float]  # what one round commits -> its probability


def _log(probs: np.ndarray) -> np.ndarray:
    """Natural logs; log 0 = -inf without a warning."""
    safe = np.where(probs > 0, probs, 1)
    return np.where(probs > 0, np.log(safe), -np.inf).astype(probs.dtype)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    """Renormalised log-probabilities; -inf stays -inf."""
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def _falling(values: np.ndarray) -> list[int]:
    """Indices by falling value, ties by the lowest index."""
    return sorted(range(len(values)), key=lambda i: (-values[i], i))


def argmax(values: np.ndarray) -> int:
    """The lowest index of the largest value (algorithms: Warp, ties)."""
    return _falling(values)[0]


def _keep_only(logits: np.ndarray, kept: Iterable[int]) -> np.ndarray:
    """`logits` with -inf wherever the id was not kept."""
    mask = np.zeros(len(logits), dtype=bool)
    mask[list(kept)] = True
    return np.where(mask, logits, -np.inf).astype(logits.dtype)


def _nucleus(probs: np.ndarray, order: list[int], top_p: float) -> tuple[list[int], float]:
    """The ids that top-p keeps, and the smallest |mass before a token - top_p| on the way.

    Algorithms, Warp: keep a token iff the mass before it is < top_p, the first one always.
    """
    kept, gap, before = order[:1], math.inf, probs[order[0]]
    for token in order[1:]:
        gap = min(gap, abs(float(before) - top_p))
        if before < top_p:
            kept.append(token)
        before = before + probs[token]
    return kept, gap


def _scaled(logits, temperature: float, vocab_size: int | None, dtype) -> np.ndarray:
    """Logits over the temperature; ids past the vocabulary are -inf."""
    values = np.array(logits, dtype=dtype)
    if vocab_size is not None:
        values[vocab_size:] = -np.inf
    return values if temperature == 0 else values / values.dtype.type(temperature)


def warp(
    logits: Sequence[float] | np.ndarray,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    *,
    min_p: float = 0.0,
    vocab_size: int | None = None,
    dtype: type = np.float64,
) -> np.ndarray:
    """Logits `[V]` -> log-probabilities `[V]` (algorithms: Notation, Warp; in that order).

    Last, min-p: tokens with less than `min_p` times the largest probability are cut.
    """
    scaled = _scaled(logits, temperature, vocab_size, dtype)
    if temperature == 0:
        return np.where(np.arange(len(scaled)) == argmax(scaled), 0.0, -np.inf).astype(dtype)
    order = _falling(scaled)
    if 0 < top_k < len(scaled):
        order = order[:top_k]
        scaled = _keep_only(scaled, order)
    logp = _log_softmax(scaled)
    if top_p < 1:
        kept, _ = _nucleus(np.exp(logp), order, top_p)
        logp = _log_softmax(_keep_only(logp, kept))
    if min_p > 0:
        kept = np.flatnonzero(np.exp(logp - logp.max()) >= min_p)
        logp = _log_softmax(_keep_only(logp, kept))
    return logp


def warp_gap(
    logits: Sequence[float] | np.ndarray,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    *,
    min_p: float = 0.0,
    vocab_size: int | None = None,
) -> float:
    """How far the support of `warp` is from changing sides, in nats or mass (float64).

    The smallest of: the gap at the k-th scaled logit, a mass against top_p, the gap between the
    last kept and the first dropped token of top-p, and a log-probability against min-p's. Near 0:
    two programs may differ there.
    """
    scaled = _scaled(logits, temperature, vocab_size, np.float64)
    order = _falling(scaled)
    cut = 1 if temperature == 0 else top_k
    gap = math.inf
    if 0 < cut < len(order) and np.isfinite(scaled[order[cut]]):
        gap = float(scaled[order[cut - 1]] - scaled[order[cut]])
    if temperature > 0 and min_p > 0:
        away = np.abs(scaled - scaled.max() - math.log(min_p))
        gap = min(gap, float(away.min()))
    if temperature == 0 or top_p >= 1:
        return gap
    order = order[: top_k or None]
    logp = _log_softmax(_keep_only(scaled, order))
    kept, mass_gap = _nucleus(np.exp(logp), order, top_p)
    if len(kept) < len(order) and np.isfinite(logp[order[len(kept)]]):
        gap = min(gap, float(logp[kept[-1]] - logp[order[len(kept)]]))
    return min(gap, mass_gap)
