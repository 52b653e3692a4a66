"""Laws between the draft's and the target's, and the round that samples one of them.

A *place* gives, after a text, log r of the next token and how near a decision came to its edge.
Everything is one token at a time, from the definitions of the papers.
"""

import math
from collections import defaultdict
from collections.abc import Callable

import numpy as np

from reference.chain_rules import _bonus, _ratio
from reference.chance import Chance, Kept
from reference.speculation import cut_at_end, residual
from reference.warping import Law, Outcomes, Text, _log

Place = Callable[[Text], tuple[np.ndarray, float]]


def place_of(target: Law, draft: Law, law: Callable, *raw: Law) -> Place:
    """The place whose law is `law(p, q, *raw laws)`, all of them probabilities [V]."""

    def place(text: Text) -> tuple[np.ndarray, float]:
        r, gap = law(*(np.exp(each(text)) for each in (target, draft, *raw)))
        return _log(r), gap

    return place


def cascade_law(p, q, raw_p, raw_q, defer: str, alpha: float) -> tuple[np.ndarray, float]:
    """Speculative cascades: q where the rule does not defer, and p for all that it defers."""
    best_p, best_q, gap = max(raw_p), max(raw_q), math.inf
    defers = []
    for v in range(len(p)):
        if defer == "chow":
            excess = (1 - alpha) - best_q
        elif defer == "diff":
            excess = (best_p - alpha) - best_q
        elif defer == "opt":
            excess = (best_p - alpha * 0.5 * sum(abs(p - q))) - best_q
        elif defer == "token1":
            excess = (best_p - alpha) - raw_q[v]
        elif defer == "token2":
            excess = (best_p - alpha) - raw_p[v]
        else:
            assert defer == "token3"
            excess = best_p * (1 - alpha) - raw_p[v]
        defers.append(excess > 0)
        gap = min(gap, abs(excess))
    if not defer.startswith("token") and all(p == q):
        gap = math.inf  # whose law it is does not matter
    deferred = sum(q[v] for v in range(len(p)) if defers[v])
    return np.array(
        [(0 if d else b) + a * deferred for a, b, d in zip(p, q, defers, strict=True)]
    ), gap


def fuzzy_law(p, q, raw_p, raw_q, limit: float, by: str) -> tuple[np.ndarray, float]:
    """Fuzzy speculative decoding: q where the raw laws are nearer than the limit, else p."""

    def kl(a, b) -> float:
        return sum(
            x * (math.log(x) - math.log(y)) if y else math.inf
            for x, y in zip(a, b, strict=True)
            if x
        )

    if by == "js":
        apart = kl(raw_p, (raw_p + raw_q) / 2) / 2 + kl(raw_q, (raw_p + raw_q) / 2) / 2
    elif by == "kl":
        apart = kl(raw_q, raw_p)
    else:
        assert by == "tv"
        apart = sum(max(0.0, a - b) for a, b in zip(raw_p, raw_q, strict=True))
    return (q if apart < limit else p), abs(apart - limit)


def mentored_law(p, q, limit: float, by: str) -> tuple[np.ndarray, float]:
    """Mentored decoding: q between p/beta and p/alpha, by bisections of alpha, beta within it."""
    p, q = np.asarray(p, float), np.asarray(q, float)

    def law(alpha: float) -> np.ndarray:
        """The r of an alpha; 1/beta is what makes its sum 1."""
        top = np.where(p > 0, p / alpha, 0.0)
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            too_much = np.minimum(np.maximum(q, middle * p), top).sum() > 1
            low, high = (low, middle) if too_much else (middle, high)
        return np.minimum(np.maximum(q, low * p), top)

    def within(r: np.ndarray) -> bool:
        if by == "share":
            return bool(np.minimum(q, r).sum() >= limit)
        return _kl(p, r) <= limit

    # The larger alpha is, the nearer r is to p and the less is accepted: one end fits.
    near, far = 0.0, -40.0  # log alpha; law(1) is p
    if by == "share":
        if within(p):
            return p, math.inf
        for _ in range(80):
            middle = (near + far) / 2
            near, far = (near, middle) if within(law(math.exp(middle))) else (middle, far)
        return law(math.exp(far)), math.inf
    if limit <= 0:
        return p, math.inf
    if within(law(math.exp(far))):
        return law(math.exp(far)), math.inf
    for _ in range(80):
        middle = (near + far) / 2
        near, far = (middle, far) if within(law(math.exp(middle))) else (near, middle)
    return law(math.exp(near)), math.inf


def _kl(p: np.ndarray, r: np.ndarray) -> float:
    """KL(p || r) in nats."""
    return sum(
        a * (math.log(a) - math.log(b)) if b > 0 else math.inf
        for a, b in zip(p, r, strict=True)
        if a > 0
    )


def towards_round(
    place: Place,
    target: Law,
    draft: Law,
    text: Text,
    chain: Text,
    chance: Chance,
    ends: frozenset = frozenset(),
) -> tuple[Text, np.ndarray | None, float]:
    """Accept iff u < r/q; rejected: norm(max(0, r - q)); all accepted: p. Slot: the step.

    Third: how near a decision of the places came to its edge.
    """
    accepted, gap = (), math.inf
    for i, token in enumerate(cut_at_end(chain, ends)):
        q = draft(text + accepted)
        r, edge = place(text + accepted)
        gap = min(gap, edge)
        if not chance.test(i, _ratio(r[token], q[token])):
            return accepted, residual(r, q), gap
        accepted += (token,)
    kept: Kept = _bonus(target, text, accepted, ends)
    return *kept, gap


def towards_outcomes(
    place: Place, target: Law, draft: Law, depth: int, ends: frozenset = frozenset()
) -> Callable[[Text], Outcomes]:
    """What a round must commit -> its probability, by the law r alone.

    Every place that is reached has the law r. Of a token's probability r the part min(q, r) is a
    drafted one, after which the round goes on; with the rest it ends. After K drafted ones: p.
    """

    def outcomes(text: Text) -> Outcomes:
        total: Outcomes = defaultdict(float)
        reached: Outcomes = {(): 1.0}
        for _ in range(depth):
            further: Outcomes = {}
            for path, weight in reached.items():
                r, q = np.exp(place(text + path)[0]), np.exp(draft(text + path))
                for token in range(len(r)):
                    new, both = (*path, token), min(q[token], r[token])
                    total[new] += weight * (r[token] - both)
                    if token in ends:
                        total[new] += weight * both
                    elif both > 0:
                        further[new] = weight * both
            reached = further
        for path, weight in reached.items():
            for token, p in enumerate(np.exp(target(text + path))):
                total[(*path, token)] += weight * p
        return {path: weight for path, weight in total.items() if weight > 0}

    return outcomes
