"""The draft of a round: a tree of candidate tokens, in topological order.

Node 0 is the last committed token; the others are candidates, each after its parent. A chain is a
tree, so is a beam lattice, so is nothing but node 0. In both models' caches node i of the tree
that is *verified* takes scratch slot i, counted from the last committed token's slot.
"""

import jax
import jax.numpy as jnp
from flax import struct

from mtad_jax.types import Array, Bool, Float, Int


@struct.dataclass
class DraftTree:
    """Candidate tokens after the committed text.

    Attributes:
      tokens: [B, N] token of each node; node 0 holds the last committed token.
      parent: [B, N] index of each node's parent, smaller than its own (node 0: 0).
      valid: [B, N] whether the node was really drafted; an invalid node never passes.
      filler: [B, N] place that an ended path keeps at a deeper level: a node, but not text.
      reference: [B, N] log q that the node's path is compared with. Of a chain: of its own first
        depth(node) tokens. Of a beam lattice: of the candidate x*'s first depth(node) tokens. Of a
        tree, and of pairs drawn for DSBD: of the node's own path (log-ratios are reported with
        it, and DSBD's weights are made of it; no threshold may use it). Minus infinity nowhere.
      length: [B] tokens of the candidate x* (no fillers), or of a tree's first path: what `drafted`
        counts.
      logq: [B, M, V] warped draft distribution after node i, which the children of node i were
        drawn from, for the M nodes above the deepest level; None where the nodes were chosen, not
        drawn: then no lossless rule can use them.
      window: [B, N, N] which nodes each node sees: its ancestors and itself; None for a chain.
      slot: [B, N] scratch slot of each node in the draft model's cache; None: the node's own index.
      depth: level of each node; static.
      scratch: scratch slots that the draft took in the draft model's cache, node 0's among them;
        static.
      logits: [B, M, V] what `logq` was made of, before any control or warp; None where no rule
        asks for it: only `Chain` has it.
    """

    tokens: Int[Array, "B N"]
    parent: Int[Array, "B N"]
    valid: Bool[Array, "B N"]
    filler: Bool[Array, "B N"]
    reference: Float[Array, "B N"]
    length: Int[Array, " B"]
    logq: Float[Array, "B M V"] | None
    window: Bool[Array, "B N N"] | None
    slot: Int[Array, "B N"] | None
    depth: tuple[int, ...] = struct.field(pytree_node=False)
    scratch: int = struct.field(pytree_node=False)
    logits: Float[Array, "B M V"] | None = None

    @property
    def max_depth(self) -> int:
        """K, the deepest level."""
        return self.depth[-1]

    @property
    def is_chain(self) -> bool:
        """Whether each node is the only one of its level, so that accepted nodes are in place."""
        return self.window is None


def take(values: Array, index: Int[Array, "B ..."]) -> Array:
    """Return `values[b, index[b, ...]]`, for values of [B, N, *rest]."""
    flat = index.reshape(index.shape[0], -1)
    flat = flat.reshape(flat.shape + (1,) * (values.ndim - 2))
    # In bounds by construction: no mask is computed for indices that are not.
    picked = jnp.take_along_axis(values, flat, axis=1, mode="clip")
    return picked.reshape(index.shape + values.shape[2:])


def pick(
    values: Float[Array, "B N V"], node: Int[Array, "B M"], token: Int[Array, "B M"]
) -> Float[Array, "B M"]:
    """Return `values[b, node, token]`."""
    return take(values.reshape(values.shape[0], -1), node * values.shape[-1] + token)


def pick_logp(
    logits: Float[Array, "B N V"], node: Int[Array, "B M"], token: Int[Array, "B M"]
) -> Float[Array, "B M"]:
    """Return `log_softmax(logits)[b, node, token]`, of which only these values are computed."""
    return pick(logits, node, token) - take(jax.nn.logsumexp(logits, axis=-1), node)


def path_to(tree: DraftTree, leaf: Int[Array, " B"]) -> Int[Array, "B K"]:
    """Return the nodes from depth 1 to the leaf; 0 at depths past the leaf's."""
    depth = jnp.asarray(tree.depth)
    node, path = leaf, []
    for level in range(tree.max_depth, 0, -1):
        here = depth[node] == level
        path.append(jnp.where(here, node, 0))
        node = jnp.where(here, take(tree.parent, node), node)
    if not path:
        return jnp.zeros((leaf.shape[0], 0), leaf.dtype)
    return jnp.stack(path[::-1], axis=1)


def node_logp(tree: DraftTree, logp: Float[Array, "B N V"]) -> Float[Array, "B N"]:
    """Return log p(node's token | its parent's path); 0 for node 0 and for fillers."""
    value = pick(logp, tree.parent, tree.tokens)
    text = ~tree.filler & (jnp.asarray(tree.depth) > 0)
    return jnp.where(text, value, 0.0)


def path_sum(tree: DraftTree, value: Float[Array, "B N"]) -> Float[Array, "B N"]:
    """Sum `value` from depth 1 down to each node, in the order in which the draft added it up.

    The same order makes the two sums equal bit for bit where draft and target are one model.
    """
    depth = jnp.asarray(tree.depth)
    total = jnp.where(depth == 0, 0.0, value)
    for level in range(2, tree.max_depth + 1):
        total = jnp.where(depth == level, take(total, tree.parent) + value, total)
    return total
