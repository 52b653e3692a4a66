"""Joints of one block of tokens under two laws (algorithms: Notation, MTAD step 3)."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from reference.warping import Law, Text


@dataclasses.dataclass(frozen=True)
class Block:
    """The steps of one block under both models: `step_p [K]`, `step_q [K]`, log-probabilities.

    Fillers are steps of 0 in both (algorithms: End of text is absorbing).
    """

    step_p: np.ndarray
    step_q: np.ndarray

    @property
    def depth(self) -> int:
        """K, fillers included."""
        return len(self.step_p)

    @property
    def log_p(self) -> np.ndarray:
        """log p(x_{1:j}) for j = 0..K, `[K + 1]`, summed from the left."""
        return _running_sum(self.step_p)

    @property
    def log_q(self) -> np.ndarray:
        """log q(x_{1:j}) for j = 0..K, `[K + 1]`, summed from the left."""
        return _running_sum(self.step_q)

    @property
    def log_ratio(self) -> np.ndarray:
        """log R_j = log p(x_{1:j}) - log q(x_{1:j}) for j = 0..K, `[K + 1]`."""
        return self.log_p - self.log_q


def _running_sum(steps: np.ndarray) -> np.ndarray:
    """0, s_1, s_1 + s_2, ...: one addition after the other, in the dtype of the steps."""
    sums = [steps.dtype.type(0)]
    for step in steps:
        sums.append(sums[-1] + step)
    return np.array(sums, dtype=steps.dtype)


def step_log_probs(model: Law, text: Text, tokens: Sequence[int], ends: frozenset) -> np.ndarray:
    """log p(x_i | text, x_{<i}) for every token; whatever follows an end token is a filler: 0."""
    steps, path, ended = [], text, False
    for token in tokens:
        steps.append(0.0 if ended else model(path)[token])
        path = path + (token,)
        ended = ended or token in ends
    return np.array(steps, dtype=model(text).dtype)


def block(target: Law, draft: Law, text: Text, tokens: Sequence[int], ends: frozenset) -> Block:
    """The joint quantities of the block `tokens` after `text`; q of every token must be > 0."""
    steps_q = step_log_probs(draft, text, tokens, ends)
    if np.isneginf(steps_q).any():
        raise ValueError(f"tokens={tuple(tokens)} hold one that the draft cannot give (q = 0)")
    return Block(step_log_probs(target, text, tokens, ends), steps_q)


def log_threshold(tau: float, dtype: type = np.float64) -> float:
    """log tau in `dtype`; tau = 0 and tau = inf give the two limits."""
    if tau < 0:
        raise ValueError(f"tau={tau} < 0")
    return np.dtype(dtype).type(-math.inf if tau == 0 else math.log(tau))


def longest_prefix(block: Block, tau: float) -> int:
    """The longest j with log R_j > log tau, strictly; 0 if none (algorithms: MTAD, step 3)."""
    threshold = log_threshold(tau, block.step_p.dtype)
    passing = [j for j in range(1, block.depth + 1) if block.log_ratio[j] > threshold]
    return max(passing, default=0)
