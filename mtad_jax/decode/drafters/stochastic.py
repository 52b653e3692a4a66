"""RSD-S's draft: beams drawn without replacement from q, by stochastic beam search."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import struct

from mtad_jax.decode.beams import grow_beams
from mtad_jax.decode.draft import DraftTree
from mtad_jax.decode.drafters.base import last_logits
from mtad_jax.decode.drafters.beam import lattice_draft
from mtad_jax.decode.request import Request, check_depth, check_trees, check_width
from mtad_jax.decode.state import Controls, DecodeState
from mtad_jax.models.protocol import BoundLM


@struct.dataclass
class StochasticBeams:
    """W paths a depth, drawn without replacement from q: stochastic beam search.

    Each path of d tokens has the score log q(path) + Gumbel noise; one of d + 1 tokens has a score
    of its own, and the largest score of a path's children is the path's. The W largest of a depth
    stay, in falling order. So the places of depth d are the first W distinct paths of d tokens on
    texts that are drawn one after the other without replacement from q.

    What the children of a node are, given all of the tree above them: the i-th in falling order of
    their scores is drawn from q at the node without the i - 1 before it, whatever its score is. How
    many of them stay depends on scores alone, of this node's children and the others'. So siblings
    in this order, however many they are, are tokens that recursive rejection may try.

    An ended path keeps its place, which is no node. The lattice's other nodes are as in
    `Beam(keep="tree")`, in falling order of their scores; each node's reference is its own
    log q(path).

    Draws: those of `grow_beams` with "stochastic".

    Source: RSD-S, arXiv 2402.14160; stochastic beam search, arXiv 1903.06059.

    Attributes:
      depth: K, at least 1; static.
      width: W, at least 1 and at most the tokens that the warp keeps; static.
    """

    depth: int = struct.field(pytree_node=False)
    width: int = struct.field(pytree_node=False)

    needs_draft = True
    chain = False  # it is run with a window, even with one beam
    candidate = False  # each node has its own log q(path)
    drawn = False  # from q at their parent, but scores decide how many siblings there are
    deterministic = False

    @property
    def nodes(self) -> int:
        """Node 0 and W nodes a depth."""
        return 1 + self.depth * self.width

    def check(self, request: Request) -> None:
        """Raise ValueError on a depth or width out of range, or a model that runs chains only."""
        check_depth(self.depth)
        check_width(self.width, request.vocab, request.draft_top_k)
        check_trees(request)

    def propose(
        self, lm: BoundLM | None, state: DecodeState, controls: Controls
    ) -> tuple[DraftTree, Any]:
        """Return the lattice with q after each node above the last depth."""
        assert lm is not None
        logits, cache = last_logits(lm, state)
        lattice, cache = grow_beams(
            lm, logits[:, None], cache, state, controls, warp=controls.draft_warp,
            widths=(self.width,) * self.depth, draw="stochastic",
        )  # fmt: skip
        draft = lattice_draft(state, lattice)
        valid = draft.valid & ~draft.filler
        reference = jnp.concatenate([level.logq for level in lattice.levels], axis=1)
        reference = jnp.pad(reference, ((0, 0), (1, 0)))
        first = valid[:, 1 :: self.width]  # the largest score of each depth: one path
        return dataclasses.replace(
            draft,
            valid=valid,
            filler=jnp.zeros_like(valid),
            reference=jnp.where(valid, reference, 0.0),
            length=jnp.sum(first, axis=1),
            logq=jnp.concatenate(lattice.logp, axis=1),
        ), cache
