"""Ready-made strategies, each with its exact rule and whether it keeps the target's law.

*Lossless*: the text has the law of sampling from the warped target. *Lossy*: it does not, by
design. `docs/strategies.md` has the table.
"""

from mtad_jax.decode.beam_search import BeamSearch
from mtad_jax.decode.draft_verify import DraftVerify
from mtad_jax.decode.drafters import Beam, Chain, NoDraft
from mtad_jax.decode.verifiers import Ancestral, Argmax, JointThreshold, Rejection


def greedy() -> DraftVerify:
    """Take the likeliest token, one a call. Deterministic."""
    return DraftVerify(NoDraft(), Argmax())


def sample() -> DraftVerify:
    """Draw one token a call from the warped target. Lossless by definition."""
    return DraftVerify(NoDraft(), Ancestral())


def beam(width: int = 4, draw: str = "search") -> BeamSearch:
    """Beam search (or, with `draw="sample"`, beam sampling) on the target itself. Lossy.

    Emits the beam with the largest log-probability per token; streams nothing before its end.
    """
    return BeamSearch(width, draw)


def speculative(depth: int = 4) -> DraftVerify:
    """Speculative sampling: K = `depth` drafted tokens, kept by rejection sampling. Lossless.

    Source: Leviathan et al. 2023; Chen et al. 2023.
    """
    return DraftVerify(Chain(depth), Rejection())


def mtad(depth: int = 4, width: int = 4, tau: float = 0.5, draw: str = "search") -> DraftVerify:
    """Keep the longest prefix of the draft's best beam that passes (MTAD). Lossy.

    Args:
      depth: K, drafted tokens (the paper's gamma).
      width: W, beams of the draft.
      tau: threshold on the joint likelihood ratio, > 0.
      draw: "search" (the W likeliest) or "sample" (W drawn without replacement).

    Source: arXiv 2407.09722.
    """
    return DraftVerify(Beam(depth, width, draw, "best"), JointThreshold(tau))


def mmtad(depth: int = 4, width: int = 4, tau: float = 0.5, draw: str = "search") -> DraftVerify:
    """MTAD over all nodes of the draft's beam lattice, verified in one tree call. Lossy.

    Args and source: as `mtad`.
    """
    return DraftVerify(Beam(depth, width, draw, "tree"), JointThreshold(tau))
