"""The parts that decoding rules are made of, for those who write one; docs/own_rule.md shows how.

A rule is a *drafter*, which proposes a tree of tokens (`DraftTree`), and a *verifier*, which says
how much of it stays (`Verdict`), joined by `mtad_jax.DraftVerify`. The protocols `Drafter` and
`Verifier` say what is asked of each, `Strategy` what of a rule that is made otherwise.

What a verifier takes and gives:
    Verdict, DraftTree, Lossy and Lossless (what holds of nearly every verifier), check_chain,
    check_drawn, node_logp, path_sum, leading, deepest, verdict, fold, uniform

What a drafter takes and gives:
    OneChain (what holds of every chain), chain_draft, last_logits, history, extend, law, take,
    check_depth, check_whole, round_keys, DRAFT, categorical

Both:
    Request (what is asked of a rule), Controls (its settings), DecodeState

Drafters to join a verifier with:
    Beam, Chain, ConfidentChain, Lookup, NoDraft, Recycling, StochasticBeams, Suffix, Tree

Verifiers to join a drafter with:
    Ancestral, Argmax, BeamRejection, BlockVerification, Cascade, Fuzzy, JointThreshold, Mentored,
    PointRejection, Rejection, SpecTr, Threshold, Traversal, TreeRejection, Typical
"""

from mtad_jax.decode.draft import DraftTree, node_logp, path_sum, take
from mtad_jax.decode.drafters.base import OneChain, chain_draft, last_logits
from mtad_jax.decode.drafters.beam import Beam
from mtad_jax.decode.drafters.chain import Chain
from mtad_jax.decode.drafters.confident import ConfidentChain
from mtad_jax.decode.drafters.lookup import Lookup
from mtad_jax.decode.drafters.none import NoDraft
from mtad_jax.decode.drafters.recycling import Recycling
from mtad_jax.decode.drafters.stochastic import StochasticBeams
from mtad_jax.decode.drafters.suffix import Suffix
from mtad_jax.decode.drafters.tree import Tree
from mtad_jax.decode.logits import extend, history, law
from mtad_jax.decode.protocols import Drafter, Strategy, Verdict, Verifier
from mtad_jax.decode.random import DRAFT, categorical, fold, round_keys, uniform
from mtad_jax.decode.request import Request, check_depth, check_whole
from mtad_jax.decode.state import Controls, DecodeState
from mtad_jax.decode.verifiers.base import (
    Lossless,
    Lossy,
    check_chain,
    check_drawn,
    deepest,
    leading,
    verdict,
)
from mtad_jax.decode.verifiers.cascade import Cascade
from mtad_jax.decode.verifiers.fuzzy import Fuzzy
from mtad_jax.decode.verifiers.joint import JointThreshold
from mtad_jax.decode.verifiers.lossless.beams import BeamRejection
from mtad_jax.decode.verifiers.lossless.block import BlockVerification
from mtad_jax.decode.verifiers.lossless.points import PointRejection
from mtad_jax.decode.verifiers.lossless.rejection import Rejection
from mtad_jax.decode.verifiers.lossless.spectr import SpecTr
from mtad_jax.decode.verifiers.lossless.traversal import Traversal
from mtad_jax.decode.verifiers.lossless.tree import TreeRejection
from mtad_jax.decode.verifiers.mentored import Mentored
from mtad_jax.decode.verifiers.plain import Ancestral, Argmax
from mtad_jax.decode.verifiers.threshold import Threshold
from mtad_jax.decode.verifiers.typical import Typical

__all__ = [
    "DRAFT",
    "Ancestral",
    "Argmax",
    "Beam",
    "BeamRejection",
    "BlockVerification",
    "Cascade",
    "Chain",
    "ConfidentChain",
    "Controls",
    "DecodeState",
    "DraftTree",
    "Drafter",
    "Fuzzy",
    "JointThreshold",
    "Lookup",
    "Lossless",
    "Lossy",
    "Mentored",
    "NoDraft",
    "OneChain",
    "PointRejection",
    "Recycling",
    "Rejection",
    "Request",
    "SpecTr",
    "StochasticBeams",
    "Strategy",
    "Suffix",
    "Threshold",
    "Traversal",
    "Tree",
    "TreeRejection",
    "Typical",
    "Verdict",
    "Verifier",
    "categorical",
    "chain_draft",
    "check_chain",
    "check_depth",
    "check_drawn",
    "check_whole",
    "deepest",
    "extend",
    "fold",
    "history",
    "last_logits",
    "law",
    "leading",
    "node_logp",
    "path_sum",
    "round_keys",
    "take",
    "uniform",
    "verdict",
]
