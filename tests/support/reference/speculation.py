"""One round of speculative sampling (algorithms: Comparators)."""

import math
from collections.abc import Sequence

import numpy as np

from reference.warping import Law, Text, _log


def cut_at_end(tokens: Text, ends: frozenset) -> Text:
    """`tokens` up to and with the first end token."""
    for i, token in enumerate(tokens):
        if token in ends:
            return tokens[: i + 1]
    return tokens


def _passes(u: float, log_p: float, log_q: float) -> bool:
    """u < p/q in logs, strictly; u = 0 passes iff p > 0 (algorithms: Tests of chance)."""
    if log_p == -np.inf:
        return False
    return u == 0 or math.log(u) < log_p - log_q


def residual(log_p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    """norm(max(0, p - q)), or p where that has no mass (algorithms: Tests of chance)."""
    rest = np.maximum(0, np.exp(log_p) - np.exp(log_q))
    return log_p if rest.sum() == 0 else _log(rest / rest.sum())


def speculative_round(
    target: Law,
    draft: Law,
    text: Text,
    chain: Text,
    uniforms: Sequence[float],
    ends: frozenset = frozenset(),
) -> tuple[Text, np.ndarray | None]:
    """Accepted tokens and the law of the token that follows (None after an end).

    `chain`: tokens drawn from the draft, `uniforms[i]` the test of chain[i]. A chain that ended
    is cut after its end (algorithms: Comparators, speculative sampling).
    """
    accepted: Text = ()
    for i, token in enumerate(cut_at_end(chain, ends)):
        p, q = target(text + accepted), draft(text + accepted)
        if q[token] == -np.inf:
            raise ValueError(f"chain={chain}: token {token} has q = 0, it was not drawn from q")
        if not _passes(uniforms[i], p[token], q[token]):
            return accepted, residual(p, q)
        accepted = accepted + (token,)
    if accepted and accepted[-1] in ends:
        return accepted, None
    return accepted, target(text + accepted)
