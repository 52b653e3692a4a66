"""Traversal verification: block verification carried over to trees, from the leaves to the root."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from mtad_jax.decode import random
from mtad_jax.decode.draft import DraftTree, take
from mtad_jax.decode.protocols import Drafter, Verdict
from mtad_jax.decode.request import Request
from mtad_jax.decode.state import Controls
from mtad_jax.decode.verifiers.base import Lossless, check_drawn, check_replace
from mtad_jax.types import Array, Bool, Float, Int, Key


@struct.dataclass
class Traversal(Lossless):
    """Traversal verification: from the leaves to the root, paths are tested whole. Lossless.

    A node has a budget a (the root's is 1), a law p (the target's) and a law q (the draft's). Its
    children are offered in draw order: one with token x gets the budget min(1, a p(x)/q(x)). Then
    S = sum_v max(0, a p - q), p becomes norm(max(0, a p - q)), a becomes S / (S + 1 - a) (1 where
    a = 1), and without replacement q(x) becomes 0 and q is normalised again. The path to a node
    passes iff u < a, after all its children; the first that passes in post-order (children in draw
    order, then their parent) is accepted, and the bonus is drawn from the last p of its end. The
    root passes always. On a chain it is block verification, on a tree of one level tree rejection.
    Needs a tree drawn from q.

    Nothing of this depends on a u, so the levels are computed from the root down, all nodes of one
    at once.

    Draws: u = `uniform(keys, (N - 1,))`, u[i - 1] for node i.

    Source: arXiv 2505.12398, algorithm 3. Its last line draws the bonus "from M_b": that is the
    residual which the loop left there, not the target's law.

    Attributes:
      replace: whether siblings were drawn with replacement; as the tree's. Static.
    """

    replace: bool = struct.field(pytree_node=False)

    def check(self, drafter: Drafter, request: Request) -> None:
        """Raise ValueError on a draft not drawn from q, or drawn in the other way."""
        check_drawn(drafter, "traversal verification")
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
        assert tree.logq is not None
        sizes = [tree.depth.count(level) for level in range(tree.max_depth + 1)]
        budget, first = jnp.zeros_like(logp[:, :1, 0]), 0  # log a of the level's nodes
        budgets, laws = [], []
        for above, here in zip(sizes, sizes[1:], strict=False):
            nodes, below = slice(first, first + above), slice(first + above, first + above + here)
            token, drawn = tree.tokens[:, below], tree.valid[:, below]
            budget, law, below_budget = self._offer_all(
                budget, logp[:, nodes], tree.logq[:, nodes], token, drawn
            )
            budgets, laws = [*budgets, budget], [*laws, law]
            budget, first = below_budget, first + above
        budgets, laws = [*budgets, budget], [*laws, logp[:, first:]]
        u = random.uniform(keys, (len(tree.depth) - 1,))
        passes = tree.valid[:, 1:] & (u < jnp.exp(jnp.concatenate(budgets, axis=1)[:, 1:]))
        passes = jnp.pad(passes, ((0, 0), (1, 0)), constant_values=True)
        turn = jnp.where(passes, _turns(sizes), len(tree.depth))
        leaf = jnp.argmin(turn, axis=1)
        return Verdict(leaf, take(jnp.concatenate(laws, axis=1), leaf))

    def _offer_all(
        self,
        budget: Float[Array, "B U"],
        p: Float[Array, "B U V"],
        q: Float[Array, "B U V"],
        token: Int[Array, "B C"],
        drawn: Bool[Array, "B C"],
    ) -> tuple[Float[Array, "B U"], Float[Array, "B U V"], Float[Array, "B C"]]:
        """Offer the children of U nodes, the same number each.

        Returns log a and log p of each node after all of them, and log a of each child.
        """
        batch, nodes = budget.shape
        token, drawn = token.reshape(batch, nodes, -1), drawn.reshape(batch, nodes, -1)
        below = []
        for i in range(token.shape[2]):
            x, tried = token[..., i, None], drawn[..., i]
            p_x = jnp.take_along_axis(p, x, axis=2)[..., 0]
            q_x = jnp.where(tried, jnp.take_along_axis(q, x, axis=2)[..., 0], 0.0)
            below.append(jnp.where(tried, jnp.minimum(budget + (p_x - q_x), 0.0), -jnp.inf))
            after, rest = _rest(budget, p, q)
            budget = jnp.where(tried, after, budget)
            p = jnp.where(tried[..., None], rest, p)
            if not self.replace:  # none is tried after one that could not be drawn
                q = _without(q, x)
        return budget, p, jnp.stack(below, axis=2).reshape(batch, -1)


def _rest(
    budget: Float[Array, "B U"], p: Float[Array, "B U V"], q: Float[Array, "B U V"]
) -> tuple[Float[Array, "B U"], Float[Array, "B U V"]]:
    """Return log a and log p after a child that did not pass.

    Without mass p stays; where a = 1 besides, only rounding can have failed the child, and a stays.
    """
    rest = jnp.maximum(jnp.exp(budget[..., None] + p) - jnp.exp(q), 0.0)
    mass, slack = jnp.sum(rest, axis=2), -jnp.expm1(budget)  # S, 1 - a
    after = jnp.log(mass / jnp.where(slack > 0, mass + slack, 1.0))
    some = mass[..., None] > 0
    law = jnp.where(some, jnp.log(rest / jnp.where(some, mass[..., None], 1.0)), p)
    return jnp.where(slack > 0, after, 0.0), law


def _without(q: Float[Array, "B U V"], token: Int[Array, "B U 1"]) -> Float[Array, "B U V"]:
    """Return log q without a token, normalised; q where nothing else has mass."""
    left = jnp.where(token == jnp.arange(q.shape[2]), -jnp.inf, q)
    total = jax.nn.logsumexp(left, axis=2, keepdims=True)
    return jnp.where(total > -jnp.inf, left - total, q)


def _turns(sizes: list[int]) -> Int[np.ndarray, " N"]:
    """Return when each node's turn is in post-order, levels of `sizes` nodes in topological order.

    By the last leaf below it, and deeper nodes first where that is the same.
    """
    last = np.concatenate([np.arange(1, size + 1) * (sizes[-1] // size) for size in sizes])
    level = np.repeat(np.arange(len(sizes)), sizes)
    return np.argsort(np.lexsort((-level, last)))
