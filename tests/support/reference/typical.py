"""Typical acceptance over any draft (algorithms: Comparators, Medusa's rule)."""

import math
from collections.abc import Iterable

import numpy as np

from reference.lattices import Lattice
from reference.tree_rules import Tree
from reference.warping import Law, Text

Place = tuple[int, Text]  # depth, fillers counted; the text of the path


def places_of_chain(chain: Text) -> list[Place]:
    """The nodes of a chain, in node order."""
    return [(i + 1, chain[: i + 1]) for i in range(len(chain))]


def places_of_tree(tree: Tree) -> list[Place]:
    """The nodes of a tree that were drawn, in node order."""
    found = []
    for level in range(1, len(tree.levels)):
        paths = (tree.path(level, j) for j in range(len(tree.levels[level])))
        found += [(level, path) for path in paths if path is not None]
    return found


def places_of_lattice(lattice: Lattice) -> list[Place]:
    """The valid nodes of a lattice, in node order."""
    return [
        (d, lattice.text(d, i))
        for d, nodes in enumerate(lattice.depths)
        for i, node in enumerate(nodes)
        if d > 0 and node.valid
    ]


def entropy(logp: np.ndarray) -> float:
    """-sum p log p in nats; 0 log 0 = 0."""
    p = np.exp(logp)
    return -float(sum(a * b for a, b in zip(p, logp, strict=True) if a > 0))


def typical_round(
    target: Law,
    text: Text,
    places: Iterable[Place],
    epsilon: float,
    alpha: float,
    ends: frozenset = frozenset(),
) -> tuple[Text, np.ndarray | None, int, float]:
    """Deepest node whose path has p(x) > min(epsilon, alpha exp(-H)) all along; then largest p.

    Third and fourth: its depth, fillers counted, and how near a decision came to its edge.
    """
    best, gap, passed = (0, 0.0, ()), math.inf, []
    for depth, path in places:
        passes, total = True, 0.0
        for i, token in enumerate(path):
            p = target(text + path[:i])
            limit = math.log(min(epsilon, alpha * math.exp(-entropy(p))))
            if p[token] > -np.inf:
                gap = min(gap, abs(p[token] - limit))
            passes, total = passes and p[token] > limit, total + p[token]
        if passes:
            passed.append((depth, total))
            if depth > best[0] or (depth == best[0] and total > best[1]):
                best = (depth, total, path)
    winners = sorted((total for depth, total in passed if depth == best[0]), reverse=True)
    if len(winners) > 1 and winners[0] > winners[1]:  # a tie of equal paths is decided by order
        gap = min(gap, winners[0] - winners[1])
    accepted = best[2]
    over = bool(accepted) and accepted[-1] in ends
    return accepted, None if over else target(text + accepted), best[0], gap
