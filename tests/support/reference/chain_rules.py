"""One round of every rule over a chain of drafted tokens (algorithms: Comparators).

All take the chain as it was drawn, cut after an end here, and give the accepted tokens and the law
of the token that follows; None after an end.
"""

import math
from collections.abc import Sequence

import numpy as np

from reference.chance import Chance, Kept
from reference.speculation import cut_at_end, residual
from reference.warping import Law, Text, _log


def _bonus(target: Law, text: Text, accepted: Text, ends: frozenset) -> Kept:
    """`accepted`, and a token from the target after it unless the text is over."""
    over = bool(accepted) and accepted[-1] in ends
    return accepted, None if over else target(text + accepted)


def _ratio(p: float, q: float) -> float:
    """p/q of two log-probabilities, q > 0."""
    if q == -np.inf:
        raise ValueError("a drafted token has q = 0: it was not drawn from q")
    return math.exp(p - q) if p > -np.inf else 0.0


def lenient_round(
    target: Law,
    draft: Law,
    text: Text,
    chain: Text,
    chance: Chance,
    ends: frozenset = frozenset(),
    leniency: float = 1.0,
) -> Kept:
    """Accept iff u < p/(l q); rejected: norm(max(0, p - q)); all accepted: p. Slot: the step."""
    accepted: Text = ()
    for i, token in enumerate(cut_at_end(chain, ends)):
        p, q = target(text + accepted), draft(text + accepted)
        if not chance.test(i, _ratio(p[token], q[token]) / leniency):
            return accepted, residual(p, q)
        accepted += (token,)
    return _bonus(target, text, accepted, ends)


def threshold_round(
    target: Law, draft: Law, text: Text, chain: Text, tau: float, ends: frozenset = frozenset()
) -> tuple[Text, np.ndarray | None, float]:
    """Accept while log p - log q > log tau, token by token; then a token from p.

    Third: how near a test came to its edge.
    """
    accepted, gap = (), math.inf
    for token in cut_at_end(chain, ends):
        here = text + accepted
        excess = target(here)[token] - draft(here)[token] - math.log(tau)
        gap = min(gap, abs(excess))
        if not excess > 0:
            break
        accepted += (token,)
    return (*_bonus(target, text, accepted, ends), gap)


def block_chances(target: Law, draft: Law, text: Text, chain: Text) -> tuple[list, list]:
    """P_j for j = 0..K, and h_j for j = 0..K (algorithms: block verification)."""
    capped, passes = [1.0], [1.0]
    for i, token in enumerate(chain):
        p, q = target(text + chain[:i])[token], draft(text + chain[:i])[token]
        capped.append(min(1.0, capped[-1] * _ratio(p, q)))
    for j in range(1, len(chain)):
        p, q = np.exp(target(text + chain[:j])), np.exp(draft(text + chain[:j]))
        excess = float(np.maximum(0, capped[j] * p - q).sum())
        passes.append(1.0 if capped[j] == 1 else excess / (excess + 1 - capped[j]))
    return capped, passes + capped[-1:] if chain else passes


def block_round(
    target: Law,
    draft: Law,
    text: Text,
    chain: Text,
    chance: Chance,
    ends: frozenset = frozenset(),
) -> Kept:
    """Keep the longest passing prefix; then norm(max(0, P_j p - q)), or p at K.

    Slot of prefix j's test: j - 1. A chain that ended after e tokens has K = e.
    """
    chain = cut_at_end(chain, ends)
    capped, passes = block_chances(target, draft, text, chain)
    longest = 0
    for j in range(1, len(chain) + 1):
        if chance.test(j - 1, passes[j]):
            longest = j  # a failing shorter one does not matter
    accepted = chain[:longest]
    if longest == len(chain):
        return _bonus(target, text, accepted, ends)
    p, q = target(text + accepted), draft(text + accepted)
    rest = np.maximum(0, capped[longest] * np.exp(p) - np.exp(q))
    return accepted, p if rest.sum() == 0 else _log(rest / rest.sum())


def bild_draft(
    draft: Law,
    raw_draft: Law,
    text: Text,
    depth: int,
    fallback: float,
    ends: frozenset,
    chance: Chance,
) -> tuple[Text, float]:
    """Tokens from q until max_v q_raw(v) < fallback, K of them, or an end; slots: the steps.

    Second: how near a largest probability came to the fallback.
    """
    chain, gap = (), math.inf
    for step in range(depth):
        sure = float(np.exp(raw_draft(text + chain)).max())
        gap = min(gap, abs(sure - fallback))
        if sure < fallback:
            break
        chain += chance.draws(step, draft(text + chain), 1, True)
        if chain[-1] in ends:
            break
    return chain, gap


def bild_round(
    target: Law,
    raw_target: Law,
    text: Text,
    chain: Text,
    rollback: float,
    ends: frozenset = frozenset(),
) -> tuple[Text, np.ndarray | None, float]:
    """Keep the tokens before the first with -log p_raw > rollback; then a token from p.

    Third: how near a loss came to the limit.
    """
    accepted, gap = (), math.inf
    for token in cut_at_end(chain, ends):
        loss = -raw_target(text + accepted)[token]
        gap = min(gap, abs(loss - rollback))
        if loss > rollback:
            break
        accepted += (token,)
    return (*_bonus(target, text, accepted, ends), gap)


def lookup_chain(text: Text, depth: int, ngram: int, ends: frozenset = frozenset()) -> Text:
    """What followed the last earlier occurrence of the last `ngram` tokens, or of fewer.

    At least one token must follow the occurrence inside the text; none found: nothing.
    """
    for n in range(min(ngram, len(text)), 0, -1):
        for start in range(len(text) - n - 1, -1, -1):
            if text[start : start + n] == text[len(text) - n :]:
                return cut_at_end(text[start + n : start + n + depth], ends)
    return ()


def suffix_chain(
    text: Text,
    documents: Sequence[Text],
    depth: int,
    longest: int,
    ends: frozenset = frozenset(),
) -> Text:
    """What followed the longest suffix of the text, `longest` tokens at most, that came before.

    The last occurrence in the text; where there is none, the last of the last document with one.
    Something must follow an occurrence in its own text; none found: nothing.
    """
    for n in range(min(longest, len(text)), 0, -1):
        for where in (text, *reversed(documents)):
            for start in range(len(where) - n - 1, -1, -1):
                if where[start : start + n] == text[len(text) - n :]:
                    return cut_at_end(where[start + n : start + n + depth], ends)
    return ()


def point_law(text: Text, chain: Text, vocab: int) -> Law:
    """The draft that surely gives `chain` after `text`: what a lookup draws from."""

    def law(context: Text) -> np.ndarray:
        token = chain[len(context) - len(text)]
        return np.where(np.arange(vocab) == token, 0.0, -np.inf)

    return law
