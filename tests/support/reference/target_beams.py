"""Beams of the target itself: MTJD and beam search (algorithms: MTJD, Comparators)."""

import math

import numpy as np

from reference.exact_laws import chains
from reference.lattices import _draft
from reference.warping import Law, Text


def exact_block(target: Law, text: Text, depth: int, ends: frozenset) -> tuple[Text, float]:
    """The block of K tokens (fewer if it ends the text) with the largest joint, and its log p.

    By enumeration; ties go to the first in the order of their ids.
    """
    best: tuple[Text, float] = ((), -math.inf)
    for block, weight in sorted(chains(target, text, depth, ends).items()):
        if math.log(weight) > best[1] + 1e-12:
            best = block, math.log(weight)
    return best


def block_gap(target: Law, text: Text, depth: int, ends: frozenset) -> float:
    """How much likelier the best block is than the second, in nats."""
    joints = sorted(chains(target, text, depth, ends).values(), reverse=True)
    return math.inf if len(joints) < 2 else math.log(joints[0]) - math.log(joints[1])


def mtjd_block(
    target: Law,
    text: Text,
    depth: int,
    width: int,
    ends: frozenset,
    noise: np.ndarray | None = None,
) -> tuple[Text, float]:
    """The likeliest of W beams of the target after K steps, and how near an edge was.

    noise [K, W, V]: beam sampling; None: beam search.
    """
    lattice = _draft(target, text, depth, width, ends, noise)
    return lattice.star_tokens, lattice.gap


def beam_text(
    target: Law,
    text: Text,
    width: int,
    limit: int,
    ends: frozenset,
    noise: np.ndarray | None = None,
) -> tuple[Text, float]:
    """The valid beam with the largest log p(path) / tokens, and how near an edge was.

    Beams that have all ended offer themselves only: steps past that point change nothing.
    """
    lattice = _draft(target, text, limit, width, ends, noise)
    scores = [
        (node.log_q / len(lattice.text(limit, i)), -i)
        for i, node in enumerate(lattice.depths[-1])
        if node.valid
    ]
    ranked = sorted(scores, reverse=True)
    gap = ranked[0][0] - ranked[1][0] if len(ranked) > 1 else math.inf
    return lattice.text(limit, -ranked[0][1]), min(lattice.gap, float(gap))
