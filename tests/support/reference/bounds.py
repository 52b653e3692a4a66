"""What is provable of every block, hence testable (algorithms: Provable)."""

import itertools
import math

import numpy as np

from reference.acceptance import all_log_p, mmtad_accept, mtad_accept, star_block, star_log_q
from reference.blocks import Block, log_threshold, longest_prefix
from reference.lattices import Lattice
from reference.texts import greedy
from reference.warping import Law, Text


def exact_tail(block: Block) -> list[float]:
    """P(J >= j), j = 0..K, for tau ~ U(0, 1) drawn once: the scan itself, cell by cell.

    J is constant in tau between neighbouring R_m, so one evaluation per cell is exact.
    """
    ratios = [math.exp(r) for r in block.log_ratio[1:] if r < 0]
    edges = sorted({0.0, 1.0, *ratios})
    tail = [0.0] * (block.depth + 1)
    for low, high in itertools.pairwise(edges):
        depth = longest_prefix(block, (low + high) / 2)
        for j in range(depth + 1):
            tail[j] += high - low
    return tail


def tail_formula(block: Block) -> list[float]:
    """min(1, max_{m >= j} R_m), j = 0..K (algorithms: Provable)."""
    ratio = block.log_ratio
    return [math.exp(min(0.0, max(ratio[j:]))) for j in range(block.depth + 1)]


def speculative_tail(block: Block) -> list[float]:
    """Speculative sampling's P(J >= j) = prod_{i <= j} min(1, r_i) on this block, j = 0..K."""
    chances = np.exp(np.minimum(0, block.step_p - block.step_q))
    return [math.prod(chances[:j]) for j in range(block.depth + 1)]


def _require(fact: bool, message: str) -> None:
    if not fact:
        raise AssertionError(message)


def check_accepted_joint(
    depth: int, log_p: float, log_q_star: float, tau: float, slack: float = 1e-9
) -> None:
    """d >= 1 implies -log p(accepted) < -log q(x*_{1:d}) + log(1/tau), up to rounding `slack`."""
    if depth == 0:
        return
    bound = -log_q_star - float(log_threshold(tau))
    _require(-log_p < bound + slack, f"depth {depth}: -log p {-log_p} >= {bound}")


def check_depths(mtad_depth: int, mmtad_depth: int) -> None:
    """Accepted depth of MMTAD >= MTAD's on the same lattice."""
    _require(mmtad_depth >= mtad_depth, f"MMTAD {mmtad_depth} < MTAD {mtad_depth}")


def check_limits(block: Block) -> None:
    """tau -> 0: the longest prefix with p > 0; tau -> inf: nothing."""
    possible = [j for j in range(block.depth + 1) if block.log_p[j] > -np.inf]
    _require(longest_prefix(block, 0.0) == max(possible), "tau -> 0 is not the longest p > 0")
    _require(longest_prefix(block, math.inf) == 0, "tau -> inf accepts something")


def check_same_model(lattice: Lattice, target: Law, text: Text, tau: float) -> None:
    """Draft = target, tau < 1: log-ratio 0, depth K, MMTAD accepts x* or one as probable."""
    _require(0 < tau < 1, f"tau={tau} is not inside (0, 1)")
    log_p, log_q = all_log_p(lattice, target, text), star_log_q(lattice)
    ratios = [log_p[d][i] - log_q[d] for d, i in enumerate(lattice.star)]
    _require(all(ratio == 0 for ratio in ratios), f"log-ratios {ratios} are not 0")
    one = mtad_accept(lattice, target, text, tau)
    many = mmtad_accept(lattice, target, text, tau)
    _require(one.depth == many.depth == lattice.depth, "depth K is not accepted")
    _require(many.log_p == one.log_p, "MMTAD accepts a path less probable than x*")


def check_greedy(
    new: Text, target: Law, prompt: Text, *, max_new_tokens: int, ends: frozenset = frozenset()
) -> None:
    """Target at temperature 0: `new` is greedy's text, for every tau, W and draft."""
    expected = greedy(target, prompt, max_new_tokens=max_new_tokens, ends=ends)
    _require(tuple(new) == expected, f"{new} is not greedy's {expected}")


def check_random_threshold(block: Block, slack: float = 1e-9) -> None:
    """tau ~ U(0, 1): P(J >= j) = min(1, max_{m >= j} R_m) >= speculative sampling's."""
    tails = zip(exact_tail(block), tail_formula(block), speculative_tail(block), strict=True)
    for j, (exact, formula, token_wise) in enumerate(tails):
        _require(abs(exact - formula) <= slack, f"P(J >= {j}) = {exact}, formula {formula}")
        _require(formula >= token_wise - slack, f"P(J >= {j}): {formula} < {token_wise}")


def check_lattice(
    lattice: Lattice, target: Law, draft: Law, text: Text, tau: float, slack: float = 1e-9
) -> None:
    """Every bound that holds for any two models, on one lattice."""
    one = mtad_accept(lattice, target, text, tau)
    many = mmtad_accept(lattice, target, text, tau)
    check_depths(one.depth, many.depth)
    for verdict in (one, many):
        check_accepted_joint(verdict.depth, verdict.log_p, verdict.log_q_star, tau, slack)
    steps = star_block(lattice, target, draft, text)
    _require(one.depth == longest_prefix(steps, tau), "the lattice and its block disagree")
    check_limits(steps)
    check_random_threshold(steps, slack)
