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
from reference.chain_rules import (
    bild_draft,
    bild_round,
    block_chances,
    block_round,
    lenient_round,
    lookup_chain,
    point_law,
    suffix_chain,
    threshold_round,
)
from reference.chance import Chance, Given, Kept, draw_chain, every, rule_outcomes
from reference.controls import ControlledLaw
from reference.deferral import (
    Place,
    cascade_law,
    fuzzy_law,
    mentored_law,
    place_of,
    towards_outcomes,
    towards_round,
)
from reference.dsbd import dsbd_kept, dsbd_round, dynamic_width, pair_draws, width_chances
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
from reference.recycling import (
    Paths,
    Table,
    point_round,
    recycled_paths,
    recycled_table,
)
from reference.speculation import cut_at_end, residual, speculative_round
from reference.stochastic_beams import (
    Levels,
    beam_rejection_round,
    drawn_beams,
    perturbed_beams,
)
from reference.tables import TableModel, law
from reference.target_beams import beam_text, block_gap, exact_block, mtjd_block
from reference.texts import decode, greedy
from reference.traversal import traversal_round
from reference.tree_rules import (
    Tree,
    best_rho,
    draw_tree,
    spectr_residual,
    spectr_round,
    tree_round,
)
from reference.typical import (
    entropy,
    places_of_chain,
    places_of_lattice,
    places_of_tree,
    typical_round,
)
from reference.warping import Law, Outcomes, Text, argmax, warp, warp_gap

__all__ = [
    "Block",
    "Chance",
    "ControlledLaw",
    "Given",
    "Kept",
    "Lattice",
    "Law",
    "Levels",
    "Node",
    "Place",
    "Outcomes",
    "Paths",
    "Table",
    "TableModel",
    "Text",
    "Tree",
    "Verdict",
    "accept_gap",
    "all_log_p",
    "argmax",
    "beam_rejection_round",
    "beam_text",
    "best_rho",
    "bild_draft",
    "bild_round",
    "block",
    "block_chances",
    "block_gap",
    "block_round",
    "cascade_law",
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
    "draw_chain",
    "draw_tree",
    "drawn_beams",
    "dsbd_kept",
    "dsbd_round",
    "dynamic_width",
    "entropy",
    "every",
    "exact_block",
    "exact_law",
    "exact_tail",
    "fuzzy_law",
    "greedy",
    "law",
    "lenient_round",
    "log_threshold",
    "longest_prefix",
    "lookup_chain",
    "mentored_law",
    "mmtad_accept",
    "mtad_accept",
    "mtad_round",
    "mtjd_block",
    "node_log_p",
    "pair_draws",
    "passing",
    "place_of",
    "perturbed_beams",
    "places_of_chain",
    "places_of_lattice",
    "places_of_tree",
    "point_law",
    "point_round",
    "recycled_paths",
    "recycled_table",
    "residual",
    "round_outcomes",
    "rule_outcomes",
    "sampling_outcomes",
    "spectr_residual",
    "spectr_round",
    "speculative_law",
    "speculative_outcomes",
    "speculative_round",
    "speculative_tail",
    "star_block",
    "star_log_q",
    "step_log_probs",
    "suffix_chain",
    "tail_formula",
    "target_law",
    "threshold_round",
    "towards_outcomes",
    "towards_round",
    "traversal_round",
    "tree_round",
    "typical_round",
    "warp",
    "warp_gap",
    "width_chances",
]
