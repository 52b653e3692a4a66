"""RSD-S: beams drawn without replacement, and recursive rejection over them (arXiv 2402.14160).

Its draft is a sequence of whole texts of K tokens, drawn from q without replacement: at each depth
the first W distinct beginnings stay. `drawn_beams` draws so, `perturbed_beams` by Gumbel noise.
"""

import math
from collections.abc import Sequence

import numpy as np

from reference.chance import Chance, Kept
from reference.exact_laws import chains
from reference.speculation import residual
from reference.warping import Law, Text, _log

Levels = list[list[Text]]  # [d - 1][place]: a path of d tokens, or one that has ended


def drawn_beams(
    draft: Law, text: Text, depth: int, width: int, ends: frozenset, chance: Chance
) -> Levels:
    """W paths a depth in the order in which texts drawn without replacement begin with them.

    Texts that would add nothing are passed over: the first of the others has their share of q.
    """
    levels: Levels = [[] for _ in range(depth)]
    texts = chains(draft, text, depth, ends)

    def added(whole: Text) -> list[int]:
        return [
            d for d, level in enumerate(levels)
            if len(level) < width and whole[: d + 1] not in level
        ]  # fmt: skip

    draw = 0
    while left := [whole for whole, share in texts.items() if share > 0 and added(whole)]:
        logp = _log(np.array([texts[whole] for whole in left]))
        (index,) = chance.draws(draw, logp, 1, False)
        for d in added(left[index]):
            levels[d].append(left[index][: d + 1])
        draw += 1
    return levels


def perturbed_beams(
    draft: Law,
    text: Text,
    depth: int,
    width: int,
    ends: frozenset,
    noise: Sequence[np.ndarray] | np.ndarray,
) -> tuple[Levels, float]:
    """Stochastic beam search: noise[d][place, token] of each depth, given its parent's score.

    A child's score is log q(path) + noise, moved so that a path's largest is its own; a path that
    has ended is its own child. Second: how near two scores came whose order decided something.
    """
    levels: Levels = []
    above: list[tuple[Text, float]] = [((), 0.0)]
    gap = math.inf
    for step in range(depth):
        found: list[tuple[float, Text]] = []
        for place, (path, score) in enumerate(above):
            if set(path) & ends:
                found.append((score, path))
                continue
            log_q = draft(text + path)
            base = sum(draft(text + path[:i])[token] for i, token in enumerate(path))
            sums = base + log_q + np.asarray(noise[step][place], float)
            top = sums[log_q > -np.inf].max()
            for token in np.flatnonzero(log_q > -np.inf):
                # exp(-moved) = exp(-score) - exp(-top) + exp(-sum), times exp(score).
                rest = math.exp(score - sums[token]) - math.exp(score - top)
                found.append((score - math.log1p(rest), (*path, int(token))))
        found.sort(key=lambda pair: -pair[0])
        for (a, _), (b, _) in zip(found[:width], found[1:], strict=False):
            gap = min(gap, a - b)
        above = [(path, score) for score, path in found[:width]]
        levels.append([path for path, _ in above])
    return levels, gap


def beam_rejection_round(
    target: Law,
    draft: Law,
    text: Text,
    levels: Levels,
    width: int,
    chance: Chance,
    ends: frozenset = frozenset(),
) -> Kept:
    """The children that a path has in the next level, in order: u < p/q, else the residuals.

    A failing child's token is taken out of q. Slot of a path's test: its node's number - 1.
    """
    accepted: Text = ()
    for step, level in enumerate(levels):
        p, q = target(text + accepted), draft(text + accepted)
        for place, path in enumerate(level):
            if len(path) != step + 1 or path[:-1] != accepted:
                continue
            ratio = math.exp(p[path[-1]] - q[path[-1]]) if p[path[-1]] > -np.inf else 0.0
            if chance.test(step * width + place, ratio):
                accepted = path
                break
            p, left = residual(p, q), np.exp(q)
            left[path[-1]] = 0
            q = _log(left / left.sum()) if left.sum() > 0 else q
        else:
            return accepted, p
        if accepted[-1] in ends:
            return accepted, None
    return accepted, target(text + accepted)
