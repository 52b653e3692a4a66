"""The draft of MTAD and MMTAD: a beam lattice (algorithms: MTAD, step 1)."""

import dataclasses
import itertools
import math

import numpy as np

from reference.warping import Law, Text, _falling


@dataclasses.dataclass(frozen=True)
class Node:
    """One place of one depth of the lattice.

    token: what it adds to its parent (0 for a filler; meaningless if not valid).
    parent: place of the parent in the depth above (-1 for the root).
    log_q: the draft's log-weight of the whole path (-inf if not valid).
    ended: the path holds an end token. filler: the end came before this node. valid: as said.
    """

    token: int
    parent: int
    log_q: float
    ended: bool
    filler: bool
    valid: bool


@dataclasses.dataclass(frozen=True)
class Lattice:
    """`depths[d][place]`, d = 0..K (depth 0 = the root alone, every other depth W places).

    star: the places of x*'s ancestor path, one per depth 0..K (star[0] = 0).
    gap: smallest difference between two scores whose order decided something (places, x*);
    near 0, another program may order them otherwise.
    """

    depths: list[list[Node]]
    star: tuple[int, ...]
    gap: float

    @property
    def depth(self) -> int:
        """K."""
        return len(self.depths) - 1

    @property
    def width(self) -> int:
        """W."""
        return len(self.depths[-1])

    def places(self, depth: int, place: int) -> tuple[int, ...]:
        """The places of a node's path, root first, one per depth 0..`depth`."""
        path = [place]
        for d in range(depth, 0, -1):
            path.append(self.depths[d][path[-1]].parent)
        return tuple(reversed(path))

    def nodes(self, depth: int, place: int) -> list[Node]:
        """The nodes of a path, the root left out: `depth` of them."""
        places = self.places(depth, place)
        return [self.depths[d][places[d]] for d in range(1, depth + 1)]

    def text(self, depth: int, place: int) -> Text:
        """The tokens of a path without its fillers: what accepting it commits."""
        return tuple(node.token for node in self.nodes(depth, place) if not node.filler)

    @property
    def star_tokens(self) -> Text:
        """The text of the whole candidate x*."""
        return self.text(self.depth, self.star[-1])


def _pairs(beams: list[Node], paths: list[Text], draft: Law, text: Text) -> dict[int, float]:
    """Pair index (beam * V + token) -> log-weight, of every pair on offer.

    Algorithms, MTAD step 1: every pair of a valid beam and a token with q > 0. An ended path
    offers one, itself, weight unchanged, in column 0 of its row.
    """
    vocab = len(draft(text))
    pairs = {}
    for beam, (node, path) in enumerate(zip(beams, paths, strict=True)):
        if not node.valid:
            continue
        if node.ended:
            pairs[beam * vocab] = node.log_q
            continue
        for token, logp in enumerate(draft(text + path)):
            if logp > -np.inf:
                pairs[beam * vocab + token] = node.log_q + logp
    return pairs


def _child(pair: int, log_q: float, beams: list[Node], vocab: int, ends: frozenset) -> Node:
    """The node of a kept pair."""
    parent, token = divmod(pair, vocab)
    filler = beams[parent].ended
    return Node(token, parent, log_q, filler or token in ends, filler, True)


def _neighbour_gap(ranked: list[float]) -> float:
    """The smallest difference between neighbours of a falling list."""
    return min((float(a - b) for a, b in itertools.pairwise(ranked)), default=math.inf)


def _draft(
    draft: Law,
    text: Text,
    depth: int,
    width: int,
    ends: frozenset,
    noise: np.ndarray | None,
) -> Lattice:
    """K beam steps (algorithms: MTAD, step 1); places are ordered by falling score."""
    vocab, dtype = len(draft(text)), draft(text).dtype.type
    depths, gap = [[Node(-1, -1, dtype(0), False, False, True)]], math.inf
    paths: list[Text] = [()]
    for d in range(depth):
        beams = depths[-1]
        weights = _pairs(beams, paths, draft, text)
        scores = dict(weights)
        if noise is not None:
            scores = {i: w + dtype(noise[d][i // vocab, i % vocab]) for i, w in weights.items()}
        ranked = sorted(scores, key=lambda i: (-scores[i], i))
        gap = min(gap, _neighbour_gap([scores[i] for i in ranked[: width + 1]]))
        kept = ranked[:width]
        nodes = [_child(i, weights[i], beams, vocab, ends) for i in kept]
        nodes += [Node(0, 0, dtype(-np.inf), False, False, False)] * (width - len(kept))
        old = paths
        paths = [old[n.parent] + (() if n.filler else (n.token,)) for n in nodes]
        depths.append(nodes)
    last = np.array([node.log_q if node.valid else -np.inf for node in depths[-1]])
    best = _falling(last)
    valid = [last[i] for i in best[:2] if last[i] > -np.inf]
    lattice = Lattice(depths, (), min(gap, _neighbour_gap(valid)))
    return dataclasses.replace(lattice, star=lattice.places(depth, best[0]))


def draft_search(
    draft: Law, text: Text, *, depth: int, width: int, ends: frozenset = frozenset()
) -> Lattice:
    """`search`: each depth keeps the W largest pairs (algorithms: MTAD, step 1)."""
    return _draft(draft, text, depth, width, ends, None)


def draft_sample(
    draft: Law,
    text: Text,
    noise: np.ndarray,
    *,
    depth: int,
    width: int,
    ends: frozenset = frozenset(),
) -> Lattice:
    """`sample`: Gumbel top-W, pairs by log-weight + noise `[K, W, V]` (depth, beam, token).

    W draws without replacement in proportion to the joint weights (algorithms: MTAD, step 1).
    At the first depth the only beam is beam 0. The weights themselves stay without noise.
    """
    return _draft(draft, text, depth, width, ends, noise)
