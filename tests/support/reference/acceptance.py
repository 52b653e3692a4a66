"""What MTAD and MMTAD accept of a lattice (algorithms: MTAD steps 2-4, MMTAD)."""

import dataclasses
import math

import numpy as np

from reference.blocks import Block, log_threshold
from reference.lattices import Lattice, _neighbour_gap
from reference.warping import Law, Text


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a round accepts.

    depth: accepted nodes, fillers counted. place: of the leaf in its depth (0 if depth = 0).
    tokens: the text that is committed before the bonus, no fillers. ended: the text is over.
    log_p: log p(accepted path). log_q_star: log q(x*_{1:depth}).
    bonus: the law of the one token that follows, `[V]`; None after an end.
    """

    depth: int
    place: int
    tokens: Text
    ended: bool
    log_p: float
    log_q_star: float
    bonus: np.ndarray | None


def node_log_p(lattice: Lattice, target: Law, text: Text, depth: int, place: int) -> float:
    """log p(path) of a node; fillers add 0."""
    total, path = target(text).dtype.type(0), text
    for node in lattice.nodes(depth, place):
        if not node.filler:
            total = total + target(path)[node.token]
            path = path + (node.token,)
    return total


def all_log_p(lattice: Lattice, target: Law, text: Text) -> list[list[float]]:
    """log p(path) of every node, `[depth][place]`; -inf where the node is not valid."""
    return [
        [
            node_log_p(lattice, target, text, d, i) if node.valid else -math.inf
            for i, node in enumerate(nodes)
        ]
        for d, nodes in enumerate(lattice.depths)
    ]


def star_log_q(lattice: Lattice) -> np.ndarray:
    """log q(x*_{1:d}) for d = 0..K, along the ancestor path of x*."""
    return np.array([lattice.depths[d][i].log_q for d, i in enumerate(lattice.star)])


def star_block(lattice: Lattice, target: Law, draft: Law, text: Text) -> Block:
    """The joint quantities of x* with its fillers, K steps."""
    step_p = [target(text).dtype.type(0)] * lattice.depth
    step_q = [draft(text).dtype.type(0)] * lattice.depth
    for i, token in enumerate(lattice.star_tokens):
        path = text + lattice.star_tokens[:i]
        step_p[i], step_q[i] = target(path)[token], draft(path)[token]
    return Block(np.array(step_p), np.array(step_q))


def _verdict(lattice: Lattice, target: Law, text: Text, depth: int, place: int) -> Verdict:
    """The verdict whose leaf is (depth, place); the bonus as in algorithms: MTAD, step 4."""
    tokens, ended = lattice.text(depth, place), lattice.depths[depth][place].ended
    return Verdict(
        depth,
        place,
        tokens,
        ended,
        node_log_p(lattice, target, text, depth, place),
        star_log_q(lattice)[depth],
        None if ended else target(text + tokens),
    )


def mtad_accept(lattice: Lattice, target: Law, text: Text, tau: float) -> Verdict:
    """The longest prefix j of x* with log p - log q > log tau (algorithms: MTAD, steps 2-4)."""
    log_q, accepted = star_log_q(lattice), 0
    threshold = log_threshold(tau, target(text).dtype)
    for j in range(1, lattice.depth + 1):
        log_p = node_log_p(lattice, target, text, j, lattice.star[j])
        if log_p - log_q[j] > threshold:
            accepted = j  # a failing shorter prefix does not stop the scan
    return _verdict(lattice, target, text, accepted, lattice.star[accepted])


def passing(lattice: Lattice, target: Law, text: Text, tau: float) -> list[list[int]]:
    """The places that pass at depths 0..K; depth 0 holds none (algorithms: MMTAD)."""
    log_p, log_q = all_log_p(lattice, target, text), star_log_q(lattice)
    threshold = log_threshold(tau, target(text).dtype)
    passed: list[list[int]] = [[]]
    for d in range(1, lattice.depth + 1):
        valid = [i for i, node in enumerate(lattice.depths[d]) if node.valid]
        passed.append([i for i in valid if log_p[d][i] - log_q[d] > threshold])
    return passed


def mmtad_accept(lattice: Lattice, target: Law, text: Text, tau: float) -> Verdict:
    """Deepest depth with a passing node, there the largest log p, the lowest place on ties.

    Every valid node is measured against x*'s *ancestor* at its depth (algorithms: MMTAD).
    """
    passed = passing(lattice, target, text, tau)
    deepest = max((d for d, places in enumerate(passed) if places), default=0)
    if deepest == 0:
        return _verdict(lattice, target, text, 0, 0)
    log_p = all_log_p(lattice, target, text)[deepest]
    best = min(passed[deepest], key=lambda i: (-log_p[i], i))
    return _verdict(lattice, target, text, deepest, best)


def accept_gap(lattice: Lattice, target: Law, text: Text, tau: float) -> float:
    """How far both verdicts are from changing: |log ratio - log tau|, and log p among winners."""
    log_p, log_q = all_log_p(lattice, target, text), star_log_q(lattice)
    threshold, gap = float(log_threshold(tau)), math.inf
    for d in range(1, lattice.depth + 1):
        for value in log_p[d]:
            if value > -math.inf and math.isfinite(threshold):
                gap = min(gap, abs(float(value - log_q[d]) - threshold))
    deepest = mmtad_accept(lattice, target, text, tau).depth
    winners = sorted(log_p[deepest][i] for i in passing(lattice, target, text, tau)[deepest])
    return min(gap, _neighbour_gap(winners[:-3:-1]))
