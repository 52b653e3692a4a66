"""Speculative beam decoding with dynamic width, one round (algorithms: Comparators, DSBD)."""

import dataclasses
import math

import numpy as np

from reference.chance import Chance, Kept
from reference.warping import Law, Text, _log


@dataclasses.dataclass(frozen=True)
class Place:
    """One beam: its parent's place in the depth before, its text, and log q of that text.

    ended: the text holds an end token.
    """

    parent: int
    path: Text
    log_q: float
    ended: bool


ROOT = Place(-1, (), 0.0, False)


def _pairs(places: list[Place], weights: list[float], model: Law, text: Text) -> np.ndarray:
    """Probabilities [beam, token]: the beam's weight times the model's law after it.

    An ended beam offers one pair, itself, at token 0.
    """
    vocab = len(model(text))
    pairs = np.zeros((len(places), vocab))
    for b, (place, weight) in enumerate(zip(places, weights, strict=True)):
        if weight == 0:
            continue
        if place.ended:
            pairs[b, 0] = weight
        else:
            pairs[b] = weight * np.exp(model(text + place.path))
    return pairs


def _child(places: list[Place], b: int, token: int, log_q: float, ends: frozenset) -> Place:
    if places[b].ended:
        return Place(b, places[b].path, places[b].log_q, True)
    path = (*places[b].path, token)
    return Place(b, path, places[b].log_q + log_q, token in ends)


def draft_weights(places: list[Place]) -> list[float]:
    """q(path) of every beam over their sum."""
    mass = [math.exp(place.log_q) for place in places]
    return [m / math.fsum(mass) for m in mass]


def pair_draws(
    draft: Law, text: Text, depth: int, width: int, ends: frozenset, chance: Chance
) -> list[list[Place]]:
    """Depths 0..K: per depth W draws with replacement of a pair from Q; slots: (depth, draw)."""
    levels = [[ROOT]]
    for d in range(1, depth + 1):
        places = levels[-1]
        pairs = _pairs(places, draft_weights(places), draft, text)
        below = []
        for w in range(width):
            (pair,) = chance.draws((d, w), _log(pairs.reshape(-1)), 1, True)
            b, token = divmod(pair, pairs.shape[1])
            log_q = 0.0 if places[b].ended else float(draft(text + places[b].path)[token])
            below.append(_child(places, b, token, log_q, ends))
        levels.append(below)
    return levels


def _less(r: np.ndarray, q: np.ndarray) -> np.ndarray:
    """norm(max(0, R - Q)); without mass: R."""
    rest = np.maximum(0, r - q)
    return r if rest.sum() <= 1e-14 else rest / rest.sum()


def width_chances(p: np.ndarray, q: np.ndarray, width: int) -> list[float]:
    """P(N = n), n = 0..W: how many of W draws are accepted without a stop.

    After r rejections in a row the next is accepted with alpha_r = sum min(R_r, Q).
    """
    alpha, r = [], p
    for _ in range(width):
        alpha.append(float(np.minimum(r, q).sum()))
        r = _less(r, q)
    state = {(0, 0): 1.0}  # accepted, rejections in a row
    for _ in range(width):
        after: dict = {}
        for (n, row), weight in state.items():
            a = min(1.0, alpha[row])
            after[n + 1, 0] = after.get((n + 1, 0), 0.0) + weight * a
            after[n, row + 1] = after.get((n, row + 1), 0.0) + weight * (1 - a)
        state = after
    return [math.fsum(w for (n, _), w in state.items() if n == m) for m in range(width + 1)]


def dynamic_width(p: np.ndarray, q: np.ndarray, width: int, least: float) -> tuple[int, float]:
    """n* = max(1, the largest n with P(N >= n) >= least), and how near an edge was."""
    chances = width_chances(p, q, width)
    tails = [math.fsum(chances[n:]) for n in range(width + 1)]
    best = max((n for n in range(1, width + 1) if tails[n] >= least), default=1)
    return best, min((abs(tails[n] - least) for n in range(2, width + 1)), default=math.inf)


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What a round commits.

    accepted: the tokens of the emitted slot's parent. bonus: the slot's own token; None: the path
    had ended. depth: of that path, fillers counted. widths: n* of every depth that was verified.
    gap: how near n* or the emitted slot came to another.
    """

    accepted: Text
    bonus: int | None
    depth: int
    widths: list[int]
    gap: float


def dsbd_round(
    target: Law,
    draft: Law,
    text: Text,
    levels: list[list[Place]],
    chance: Chance,
    least: float,
) -> Chosen:
    """Verify depth by depth and emit the slot with the largest P.

    Slot of the test of draw w at depth d: (d - 1) W + w. Slot of the draw that fills the i-th of
    the last beams: ("rest", i) from R, ("new", i) from P.
    """
    depth, width = len(levels) - 1, len(levels[-1])
    live, gap, widths = {0: 1.0}, math.inf, []
    for d in range(1, depth + 1):
        above = levels[d - 1]
        p = _pairs(above, [live.get(b, 0.0) for b in range(len(above))], target, text)
        share = [w if b in live else 0.0 for b, w in enumerate(draft_weights(above))]
        q = _pairs(above, share, draft, text)  # 0 for dead parents, not renormalised
        wanted, edge = dynamic_width(p, q, width, least)
        gap = min(gap, edge)
        widths.append(wanted)
        accepted, rest = _verify_depth(above, levels[d], p, q, set(live), wanted, chance, d)
        if len(accepted) < wanted:
            slots = [pair for _, pair in accepted]
            slots.append(_draw(("rest", len(slots)), rest, chance))
            return _emit(above, d - 1, p, slots, wanted, chance, widths, gap)
        total = math.fsum(p[pair] for _, pair in accepted)
        live = {w: float(p[pair]) / total for w, pair in accepted}
    p = _pairs(levels[-1], [live.get(b, 0.0) for b in range(width)], target, text)
    return _emit(levels[-1], depth, p, [], width, chance, widths, gap)


def _verify_depth(above, drawn, p, q, alive, wanted, chance, d):
    """The accepted (draw, pair) of one depth, and R at the end."""
    r, accepted = p, []
    for w, place in enumerate(drawn):
        pair = place.parent, 0 if above[place.parent].ended else place.path[-1]
        slot = (d - 1) * len(drawn) + w
        if place.parent in alive and chance.test(slot, float(r[pair] / q[pair])):
            accepted.append((w, pair))
            r = p
            if len(accepted) == wanted:
                break
        else:
            r = _less(r, q)
    return accepted, r


def _draw(slot, pairs: np.ndarray, chance: Chance) -> tuple[int, int]:
    (pair,) = chance.draws(slot, _log(pairs.reshape(-1)), 1, True)
    return divmod(pair, pairs.shape[1])


def _emit(above, depth, p, slots, wanted, chance, widths, gap) -> Chosen:
    """Fill the slots from P and choose the one with the largest P; ties: the first."""
    slots = list(slots)
    while len(slots) < wanted:
        slots.append(_draw(("new", len(slots)), p, chance))
    best = max(slots, key=lambda pair: p[pair])
    # Equal draws are separate beams of one text: which of them is emitted does not matter.
    others = [p[b, t] for b, t in slots if (above[b].path, t) != (above[best[0]].path, best[1])]
    if others:
        gap = min(gap, math.log(p[best]) - math.log(max(others)))
    place, token = above[best[0]], best[1]
    return Chosen(place.path, None if place.ended else token, depth, widths, gap)


def dsbd_kept(chosen: Chosen, vocab: int) -> Kept:
    """The accepted tokens and the law of the next: its token, surely."""
    if chosen.bonus is None:
        return chosen.accepted, None
    return chosen.accepted, np.where(np.arange(vocab) == chosen.bonus, 0.0, -np.inf)
