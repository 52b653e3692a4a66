"""Token recycling: a table of likely next tokens, the tree that it gives, and its verdict.

Written from the rule's definition: paths instead of arrays of parents, a dictionary for the table.
"""

import dataclasses

import numpy as np

from reference.chance import Chance, Kept
from reference.warping import Law, Text, _falling, _log

Table = dict[int, Text]
"""Token -> what followed it, likeliest first."""


@dataclasses.dataclass(frozen=True)
class Paths:
    """Nodes as paths below a text, breadth first; None where a node could not be drafted.

    above[i]: the number of node i's parent. paths[0] is the empty path.
    """

    paths: list[Text | None]
    above: list[int]

    @property
    def deepest(self) -> int:
        """Tokens of the longest path."""
        return max(len(path) for path in self.paths if path is not None)


def recycled_paths(
    last: int, table: Table, depth: int, width: int, ends: frozenset = frozenset()
) -> tuple[Paths, int]:
    """The paths whose ranks multiply to at most `width`; second: how long the likeliest one is."""
    paths, above, products = [()], [0], [1]
    first = 0
    for _ in range(depth):
        level = range(first, len(paths))
        first = len(paths)
        for node in level:
            path, product = paths[node], products[node]
            for rank in range(1, width + 1):
                if product * rank > width:
                    break
                child = None
                if path is not None and not set(path) & ends:
                    follow = table.get(path[-1] if path else last, ())
                    child = (*path, follow[rank - 1]) if rank <= len(follow) else None
                paths.append(child)
                above.append(node)
                products.append(product * rank)
    likeliest, token = 0, last
    while likeliest < depth and table.get(token):
        token, likeliest = table[token][0], likeliest + 1
        if token in ends:
            break
    return Paths(paths, above), likeliest


def recycled_table(
    table: Table, last: int, tree: Paths, logits: dict[Text, np.ndarray], width: int
) -> Table:
    """The table after a round; `logits`: the target's, after every path below the text."""
    new: Table = {}
    for path in tree.paths:
        if path is not None:
            token = path[-1] if path else last
            new.setdefault(token, tuple(_falling(logits[path])[:width]))
    return table | new


def point_round(
    target: Law,
    text: Text,
    tree: Paths,
    chance: Chance,
    ends: frozenset = frozenset(),
) -> Kept:
    """From the root on: draw from p, as a row of tests; go on where a child has the token.

    Slot of node i's test: i - 1. Of equal siblings the first counts.
    """
    at, path = 0, ()
    while True:
        if set(path) & ends:
            return path, None
        p, gone, found = np.exp(target(text + path)), set(), None
        for node in range(1, len(tree.paths)):
            child = tree.paths[node]
            if tree.above[node] != at or child is None or child[-1] in gone:
                continue
            left = 1 - sum(p[token] for token in sorted(gone))
            if chance.test(node - 1, p[child[-1]] / left if left > 0 else 0.0):
                found = node
                break
            gone.add(child[-1])
        if found is None:
            rest = p.copy()
            rest[sorted(gone)] = 0
            return path, _log(rest / rest.sum() if rest.sum() > 0 else p)
        at, path = found, tree.paths[found]
