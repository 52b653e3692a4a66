"""Recursive rejection over beams that are drawn: RSD-S's rule."""

import jax.numpy as jnp
from flax import struct

from mtad_jax.decode import random
from mtad_jax.decode.draft import DraftTree, take
from mtad_jax.decode.drafters.stochastic import StochasticBeams
from mtad_jax.decode.protocols import Drafter, Verdict
from mtad_jax.decode.request import Request
from mtad_jax.decode.state import Controls
from mtad_jax.decode.verifiers.base import Lossless
from mtad_jax.decode.verifiers.lossless.tree import try_in_turn
from mtad_jax.types import Array, Float, Key


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
        assert tree.logq is not None
        width = tree.depth.count(1)
        u = random.uniform(keys, (len(tree.depth) - 1,))
        leaf, going = jnp.zeros_like(tree.length), jnp.ones(tree.length.shape, bool)
        bonus = logp[:, 0]
        for level in range(tree.max_depth):
            here = slice(1 + level * width, 1 + (level + 1) * width)
            tried = tree.valid[:, here] & (tree.parent[:, here] == leaf[:, None])
            at = jnp.where(going, leaf, 0)
            chosen, rest = try_in_turn(
                jnp.exp(take(logp, at)), jnp.exp(take(tree.logq, at)), tree.tokens[:, here],
                tried & going[:, None], u[:, here.start - 1 : here.stop - 1], replace=False,
            )  # fmt: skip
            moves = chosen < width
            bonus = jnp.where((going & ~moves)[:, None], jnp.log(rest), bonus)
            leaf = jnp.where(moves, here.start + chosen, leaf)
            going = moves
        return Verdict(leaf, jnp.where(going[:, None], take(logp, leaf), bonus))
