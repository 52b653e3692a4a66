"""What the lossless rules share: q of what was drawn, and residuals."""

import jax.numpy as jnp

from mtad_jax.decode.draft import DraftTree, pick, take
from mtad_jax.types import Array, Bool, Float, Int


def drawn_logq(tree: DraftTree) -> Float[Array, "B K"]:
    """Return log q of each drafted token of a chain, 0 past its end."""
    assert tree.logq is not None
    step = jnp.broadcast_to(jnp.arange(tree.max_depth), tree.tokens[:, 1:].shape)
    value = pick(tree.logq, step, tree.tokens[:, 1:])
    return jnp.where(tree.valid[:, 1:], value, 0.0)


def next_logq(tree: DraftTree, leaf: Int[Array, " B"]) -> Float[Array, "B V"]:
    """Return q after node `leaf` of a chain; the last that there is, past it."""
    assert tree.logq is not None
    return take(tree.logq, jnp.minimum(leaf, tree.max_depth - 1))


def log_rest(
    rest: Float[Array, "B V"], log_p: Float[Array, "B V"], rejected: Bool[Array, " B"]
) -> Float[Array, "B V"]:
    """Return the log of a residual where something was rejected, log p elsewhere.

    A residual without mass is a matter of rounding: p then.
    """
    use = rejected & (jnp.sum(rest, axis=1) > 0)
    return jnp.where(use[:, None], jnp.log(rest), log_p)


def normalised(mass: Float[Array, "B V"], before: Float[Array, "B V"]) -> Float[Array, "B V"]:
    """Return `mass` with sum 1; `before` where there is none."""
    total = jnp.sum(mass, axis=1, keepdims=True)
    return jnp.where(total > 0, mass / jnp.where(total > 0, total, 1.0), before)
