"""The definition of decoding, transcribed into plain NumPy: loops, no JAX, clarity over speed.

"algorithms" in the docstrings is the project's page `algorithms.md`; sections are named as there.
A *law* is a function from a whole context to the warped next-token log-probabilities `[V]`.
Everything is computed in the dtype of the laws (float64 or float32): run both to see whether a
tie or a threshold is decided by rounding. Distributions are log-probabilities everywhere.

Letters: V vocabulary, K depth, W width. Depth 0 is the empty path, depths 1..K hold W places.
"""

from reference.acceptance import (
    Verdict,
    accept_gap,
    all_log_p,
    mmtad_accept,
    mtad_accept,
    node_log_p,
    passing,
    star_block,
    star_log_q,
)
from reference.blocks import Block, block, log_threshold, longest_prefix, step_log_probs
from reference.bounds import (
    check_accepted_joint,
    check_depths,
    check_greedy,
    check_lattice,
    check_limits,
    check_random_threshold,
    check_same_model,
    exact_tail,
    speculative_tail,
    tail_formula,
)
from reference.exact_laws import (
    chains,
    distance,
    exact_law,
    mtad_round,
    round_outcomes,
    sampling_outcomes,
    speculative_law,
    speculative_outcomes,
    target_law,
)
from reference.lattices import Lattice, Node, draft_sample, draft_search
from reference.speculation import cut_at_end, residual, speculative_round
from reference.tables import TableModel, law
from reference.texts import decode, greedy
from reference.warping import Law, Outcomes, Text, argmax, warp, warp_gap

__all__ = [
    "Block",
    "Lattice",
    "Law",
    "Node",
    "Outcomes",
    "TableModel",
    "Text",
    "Verdict",
    "accept_gap",
    "all_log_p",
    "argmax",
    "block",
    "chains",
    "check_accepted_joint",
    "check_depths",
    "check_greedy",
    "check_lattice",
    "check_limits",
    "check_random_threshold",
    "check_same_model",
    "cut_at_end",
    "decode",
    "distance",
    "draft_sample",
    "draft_search",
    "exact_law",
    "exact_tail",
    "greedy",
    "law",
    "log_threshold",
    "longest_prefix",
    "mmtad_accept",
    "mtad_accept",
    "mtad_round",
    "node_log_p",
    "passing",
    "residual",
    "round_outcomes",
    "sampling_outcomes",
    "speculative_law",
    "speculative_outcomes",
    "speculative_round",
    "speculative_tail",
    "star_block",
    "star_log_q",
    "step_log_probs",
    "tail_formula",
    "target_law",
    "warp",
    "warp_gap",
]
