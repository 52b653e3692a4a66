"""Distributions over pairs of a beam and a token, and the tests of draws from them (DSBD)."""

import jax
import jax.numpy as jnp
from jax import lax

from mtad_jax.decode.draft import pick
from mtad_jax.types import Array, Bool, Float, Int


def dynamic_width(
    p: Float[Array, "B U V"], q: Float[Array, "B U V"], width: int, threshold: float | Array
) -> Int[Array, " B"]:
    """Return n* = max(1, the largest n with P(N >= n) >= threshold).

    N is the number accepted in W draws without stopping: after r rejections in a row the next is
    accepted with alpha_r = sum min(R_r, Q), where R_0 = P and R_{r+1} = norm(max(0, R_r - Q)).
    """
    _, alpha = lax.scan(lambda r, _: (_less(r, q), _overlap(r, q)), p, length=width)
    alpha = jnp.pad(alpha.T, ((0, 0), (0, 1)))[:, None]  # --> [B, 1, W+1]; the last is not reached
    chance = jnp.zeros((p.shape[0], width + 1, width + 1))  # of (accepted, rejections in a row)
    chance = chance.at[:, 0, 0].set(1.0)
    for _ in range(width):
        hit = jnp.sum(chance * alpha, axis=2)
        miss = jnp.pad(chance * (1 - alpha), ((0, 0), (0, 0), (1, 0)))[:, :, :-1]
        chance = miss.at[:, 1:, 0].add(hit[:, :-1])
    tail = jnp.cumsum(jnp.sum(chance, axis=2)[:, ::-1], axis=1)[:, ::-1]  # P(N >= n)
    n = jnp.arange(width + 1)
    return jnp.max(jnp.where((tail >= threshold) | (n == 1), n, 0), axis=1)


def pair_law(
    weight: Float[Array, "B U"], logp: Float[Array, "B U V"], ended: Bool[Array, "B U"]
) -> Float[Array, "B U V"]:
    """Return the probability of every pair; an ended beam offers column 0 of its row alone."""
    itself = jnp.arange(logp.shape[2]) == 0
    return weight[:, :, None] * jnp.where(ended[:, :, None], itself, jnp.exp(logp))


def _overlap(r: Float[Array, "B U V"], q: Float[Array, "B U V"]) -> Float[Array, " B"]:
    """Return sum min(R, Q), at most 1."""
    return jnp.minimum(jnp.sum(jnp.minimum(r, q), axis=(1, 2)), 1.0)


def _less(r: Float[Array, "B U V"], q: Float[Array, "B U V"]) -> Float[Array, "B U V"]:
    """Return norm(max(0, R - Q)); R where that has no mass, which is a matter of rounding."""
    rest = jnp.maximum(r - q, 0.0)
    mass = jnp.sum(rest, axis=(1, 2), keepdims=True)
    return jnp.where(mass > 0, rest / jnp.where(mass > 0, mass, 1.0), r)


def passing_draws(
    p: Float[Array, "B U V"],
    q: Float[Array, "B U V"],
    drawn: tuple[Int[Array, "B W"], Int[Array, "B W"]],
    u: Float[Array, "B W"],
    wanted: Int[Array, " B"],
) -> tuple[Bool[Array, "B W"], Float[Array, "B U V"]]:
    """Return which draws pass, until `wanted` have, and R after the last test."""

    def one(carry, draw):
        r, count = carry
        parent, token, u = draw
        r_of, q_of = (pick(x, parent[:, None], token[:, None])[:, 0] for x in (r, q))
        still = count < wanted
        # Q is 0 after a dead parent.
        can = still & (r_of > 0) & (q_of > 0)
        ratio = jnp.log(jnp.where(can, r_of, 1.0)) - jnp.log(jnp.where(can, q_of, 1.0))
        passes = can & (jnp.log(u) < ratio)
        rejected = (still & ~passes)[:, None, None]
        r = jnp.where(passes[:, None, None], p, jnp.where(rejected, _less(r, q), r))
        return (r, count + passes), passes

    start = p, jnp.zeros_like(wanted)
    by_draw = jax.tree.map(lambda x: x.T, (*drawn, u))
    (rest, _), passed = lax.scan(one, start, by_draw)
    return passed.T, rest
