"""Random keys: one per row, folded with the row's length and a purpose.

A draw depends on the row's key, on how much text the row has, and on what the draw is for, and on
nothing else: not on the batch, the padding, the mesh, or how many rounds other rows needed.
"""

import jax
import jax.numpy as jnp

from mtad_jax.types import Array, Float, Int, Key

DRAFT, ACCEPT, BONUS = range(3)
"""Purposes of a draw within one round."""


def row_keys(
    seed: int | Int[Array, ""] | Int[Array, " B"], row_ids: Int[Array, " B"]
) -> Key[Array, " B"]:
    """Return one key a row: row `row_ids[b]` of stream `seed`, or `seed[b]`."""
    seeds = jnp.broadcast_to(jnp.asarray(seed), row_ids.shape)
    return jax.vmap(lambda s, row: jax.random.fold_in(jax.random.key(s), row))(seeds, row_ids)


def round_keys(
    keys: Key[Array, " B"],
    length: Int[Array, " B"],
    purpose: int,
    step: int | Int[Array, ""] = 0,
) -> Key[Array, " B"]:
    """Return each row's key for one purpose of the round that starts at `length` tokens."""

    def fold(key, n):
        return jax.random.fold_in(jax.random.fold_in(key, n), 1024 * purpose + step)

    return jax.vmap(fold)(keys, length)


def fold(keys: Key[Array, " B"], step: int) -> Key[Array, " B"]:
    """Return further keys of the same purpose, for draws of another kind.

    Keys that are folded must not be drawn from themselves.
    """
    return jax.vmap(lambda key: jax.random.fold_in(key, step))(keys)


def gumbel(keys: Key[Array, " B"], shape: tuple[int, ...]) -> Float[Array, "B ..."]:
    """Return standard Gumbel noise of `shape` for each row."""
    return jax.vmap(lambda key: jax.random.gumbel(key, shape, jnp.float32))(keys)


def uniform(keys: Key[Array, " B"], shape: tuple[int, ...]) -> Float[Array, "B ..."]:
    """Return uniforms on [0, 1) of `shape` for each row."""
    return jax.vmap(lambda key: jax.random.uniform(key, shape, jnp.float32))(keys)


def categorical(keys: Key[Array, " B"], logp: Float[Array, "B V"]) -> Int[Array, " B"]:
    """Draw one token a row in proportion to exp(logp); ids at minus infinity are never drawn."""
    noise = gumbel(keys, logp.shape[1:])
    return jnp.argmax(jnp.where(logp > -jnp.inf, logp + noise, -jnp.inf), axis=-1)
