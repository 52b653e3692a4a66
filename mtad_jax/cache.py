"""Key/value cache: the only file that knows its layout.

A *slot* is a place in the buffer; a *position* is what the model's position encoding sees. Token i
of a row lives in slot i. Slots at or past a row's committed length are scratch: anything may be
written there, and nothing there is seen unless a window allows it.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from mtad_jax.types import Array, Bool, Float, Int

CACHE_AXES = ("batch", "kv_heads", "slots", "head_dim")
"""Logical axis names of every cache buffer; sharding rules map them to mesh axes."""

# Rows up to this many are written by one dynamic_update_slice each, which XLA does in place; above
# it the program would grow with the batch, so the rows share one scatter.
_UNROLLED_ROWS = 8


@struct.dataclass
class LayerCache:
    """Keys and values of one layer, head-major so that one row's slots are contiguous.

    Attributes:
      k: keys after the position encoding, [B, G, S, D].
      v: values, [B, G, S, D].
    """

    k: Float[Array, "B G S D"]
    v: Float[Array, "B G S D"]


KVCache = tuple[LayerCache, ...]
"""One `LayerCache` a layer. Separate buffers: a stacked one is copied slice by slice in a loop."""


def empty_cache(
    layers: int, batch: int, kv_heads: int, slots: int, head_dim: int, dtype: jnp.dtype
) -> KVCache:
    """Return a cache of zeros with `slots` places for each of `batch` rows."""
    shape = (batch, kv_heads, slots, head_dim)
    return tuple(
        LayerCache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for _ in range(layers)
    )


def write(
    cache: LayerCache,
    k: Float[Array, "B G T D"],
    v: Float[Array, "B G T D"],
    write_at: Int[Array, " B"],
) -> LayerCache:
    """Write T keys and values of each row to the slots `write_at[b] ... write_at[b] + T - 1`.

    The caller guarantees that they fit: `dynamic_update_slice` clamps silently.
    """
    return LayerCache(_write_rows(cache.k, k, write_at), _write_rows(cache.v, v, write_at))


def keep(
    cache: KVCache, source: Int[Array, "B M"], dest: Int[Array, " B"], *, span: int
) -> KVCache:
    """Copy slot `source[b, m]` to slot `dest[b] + m`; everything else stays, and is scratch.

    All slots are read before the first is written, so source and destination may overlap. Every
    source lies in the `span` slots from `dest[b] - 1` on, a round's scratch: that much is read as
    one slice, and the gather is over it, not over the cache.
    """
    first = dest - 1
    index = (source - first[:, None])[:, None, :, None]

    def move(buffer: Array) -> Array:
        picked = jnp.take_along_axis(_read_rows(buffer, first, span), index, axis=2, mode="clip")
        return _write_rows(buffer, picked, dest)

    return jax.tree.map(move, cache)


def _read_rows(buffer: Array, at: Int[Array, " B"], span: int) -> Array:
    """Return the slots `at[b] ... at[b] + span - 1` of each row."""
    return jax.vmap(lambda row, i: lax.dynamic_slice_in_dim(row, i, span, axis=1))(buffer, at)


def _write_rows(buffer: Array, update: Array, at: Int[Array, " B"]) -> Array:
    """Write `update[b]` into `buffer[b]` from slot `at[b]` on (axis 1 of a row)."""
    update = update.astype(buffer.dtype)
    if buffer.shape[0] <= _UNROLLED_ROWS:
        for b in range(buffer.shape[0]):
            buffer = lax.dynamic_update_slice(buffer, update[b : b + 1], (b, 0, at[b], 0))
        return buffer
    return jax.vmap(lambda row, new, i: lax.dynamic_update_slice(row, new, (0, i, 0)))(
        buffer, update, at
    )


def visible_slots(
    slots: int,
    tokens: int,
    write_at: Int[Array, " B"],
    prefix: Int[Array, " B"],
    window: Bool[Array, "B T R"] | None,
) -> Bool[Array, "B T S"]:
    """Say which slots each of the T queries of a call sees.

    Every query sees the committed slots, those below `prefix[b]`, and of the slots
    `prefix[b] ... prefix[b] + R - 1` those that its row of `window` allows. `window = None` is
    causal within the call: query t sees all slots up to its own, `write_at[b] + t`.
    """
    slot = jnp.arange(slots)
    if window is None:
        last = write_at[:, None] + jnp.arange(tokens)  # --> [B, T]
        return slot <= last[:, :, None]
    offset = slot - prefix[:, None]  # --> [B, S]
    inside = (offset >= 0) & (offset < window.shape[2])
    column = jnp.clip(offset, 0, window.shape[2] - 1)
    allowed = jnp.take_along_axis(window, column[:, None, :], axis=2, mode="clip")
    return (offset < 0)[:, None, :] | (inside[:, None, :] & allowed)
