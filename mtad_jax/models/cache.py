"""Key/value cache: the only file that knows its layout.

A *slot* is a place in the buffer; a *position* is what the model's position encoding sees. Token i
of a row lives in slot i. Slots at or past a row's committed length are scratch: anything may be
written there, and nothing there is seen unless a window allows it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from mtad_jax.devices.sharding import Axes, Layout, constrain
from mtad_jax.models import quantize as int8
from mtad_jax.types import Array, Bool, Float, Int

if TYPE_CHECKING:
    from qwix import QArray

CACHE_AXES = ("batch", "kv_heads", "slots", "head_dim")
"""Logical axis names of every cache buffer; sharding rules map them to mesh axes."""

# Rows up to this many have their own operations, which can overlap; above it the program would grow
# with the batch, so that the rows take turns in a loop.
_UNROLLED_ROWS = 8


@struct.dataclass
class LayerCache:
    """Keys and values of one layer, head-major so that one row's slots are contiguous.

    Attributes:
      k: keys after the position encoding, [B, G, S, D]; an int8 array with scales [B, G, S, 1]
        in an int8 cache.
      v: values, likewise.
    """

    k: Float[Array, "B G S D"] | QArray
    v: Float[Array, "B G S D"] | QArray


KVCache = tuple[LayerCache, ...]
"""One `LayerCache` a layer. Separate buffers: a stacked one is copied slice by slice in a loop."""


def empty_cache(
    layers: int,
    batch: int,
    kv_heads: int,
    slots: int,
    head_dim: int,
    dtype: jnp.dtype,
    layout: Layout | None = None,
    quantized: bool = False,
) -> KVCache:
    """Return a cache of zeros with `slots` places for each of `batch` rows.

    `quantized`: int8 with a scale in `dtype` for each row, head and slot.
    """
    shape = (batch, kv_heads, slots, head_dim)

    def zeros() -> Array | QArray:
        buffer = int8.empty_buffer(shape, dtype) if quantized else jnp.zeros(shape, dtype)
        return jax.tree.map(lambda x: constrain(layout, x, CACHE_AXES), buffer)

    return tuple(LayerCache(zeros(), zeros()) for _ in range(layers))


def write(
    cache: LayerCache,
    k: Float[Array, "B G T D"],
    v: Float[Array, "B G T D"],
    write_at: Int[Array, " B"],
    layout: Layout | None = None,
) -> LayerCache:
    """Write T keys and values of each row to the slots `write_at[b] ... write_at[b] + T - 1`.

    An int8 cache gets them rounded, each slot for itself: what a slot holds does not depend on
    which others were written with it.

    The caller guarantees that they fit: `dynamic_update_slice` clamps silently.
    """

    def put(cache: LayerCache, new: LayerCache, at: Array) -> LayerCache:
        def one(buffer: Array, update: Array) -> Array:
            update = update.astype(buffer.dtype)

            def row(b: int | Array, buffer: Array) -> Array:
                part = lax.dynamic_slice_in_dim(update, b, 1)
                return lax.dynamic_update_slice(buffer, part, (b, 0, at[b], 0))

            return _row_by_row(row, buffer, layout)

        return jax.tree.map(one, cache, new)

    call = _locally(put, layout, (CACHE_AXES, ("batch",)))
    new = LayerCache(int8.as_buffer(k, cache.k), int8.as_buffer(v, cache.v))
    return call(cache, new, write_at)


def keep(
    cache: KVCache,
    source: Int[Array, "B M"],
    dest: Int[Array, " B"],
    *,
    span: int,
    layout: Layout | None = None,
) -> KVCache:
    """Copy slot `source[b, m]` to slot `dest[b] + m`; everything else stays, and is scratch.

    All slots are read before the first is written, so source and destination may overlap. Every
    source lies in the `span` slots from `dest[b] - 1` on, a round's scratch: that much is read as
    one slice, and the gather is over it, not over the cache.
    """

    def move(cache: KVCache, source: Array, dest: Array) -> KVCache:
        first = dest - 1
        index = (source - first[:, None])[:, None, :, None]

        def one(buffer: Array) -> Array:
            size = (1, buffer.shape[1], span, buffer.shape[3])

            def row(b: int | Array, buffer: Array) -> Array:
                read = lax.dynamic_slice(buffer, (b, 0, first[b], 0), size)
                at = lax.dynamic_slice_in_dim(index, b, 1)
                picked = jnp.take_along_axis(read, at, axis=2, mode="clip")
                return lax.dynamic_update_slice(buffer, picked, (b, 0, dest[b], 0))

            return _row_by_row(row, buffer, layout)

        return jax.tree.map(one, cache)

    call = _locally(move, layout, (("batch", None), ("batch",)))
    return call(cache, source, dest)


def _locally(change: Callable, layout: Layout | None, inputs: tuple[Axes, ...]) -> Callable:
    """Return `change(cache, *inputs)` as each device does it to its own rows and heads.

    Left to the partitioner, a row's write into a batch that is split over devices becomes a copy
    of the cache.
    """
    if layout is None:
        return change
    return layout.local(change, (CACHE_AXES, *inputs), CACHE_AXES)


def _row_by_row(change: Callable, buffer: Array, layout: Layout | None) -> Array:
    """Apply `change(b, buffer)` for every row b of a device's part of a buffer.

    All rows at once would be a gather and a scatter over slots, for which XLA's TPU compiler turns
    the cache around: a copy of all of it, there and back, in every layer.
    """
    rows = buffer.shape[0]
    pin = (lambda x: x) if layout is None else layout.pin
    if rows > _UNROLLED_ROWS:
        # Hidden from the compiler: knowing that a loop writes every row, XLA makes one write of it,
        # of another shape, and fails (libtpu 0.0.42).
        count = lax.optimization_barrier(jnp.int32(rows))
        return lax.fori_loop(0, count, lambda b, buffer: pin(change(b, buffer)), buffer)
    for b in range(rows):
        buffer = change(b, buffer)
    return pin(buffer)


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


def last_seen(visible: Bool[Array, "B T S"], count: int) -> Bool[Array, "B T S"]:
    """Of the slots that each query sees, keep the last `count`: a sliding window over positions.

    A query sees its committed text and its own ancestors, a slot a position, in order. Counting
    them counts positions, while slots do not: between two nodes of a path lie those of others.
    """
    if count >= visible.shape[2]:
        return visible
    after = lax.cumsum(visible.astype(jnp.int32), axis=2, reverse=True)  # its own among them
    return visible & (after <= count)
