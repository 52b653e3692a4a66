"""Tree speculation: the children of a node are tried in draw order."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import struct

from mtad_jax.decode import random
from mtad_jax.decode.draft import DraftTree, take
from mtad_jax.decode.protocols import Drafter, Verdict
from mtad_jax.decode.request import Request
from mtad_jax.decode.state import Controls
from mtad_jax.decode.verifiers.base import Lossless, check_drawn, check_replace
from mtad_jax.decode.verifiers.lossless.residual import normalised
from mtad_jax.types import Array, Bool, Float, Int, Key


@struct.dataclass
class TreeRejection(Lossless):
    """Tree speculation: from the root on, children are tried in draw order. Lossless.

    At a node p is the target's law. A child with token x is accepted iff u < p(x)/q(x); p is the
    target's at the child then. Else p becomes norm(max(0, p - q)), and without replacement
    q(x) becomes 0 and q is normalised again. Where no child is accepted, the bonus is drawn from
    the last p. Equal siblings are tried one by one. Needs a tree drawn from q.

    Draws: u = `uniform(keys, (N - 1,))`, u[i - 1] for node i.

    Source: SpecInfer, arXiv 2305.09781 (with replacement); multi-candidate speculative decoding,
    arXiv 2401.06706 (without).

    Attributes:
      replace: whether siblings were drawn with replacement; as the tree's. Static.
    """

    replace: bool = struct.field(pytree_node=False)

    def check(self, drafter: Drafter, request: Request) -> None:
        """Raise ValueError on a draft not drawn from q, or drawn in the other way."""
        check_drawn(drafter, "tree rejection")
        check_replace(drafter, self.replace)

    def verify(
        self,
        tree: DraftTree,
        logp: Float[Array, "B N V"],
        logits: Float[Array, "B N V"],
        keys: Key[Array, " B"],
        controls: Controls,
    ) -> Verdict:
        """Judge a draft; see `Verifier.verify`."""
        sizes = [tree.depth.count(level) for level in range(tree.max_depth + 1)]

        def children(level: int, leaf: Int[Array, " B"]) -> Int[Array, "B C"]:
            count, first = sizes[level + 1] // sizes[level], sum(sizes[:level])
            place = jnp.maximum(leaf - first, 0)  # in the level; any where a row goes no further
            return first + sizes[level] + place[:, None] * count + jnp.arange(count)

        return reject_down(tree, logp, keys, children, replace=self.replace)


def reject_down(
    tree: DraftTree,
    logp: Float[Array, "B N V"],
    keys: Key[Array, " B"],
    children: Callable[[int, Int[Array, " B"]], Int[Array, "B C"]],
    *,
    replace: bool,
) -> Verdict:
    """Judge a tree from the root on: at each node its children are tried in turn.

    `children(level, leaf)` gives the nodes of the level below that may be the leaf's, in the order
    in which they are tried; those that are not are left out.

    Draws: u = `uniform(keys, (N - 1,))`, u[i - 1] for node i.
    """
    assert tree.logq is not None
    u = random.uniform(keys, (len(tree.depth) - 1,))
    leaf, going = jnp.zeros_like(tree.length), jnp.ones(tree.length.shape, bool)
    bonus = logp[:, 0]
    for level in range(tree.max_depth):
        child = children(level, leaf)
        tried = take(tree.valid, child) & (take(tree.parent, child) == leaf[:, None])
        p, q = jnp.exp(take(logp, leaf)), jnp.exp(take(tree.logq, leaf))
        chosen, rest = try_in_turn(
            p, q, take(tree.tokens, child), tried & going[:, None], take(u, child - 1),
            replace=replace,
        )  # fmt: skip
        moves = chosen < child.shape[1]
        bonus = jnp.where((going & ~moves)[:, None], jnp.log(rest), bonus)
        leaf = jnp.where(moves, take(child, jnp.minimum(chosen, child.shape[1] - 1)), leaf)
        going = moves
    return Verdict(leaf, jnp.where(going[:, None], take(logp, leaf), bonus))


def try_in_turn(
    p: Float[Array, "B V"],
    q: Float[Array, "B V"],
    token: Int[Array, "B C"],
    tried: Bool[Array, "B C"],
    u: Float[Array, "B C"],
    *,
    replace: bool,
) -> tuple[Int[Array, " B"], Float[Array, "B V"]]:
    """Return which of C siblings is accepted (C: none), and p after those that were not."""
    count = token.shape[1]
    chosen = jnp.full(token.shape[:1], count)
    for i in range(count):
        own = token[:, i, None] == jnp.arange(p.shape[1])
        p_x, q_x = take(p, token[:, i]), take(q, token[:, i])
        test = tried[:, i] & (chosen == count)
        passes = test & (u[:, i] * q_x < p_x)
        chosen = jnp.where(passes, i, chosen)
        fails = (test & ~passes)[:, None]
        p = jnp.where(fails, normalised(jnp.maximum(p - q, 0.0), p), p)
        if not replace:
            q = jnp.where(fails, normalised(jnp.where(own, 0.0, q), q), q)
    return chosen, p
