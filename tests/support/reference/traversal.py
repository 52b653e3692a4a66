"""Traversal verification, algorithm 3 of arXiv 2505.12398, step by step: nodes are deleted."""

import math

import numpy as np

from reference.chance import Chance, Kept
from reference.tree_rules import Tree
from reference.warping import Law, Text, _log

_At = tuple[int, int]  # a node: its level, and its place there


class _Remaining:
    """What is left of a tree: its nodes, each with its acceptance rate and its two laws."""

    def __init__(self, target: Law, draft: Law, text: Text, tree: Tree):
        self.tree = tree
        self.nodes: set[_At] = set()
        self.rate: dict[_At, float] = {(0, 0): 1.0}
        self.p: dict[_At, np.ndarray] = {}
        self.q: dict[_At, np.ndarray] = {}
        for level, tokens in enumerate(tree.levels):
            for j in range(len(tokens)):
                path = tree.path(level, j)
                if path is not None:
                    self.nodes.add((level, j))
                    self.p[level, j] = np.exp(target(text + path))
                    self.q[level, j] = np.exp(draft(text + path))
        self.spread((0, 0))

    def token(self, at: _At) -> int:
        """The node's own token."""
        token = self.tree.levels[at[0]][at[1]]
        assert token is not None
        return token

    def children(self, at: _At) -> list[_At]:
        """Those that are left, in draw order."""
        below = [(at[0] + 1, j) for j in self.tree.children(*at)]
        return [child for child in below if child in self.nodes]

    def first_leaf(self) -> tuple[_At, _At]:
        """The first node without children on the way down, and its parent."""
        above = at = (0, 0)
        while below := self.children(at):
            above, at = at, below[0]
        return at, above

    def spread(self, at: _At) -> None:
        """Set the rates of all that is left below a node from the node's own."""
        for child in self.children(at):
            x = self.token(child)
            want, given = self.rate[at] * self.p[at][x], self.q[at][x]
            self.rate[child] = want / given if want < given else float(want > 0)
            self.spread(child)

    def delete(self, leaf: _At, above: _At, replace: bool) -> None:
        """Take a rejected leaf away: its parent's laws and rate become what it left of them."""
        self.nodes.remove(leaf)
        rate = self.rate[above]
        rest = np.maximum(0, rate * self.p[above] - self.q[above])
        mass = math.fsum(rest)
        self.rate[above] = 1.0 if rate == 1 else mass / (mass + 1 - rate)
        if mass > 0:
            self.p[above] = rest / mass
        if not replace:
            left = self.q[above].copy()
            left[self.token(leaf)] = 0
            self.q[above] = left / left.sum() if left.sum() > 0 else self.q[above]
        self.spread(above)


def traversal_round(
    target: Law,
    draft: Law,
    text: Text,
    tree: Tree,
    chance: Chance,
    ends: frozenset = frozenset(),
    *,
    replace: bool,
) -> Kept:
    """The first leaf of what is left is accepted with its whole path, or deleted; then the next.

    Slot of a node's test: its number - 1. The root, left alone, is accepted.
    """
    left = _Remaining(target, draft, text, tree)
    while True:
        leaf, above = left.first_leaf()
        if leaf == (0, 0) or chance.test(tree.number(*leaf) - 1, left.rate[leaf]):
            accepted = tree.path(*leaf)
            assert accepted is not None
            over = bool(accepted) and accepted[-1] in ends
            return accepted, None if over else _log(left.p[leaf])
        left.delete(leaf, above, replace)
