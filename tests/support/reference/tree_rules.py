"""Trees drawn from the draft, and the lossless rules over them (algorithms: Comparators)."""

import dataclasses
import math

import numpy as np

from reference.chance import Chance, Kept
from reference.speculation import residual
from reference.warping import Law, Text, _log


@dataclasses.dataclass(frozen=True)
class Tree:
    """A k-ary tree of tokens. Level d = 0 is the root; its other nodes stand level by level.

    branching: children of a node of level d. levels[d][j]: token of node j of level d (None: not
    drawn; the root has none). Its parent is node j // branching[d - 1] of the level above.
    """

    branching: tuple[int, ...]
    levels: list[list[int | None]]

    def children(self, level: int, j: int) -> range:
        """The places of a node's children in the next level, in draw order."""
        if level == len(self.branching):
            return range(0)
        return range(j * self.branching[level], (j + 1) * self.branching[level])

    def number(self, level: int, j: int) -> int:
        """Which node it is, the root being 0."""
        return sum(len(nodes) for nodes in self.levels[:level]) + j

    def path(self, level: int, j: int) -> Text | None:
        """The tokens from the root to a node; None if it was not drawn."""
        tokens: Text = ()
        for d in range(level, 0, -1):
            token = self.levels[d][j]
            if token is None:
                return None
            tokens, j = (token, *tokens), j // self.branching[d - 1]
        return tokens

    @property
    def first_chain(self) -> Text:
        """The tokens of the root's first child, its first child, and so on."""
        path: Text = ()
        for level in range(len(self.branching), 0, -1):
            path = self.path(level, 0) or ()
            if path:
                break
        return path


def draw_tree(
    draft: Law,
    text: Text,
    branching: tuple[int, ...],
    replace: bool,
    ends: frozenset,
    chance: Chance,
) -> Tree:
    """Children drawn from q at their parent; slot of a node's draws: (its level, its place).

    Nodes that ended or were not drawn have no children; without replacement q's support may give
    fewer.
    """
    tree = Tree(branching, [[None]])
    for level, count in enumerate(branching):
        below: list[int | None] = []
        for j in range(len(tree.levels[level])):
            path = tree.path(level, j)
            tokens: Text = ()
            if path is not None and not set(path) & ends:
                tokens = chance.draws((level, j), draft(text + path), count, replace)
            below += [*tokens, *[None] * (count - len(tokens))]
        tree.levels.append(below)
    return tree


def tree_round(
    target: Law,
    draft: Law,
    text: Text,
    tree: Tree,
    chance: Chance,
    ends: frozenset = frozenset(),
    *,
    replace: bool,
) -> Kept:
    """SpecInfer (`replace`) or MCSD (not): children in draw order, u < p/q, else the residual.

    Slot of a node's test: its number - 1.
    """
    accepted, j = (), 0
    for level in range(len(tree.branching) + 1):
        p, q = target(text + accepted), None
        for child in tree.children(level, j):
            token = tree.levels[level + 1][child]
            if token is None:
                continue
            q = draft(text + accepted) if q is None else q
            ratio = math.exp(p[token] - q[token]) if p[token] > -np.inf else 0.0
            if chance.test(tree.number(level + 1, child) - 1, ratio):
                accepted, j = accepted + (token,), child
                break
            p = residual(p, q)
            if not replace:
                left = np.exp(q)
                left[token] = 0
                q = _log(left / left.sum()) if left.sum() > 0 else q
        else:
            return accepted, p
        if accepted[-1] in ends:
            return accepted, None
    raise AssertionError("a leaf has no children")


def _beta(p: np.ndarray, q: np.ndarray, rho: float) -> float:
    """The chance that one draft token is accepted at `rho`."""
    return float(np.minimum(q, p / rho).sum())


def best_rho(p: np.ndarray, q: np.ndarray, m: int) -> float:
    """rho*, the root in [1, m] of rho beta = 1 - (1 - beta)^m, by bisection; the upper end."""

    def excess(rho: float) -> float:
        beta = _beta(p, q, rho)
        return rho * beta - (1 - (1 - beta) ** m)

    low, high = 1.0, float(m)
    if excess(low) >= 0:
        return low
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if excess(middle) >= 0 else (middle, high)
    return high


def spectr_residual(p: np.ndarray, q: np.ndarray, m: int, rho: float) -> np.ndarray:
    """norm(p - min(q, p/rho) (1 - (1 - beta)^m)/beta), probabilities; without mass: p."""
    beta = _beta(p, q, rho)
    if beta == 0:
        return p
    rest = p - np.minimum(q, p / rho) * (1 - (1 - beta) ** m) / beta
    rest = np.maximum(0, rest)  # a rounding below 0 at most
    return p if rest.sum() <= 1e-14 else rest / rest.sum()


def spectr_round(
    target: Law,
    draft: Law,
    text: Text,
    tree: Tree,
    chance: Chance,
    ends: frozenset = frozenset(),
    *,
    rho: str = "best",
) -> Kept:
    """K-SEQ over the n chains of Tree((n, 1, ..., 1)); `rho`: "best" or "chains" (m).

    Slot of the test of a chain's token: its node's number - 1.
    """
    accepted: Text = ()
    alive = list(range(tree.branching[0]))
    for level in range(1, len(tree.branching) + 1):
        log_p, log_q = target(text + accepted), draft(text + accepted)
        p, q = np.exp(log_p), np.exp(log_q)
        factor = best_rho(p, q, len(alive)) if rho == "best" else float(len(alive))
        for c in alive:
            token = tree.levels[level][c]
            assert token is not None, "chains that agree so far have not ended"
            if chance.test(tree.number(level, c) - 1, p[token] / (factor * q[token])):
                accepted += (token,)
                alive = [other for other in alive if tree.levels[level][other] == token]
                break
        else:
            return accepted, _log(spectr_residual(p, q, len(alive), factor))
        if accepted[-1] in ends:
            return accepted, None
    return accepted, target(text + accepted)
