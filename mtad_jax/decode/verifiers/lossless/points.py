"""Trees of chosen candidates: the children of a node are what a draw from p may be."""

import jax.numpy as jnp
import numpy as np
from flax import struct

from mtad_jax.decode import random
from mtad_jax.decode.draft import DraftTree, node_logp, take
from mtad_jax.decode.protocols import Drafter, Verdict
from mtad_jax.decode.request import Request
from mtad_jax.decode.state import Controls
from mtad_jax.decode.verifiers.base import Lossless
from mtad_jax.types import Array, Bool, Float, Int, Key


@struct.dataclass
class PointRejection(Lossless):
    """Tree speculation on candidates that nobody drew: q is a point mass at each. Lossless.

    At a node p is the target's law. Its children are tried in order; the one with token x is
    accepted iff u < p(x) / (1 - the p of its elder siblings). So each is reached with probability
    p(x), as if a token were drawn from p: if it is a child, go on there; if not, it is the bonus,
    whose law is p without the children's tokens. An equal sibling is tried once. It is `Rejection`
    on a chain of point masses. Needs a draft that the text before it decides.

    Draws: u = `uniform(keys, (N - 1,))`, u[i - 1] for node i.

    Source: tree speculation, arXiv 2305.09781, with a point mass for each child's q.
    """

    def check(self, drafter: Drafter, request: Request) -> None:
        """Raise ValueError on a draft that is drawn."""
        if not drafter.deterministic:
            raise ValueError(
                f"drafter={type(drafter).__name__}: point rejection judges candidates that the "
                "text decides, not drawn ones: draft with Recycling, Suffix or Beam (search)"
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
        nodes = len(tree.depth)
        u = jnp.pad(random.uniform(keys, (nodes - 1,)), ((0, 0), (1, 0)))
        elder = tree.parent[:, :, None] == tree.parent[:, None, :]
        elder &= np.tri(nodes, k=-1, dtype=bool)
        tried = tree.valid & ~tree.filler
        equal = tree.tokens[:, :, None] == tree.tokens[:, None, :]
        tried &= ~jnp.any(elder & equal & tried[:, None, :], axis=2)
        p = jnp.where(tried, jnp.exp(node_logp(tree, logp)), 0.0)
        left = jnp.maximum(1.0 - jnp.sum(jnp.where(elder, p[:, None, :], 0.0), axis=2), 0.0)
        passes = tried & (u * left < p)
        chosen = passes & ~jnp.any(elder & passes[:, None, :], axis=2)
        leaf = _reached(tree, chosen)
        child = tried & (tree.parent == leaf[:, None])
        return Verdict(leaf, _without(take(logp, leaf), tree.tokens, child))


def _reached(tree: DraftTree, chosen: Bool[Array, "B N"]) -> Int[Array, " B"]:
    """Return the deepest node whose path was chosen, node by node; 0: none was."""
    depth = np.array(tree.depth)
    reached = jnp.broadcast_to(depth == 0, chosen.shape)
    for level in range(1, tree.max_depth + 1):
        reached |= (depth == level) & chosen & take(reached, tree.parent)
    # One node a level is reached, and levels follow one another.
    return jnp.max(jnp.where(reached, jnp.arange(len(depth)), 0), axis=1)


def _without(
    logp: Float[Array, "B V"], tokens: Int[Array, "B N"], gone: Bool[Array, "B N"]
) -> Float[Array, "B V"]:
    """Return log p without the tokens that are gone; nothing left is rounding: p then."""
    vocab = jnp.arange(logp.shape[1])
    out = jnp.any((tokens[:, :, None] == vocab) & gone[:, :, None], axis=1)
    rest = jnp.where(out, -jnp.inf, logp)
    some = jnp.any(rest > -jnp.inf, axis=1, keepdims=True)
    return jnp.where(some, rest, logp)
