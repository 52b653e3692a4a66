"""DSBD's draft: beams drawn with replacement from the joint of beams and tokens."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import struct

from mtad_jax.decode.beams import grow_beams
from mtad_jax.decode.draft import DraftTree
from mtad_jax.decode.drafters.base import last_logits
from mtad_jax.decode.drafters.beam import lattice_draft
from mtad_jax.decode.request import Request, check_depth, check_trees, check_whole
from mtad_jax.decode.state import Controls, DecodeState
from mtad_jax.models.protocol import BoundLM


@struct.dataclass
class PairDraws:
    """W beams a depth, each drawn *with* replacement from the joint of beams and tokens.

    At each depth W pairs of a beam and a token are drawn from
    Q(b, v) = q(path_b) q(v | path_b) / the sum over the draft's beams; an ended beam offers one
    pair, itself. Equal draws stay separate beams. The lattice's nodes are as in `Beam(keep="tree")`
    in draw order; each node's reference is its own log q(path), x* is the likeliest beam of the
    last depth.

    Draws: those of `grow_beams` with "replace".

    Source: DSBD, arXiv 2409.16560. Its public code draws without replacement and verifies as if
    with.

    Attributes:
      depth: K, at least 1; static.
      width: W, at least 1; static.
    """

    depth: int = struct.field(pytree_node=False)
    width: int = struct.field(pytree_node=False)

    needs_draft = True
    chain = False  # it is run with a window, even with one beam
    candidate = False  # each node has its own log q(path)
    drawn = False  # nodes come from the joint of all beams, not from q at their parent
    deterministic = False

    @property
    def nodes(self) -> int:
        """Node 0 and W nodes a depth."""
        return 1 + self.depth * self.width

    def check(self, request: Request) -> None:
        """Raise ValueError on a depth or width below 1, or a model that runs chains only."""
        check_depth(self.depth)
        check_whole("width", self.width)
        if self.width < 1:
            raise ValueError(f"width={self.width} must be >= 1: draw at least one beam")
        check_trees(request)

    def propose(
        self, lm: BoundLM | None, state: DecodeState, controls: Controls
    ) -> tuple[DraftTree, Any]:
        """Return the lattice with q after each node above the last depth."""
        assert lm is not None
        logits, cache = last_logits(lm, state)
        lattice, cache = grow_beams(
            lm, logits[:, None], cache, state, controls, warp=controls.draft_warp,
            widths=(self.width,) * self.depth, draw="replace",
        )  # fmt: skip
        draft = lattice_draft(state, lattice)
        reference = jnp.concatenate([level.logq for level in lattice.levels], axis=1)
        return dataclasses.replace(
            draft,
            reference=jnp.pad(reference, ((0, 0), (1, 0))),
            logq=jnp.concatenate(lattice.logp, axis=1),
        ), cache
