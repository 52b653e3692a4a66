"""Recursive rejection over beams that are drawn: RSD-S's rule."""

import jax.numpy as jnp
from flax import struct

from mtad_jax.decode.draft import DraftTree
from mtad_jax.decode.drafters.stochastic import StochasticBeams
from mtad_jax.decode.protocols import Drafter, Verdict
from mtad_jax.decode.request import Request
from mtad_jax.decode.state import Controls
from mtad_jax.decode.verifiers.base import Lossless
from mtad_jax.decode.verifiers.lossless.tree import reject_down
from mtad_jax.types import Array, Float, Int, Key


@struct.dataclass
class BeamRejection(Lossless):
    """Tree rejection without replacement, over the lattice of a stochastic beam search. Lossless.

    From the root on, the children that a node has in the next depth are tried in falling order of
    their scores; otherwise as `TreeRejection(replace=False)`. A node may have none. With one beam
    it is speculative sampling, with one depth tree rejection of one level.

    Draws: u = `uniform(keys, (N - 1,))`, u[i - 1] for node i.

    Source: RSD-S, arXiv 2402.14160.
    """

    def check(self, drafter: Drafter, request: Request) -> None:
        """Raise ValueError on another draft."""
        if not isinstance(drafter, StochasticBeams):
            name = type(drafter).__name__
            raise ValueError(
                f"drafter={name}: RSD-S tries siblings in the order of their scores: draft with "
                "StochasticBeams"
            )

    def verify(
        self,
        tree: DraftTree,
        logp: Float[Array, "B N V"],
        logits: Float[Array, "B N V"],
        keys: Key[Array, " B"],
        controls: Controls,
    ) -> Verdict:
        """Judge a draft; see `Verifier.verify`."""
        width = tree.depth.count(1)

        def children(level: int, leaf: Int[Array, " B"]) -> Int[Array, "B W"]:
            here = 1 + level * width + jnp.arange(width)
            return jnp.broadcast_to(here, (leaf.shape[0], width))

        return reject_down(tree, logp, keys, children, replace=False)
