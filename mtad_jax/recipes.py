"""Ready-made strategies, each with its exact rule and whether it keeps the target's law.

*Lossless*: the text has the law of sampling from the warped target. *Lossy*: it does not, by
design. `docs/strategies.md` has the table.
"""

from collections.abc import Callable, Sequence

import numpy as np

from mtad_jax.decode.draft_verify import DraftVerify
from mtad_jax.decode.drafters.beam import Beam
from mtad_jax.decode.drafters.chain import Chain
from mtad_jax.decode.drafters.confident import ConfidentChain
from mtad_jax.decode.drafters.corpus import build_corpus, read_ids
from mtad_jax.decode.drafters.lookup import Lookup
from mtad_jax.decode.drafters.none import NoDraft
from mtad_jax.decode.drafters.pairs import PairDraws
from mtad_jax.decode.drafters.recycling import Recycling
from mtad_jax.decode.drafters.stochastic import StochasticBeams
from mtad_jax.decode.drafters.suffix import Suffix
from mtad_jax.decode.drafters.tree import Tree
from mtad_jax.decode.protocols import Strategy
from mtad_jax.decode.request import check_depth
from mtad_jax.decode.target_beams.beam_search import BeamSearch
from mtad_jax.decode.target_beams.mtjd import MTJD
from mtad_jax.decode.target_beams.speculative_beam import SpeculativeBeam
from mtad_jax.decode.target_beams.speculative_mtjd import SpeculativeMTJD
from mtad_jax.decode.verifiers.cascade import Cascade
from mtad_jax.decode.verifiers.dsbd import DynamicWidth
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
from mtad_jax.decode.verifiers.rollback import Rollback
from mtad_jax.decode.verifiers.threshold import Threshold
from mtad_jax.decode.verifiers.typical import Typical

_WIDTH = 4  # where a recipe's width is None


def greedy() -> DraftVerify:
    """Take the likeliest token, one a call. Deterministic."""
    return DraftVerify(NoDraft(), Argmax())


def sample() -> DraftVerify:
    """Draw one token a call from the warped target. Lossless by definition."""
    return DraftVerify(NoDraft(), Ancestral())


def beam(width: int = 4, draw: str = "search") -> BeamSearch:
    """Beam search (or beam sampling) on the target itself. Lossy.

    Emits the beam with the largest log-probability per token; streams nothing before its end.

    Args:
      width: W, beams of the target.
      draw: "search" (the W likeliest) or "sample" (W drawn without replacement).
    """
    return BeamSearch(width, draw)


def mtjd(depth: int = 4, width: int | None = None, draw: str = "search") -> MTJD:
    """Emit whole blocks that the target's own joint prefers: what MTAD approximates. Lossy.

    K target calls a block: a yardstick of quality, not of speed.

    Args:
      depth: K, tokens of a block.
      width: W, beams of the target; None: 4. Not for draw="exact".
      draw: "search" (the W likeliest), "sample" (W drawn without replacement) or "exact" (the
        argmax over all blocks; tiny vocabularies only).

    Source: arXiv 2407.09722.
    """
    if width is None:
        width = 0 if draw == "exact" else _WIDTH
    return MTJD(depth, width, draw)


def speculative_beam(width: int = 4, ahead: int = 4, lattice: int = 8) -> SpeculativeBeam:
    """Beam search on the target, token for token, at several steps a target call. Lossy.

    Lossless against `beam`: the draft decides how many steps a call is worth, never which.

    Args:
      width: W, beams of the target.
      ahead: levels of the draft's lattice; a call takes at most one step more.
      lattice: places of a level, at least W.
    """
    return SpeculativeBeam(width, "search", ahead, lattice)


def speculative_mtjd(
    depth: int = 4, width: int = 4, ahead: int = 4, lattice: int = 8
) -> SpeculativeMTJD:
    """MTJD's blocks, token for token, at several steps a target call. Lossy.

    Lossless against `mtjd` with draw="search": the draft decides how many steps a call is worth,
    never which blocks are chosen.

    Args:
      depth: K, tokens of a block.
      width: W, beams of the target.
      ahead: levels of the draft's lattice; a call takes at most one step more.
      lattice: places of a level, at least W.
    """
    return SpeculativeMTJD(depth, width, ahead, lattice)


def speculative(depth: int = 4) -> DraftVerify:
    """Speculative sampling: a chain drawn from q, kept by rejection sampling. Lossless.

    Args:
      depth: K, drafted tokens.

    Source: Leviathan et al. 2023; Chen et al. 2023.
    """
    return DraftVerify(Chain(depth), Rejection())


def threshold(
    depth: int = 4,
    width: int | None = None,
    tau: float = 0.5,
    draft: str = "beam",
    bonus_temperature: float | None = None,
) -> DraftVerify:
    """Keep drafted tokens while each one's p/q is above tau: MTAD's rule token by token. Lossy.

    Args:
      depth: K, drafted tokens.
      width: W, beams of the draft; None: 4. Of draft="beam" only.
      tau: threshold on each token's likelihood ratio, > 0.
      draft: "beam" (MTAD's own candidate, so that only the rule differs) or "chain" (drawn from q).
      bonus_temperature: temperature of the token that follows what is accepted, as of mtad.

    Raises:
      ValueError: an unknown draft, or a width for a chain.
    """
    drafter = _draft_of(draft, ("beam", "chain"), depth, width, "best")
    return DraftVerify(drafter, Threshold(tau), bonus_temperature)


def lenient(depth: int = 4, leniency: float = 0.5) -> DraftVerify:
    """Speculative sampling that accepts iff u < p / (leniency q). Lossy below leniency 1.

    Args:
      depth: K, drafted tokens.
      leniency: in (0, 1]; no token gets more than p / leniency; 1 is speculative sampling.

    Source: Leviathan et al. 2023, arXiv 2211.17192, appendix.
    """
    return DraftVerify(Chain(depth), Rejection(leniency))


def cascade(depth: int = 4, defer: str = "opt", alpha: float = 0.5) -> DraftVerify:
    """Speculative cascade: where the draft does well enough its law is followed, not p. Lossy.

    Args:
      depth: K, drafted tokens.
      defer: what defers to the target: "chow", "diff" or "opt" (a whole place), "token1", "token2"
        or "token3" (some of its tokens); `Cascade` has their forms.
      alpha: how much worse the draft may be, at least 0, and at most 1 but for "opt".

    Source: arXiv 2405.19261.
    """
    return DraftVerify(Chain(depth), Cascade(defer, alpha))


def fuzzy(depth: int = 4, limit: float = 0.1, by: str = "js") -> DraftVerify:
    """Speculative sampling that keeps a token untested where both laws are near. Lossy.

    Args:
      depth: K, drafted tokens.
      limit: T, divergence below which the draft's token stays; 0 is speculative sampling.
      by: "js" (nats, at most 0.69), "kl" (of the draft's from the target's, nats) or "tv".

    Source: arXiv 2502.20704.
    """
    return DraftVerify(Chain(depth), Fuzzy(limit, by))


def mentored(depth: int = 4, limit: float = 0.1, by: str = "divergence") -> DraftVerify:
    """Accept as much as any law that near to p can (mentored decoding). Lossy above limit 0.

    Args:
      depth: K, drafted tokens.
      limit: most nats of KL(p || law), or least share of drafts that stay; 0 is speculative
        sampling.
      by: what `limit` is of: "divergence" or "share".

    Source: Tran-Thien 2023, github.com/vivien000/mentored_decoding.
    """
    return DraftVerify(Chain(depth), Mentored(limit, by))


def block(depth: int = 4) -> DraftVerify:
    """Block verification: a chain drawn from q, tested by its joint. Lossless.

    Args:
      depth: K, drafted tokens.

    Source: Sun et al., ICLR 2025, arXiv 2403.10444.
    """
    return DraftVerify(Chain(depth), BlockVerification())


def specinfer(branching: tuple[int, ...] = (4, 2, 2)) -> DraftVerify:
    """Tree speculation, siblings drawn with replacement (SpecInfer). Lossless.

    Args:
      branching: children of each node, level by level.

    Source: arXiv 2305.09781.
    """
    return DraftVerify(Tree(_levels(branching), replace=True), TreeRejection(replace=True))


def mcsd(branching: tuple[int, ...] = (4, 2, 2)) -> DraftVerify:
    """Tree speculation, siblings drawn without replacement (multi-candidate). Lossless.

    Args:
      branching: children of each node, level by level; at most the tokens that the warp keeps.

    Source: arXiv 2401.06706.
    """
    return DraftVerify(Tree(_levels(branching), replace=False), TreeRejection(replace=False))


def traversal(branching: tuple[int, ...] = (4, 2, 2), replace: bool = False) -> DraftVerify:
    """Tree speculation whose paths are tested whole, from the leaves up (traversal). Lossless.

    On a chain (1, 1, ...) it is block verification.

    Args:
      branching: children of each node, level by level; without replacement at most the tokens that
        the warp keeps.
      replace: whether siblings are drawn with replacement, as specinfer's, or without, as mcsd's.

    Source: arXiv 2505.12398.
    """
    return DraftVerify(Tree(_levels(branching), replace), Traversal(replace))


def rsd_s(depth: int = 4, width: int = 4) -> DraftVerify:
    """Tree speculation over beams drawn without replacement (RSD-S). Lossless.

    MMTAD's lattice, drawn instead of chosen: the lossless rule with a draft like its own.

    Args:
      depth: K, levels of the draft.
      width: W, beams drawn a level; 1 is speculative sampling.

    Source: arXiv 2402.14160.
    """
    return DraftVerify(StochasticBeams(depth, width), BeamRejection())


def spectr(depth: int = 4, chains: int = 4, rho: str = "best") -> DraftVerify:
    """Several chains drawn from q, tried in order at every position (SpecTr's K-SEQ). Lossless.

    Args:
      depth: K, tokens of each chain.
      chains: how many, >= 1.
      rho: "best" (found by bisection) or "chains" (the number of chains still alive).

    Raises:
      ValueError: a depth or number of chains below 1.

    Source: arXiv 2310.15141.
    """
    check_depth(depth)
    if chains < 1:
        raise ValueError(f"chains={chains} must be >= 1 (1 is speculative sampling)")
    return DraftVerify(Tree((chains, *(1,) * (depth - 1)), replace=True), SpecTr(rho))


def typical(
    depth: int = 4,
    width: int | None = None,
    epsilon: float = 0.09,
    alpha: float = 0.3,
    draft: str = "beam",
) -> DraftVerify:
    """Keep the deepest path of tokens that the target finds likely enough (Medusa). Lossy.

    Args:
      depth: K, drafted tokens of a path.
      width: W, beams of the draft or chains of the tree; None: 4. Not for draft="chain".
      epsilon: probability that is always enough, in (0, 1].
      alpha: share of exp(-entropy) that is enough, > 0.
      draft: "beam" (all nodes of the beams), "chain" (drawn from q), or "tree" (W chains whose
        first tokens differ, drawn from q: branching (W, 1, ..., 1) without replacement).

    Raises:
      ValueError: an unknown draft, or a width for a chain.

    Source: arXiv 2401.10774.
    """
    drafter = _draft_of(draft, ("beam", "chain", "tree"), depth, width, "tree")
    return DraftVerify(drafter, Typical(epsilon, alpha))


def bild(depth: int = 10, fallback: float = 0.6, rollback: float = 5.0) -> DraftVerify:
    """Draft while the draft is sure, roll back to what the target finds too unlikely (BiLD). Lossy.

    Args:
      depth: K, most drafted tokens.
      fallback: the draft stops before a token whose largest raw probability is below it.
      rollback: nats; the first token with -log p_raw above it is drawn again, from the target.

    Source: arXiv 2302.07863.
    """
    return DraftVerify(ConfidentChain(depth, fallback), Rollback(rollback))


def dsbd(depth: int = 4, width: int = 4, accept: float = 0.8) -> DraftVerify:
    """Speculative beam decoding with dynamic width, each round from one text (DSBD). Lossy.

    Args:
      depth: K, levels of the draft.
      width: W, beams drawn a level; 1 is speculative sampling.
      accept: as many beams are kept as will be accepted with at least this probability.

    Source: arXiv 2409.16560.
    """
    return DraftVerify(PairDraws(depth, width), DynamicWidth(accept))


def lookup(depth: int = 4, ngram: int = 3) -> DraftVerify:
    """Draft what followed the last earlier occurrence of the text's end: no draft model. Lossless.

    Args:
      depth: K, most drafted tokens.
      ngram: longest run of tokens that is looked for; at most the shortest prompt's length.

    Source: Saxena 2023, github.com/apoorvumang/prompt-lookup-decoding.
    """
    return DraftVerify(Lookup(depth, ngram), Rejection())


def suffix(
    depth: int = 4,
    longest: int = 16,
    corpus: str | Sequence[Sequence[int]] | np.ndarray | None = None,
) -> DraftVerify:
    """Draft what followed the longest end of the text that came before: no draft model. Lossless.

    Args:
      depth: K, most drafted tokens.
      longest: longest run of tokens that is looked for.
      corpus: .npy file of documents to look in, beside the text itself: token ids, a negative
        number after each document. In Python also the array, or a list of ids a document.

    Raises:
      ValueError: a corpus that is none, or too large.

    Source: arXiv 2411.10666; arXiv 2311.08252.
    """
    given = None if corpus is None else build_corpus(corpus, longest)
    return DraftVerify(Suffix(depth, longest, given), Rejection())


def recycle(depth: int = 4, width: int = 4, table: str | np.ndarray | None = None) -> DraftVerify:
    """Draft a tree of what the target found likely after each token before (token recycling).

    No draft model. Lossless.

    Args:
      depth: K, levels of the tree.
      width: W, next tokens that are kept of each token; a path by entries r_1, r_2, ... is in the
        tree if they multiply to at most W.
      table: .npy file of the next tokens that every text begins with, [V, W] ids, -1 for none; in
        Python also the array. None: none of any token.

    Raises:
      ValueError: the file is none of an array.
      OSError: it cannot be read.

    Source: arXiv 2408.08696.
    """
    given = read_ids("table", table) if isinstance(table, str) else table
    return DraftVerify(Recycling(depth, width, given), PointRejection())


def mtad(
    depth: int = 4,
    width: int = 4,
    tau: float = 0.5,
    draw: str = "search",
    bonus_temperature: float | None = None,
) -> DraftVerify:
    """Keep the longest prefix of the draft's best beam that passes (MTAD). Lossy.

    Args:
      depth: K, drafted tokens (the paper's gamma).
      width: W, beams of the draft.
      tau: threshold on the joint likelihood ratio, > 0.
      draw: "search" (the W likeliest) or "sample" (W drawn without replacement).
      bonus_temperature: temperature of the token that follows what is accepted; 0: the likeliest
        one, and with draw="search" nothing is drawn at all; None: the warp's, as in the paper.

    Source: arXiv 2407.09722.
    """
    drafter = Beam(depth, width, draw, "best")
    return DraftVerify(drafter, JointThreshold(tau), bonus_temperature)


def mmtad(
    depth: int = 4,
    width: int = 4,
    tau: float = 0.5,
    draw: str = "search",
    bonus_temperature: float | None = None,
) -> DraftVerify:
    """MTAD over all nodes of the draft's beam lattice, verified in one tree call. Lossy.

    Args:
      depth: K, drafted tokens (the paper's gamma).
      width: W, beams of the draft.
      tau: threshold on the joint likelihood ratio, > 0.
      draw: "search" (the W likeliest) or "sample" (W drawn without replacement).
      bonus_temperature: temperature of the token that follows what is accepted; 0: the likeliest
        one, and with draw="search" nothing is drawn at all; None: the warp's, as in the paper.

    Source: arXiv 2407.09722.
    """
    drafter = Beam(depth, width, draw, "tree")
    return DraftVerify(drafter, JointThreshold(tau), bonus_temperature)


def _levels(branching: Sequence[int]) -> tuple[int, ...]:
    """Return the children of a node, level by level; what they may be is checked with the rule.

    Raises:
      TypeError: it is no sequence, or a text.
    """
    if isinstance(branching, str) or not isinstance(branching, Sequence):
        raise TypeError(f"branching={branching!r} must be a number a level, such as (4, 2, 2)")
    return tuple(branching)


def _draft_of(
    draft: str, known: tuple[str, ...], depth: int, width: int | None, keep: str
) -> Beam | Chain | Tree:
    """Return the drafter that a recipe's `draft` names.

    Raises:
      ValueError: it is not one of `known`, or a width is given for a chain.
    """
    if draft not in known:
        raise ValueError(f"draft={draft!r} must be one of {', '.join(known)}")
    if draft == "chain":
        if width is not None:
            raise ValueError(f'width={width}: a chain has none: leave it out or use draft="beam"')
        return Chain(depth)
    width = _WIDTH if width is None else width
    if draft == "beam":
        return Beam(depth, width, "search", keep)
    check_depth(depth)
    return Tree((width, *(1,) * (depth - 1)), replace=False)


RECIPES: dict[str, Callable[..., Strategy]] = {
    "greedy": greedy,
    "sample": sample,
    "beam": beam,
    "mtjd": mtjd,
    "speculative_beam": speculative_beam,
    "speculative_mtjd": speculative_mtjd,
    "speculative": speculative,
    "threshold": threshold,
    "lenient": lenient,
    "cascade": cascade,
    "fuzzy": fuzzy,
    "mentored": mentored,
    "block": block,
    "specinfer": specinfer,
    "mcsd": mcsd,
    "traversal": traversal,
    "rsd_s": rsd_s,
    "spectr": spectr,
    "typical": typical,
    "bild": bild,
    "dsbd": dsbd,
    "lookup": lookup,
    "suffix": suffix,
    "recycle": recycle,
    "mtad": mtad,
    "mmtad": mmtad,
}
"""All recipes by name; `registry.find` knows those of other packages, too."""
