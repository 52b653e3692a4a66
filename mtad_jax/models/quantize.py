"""int8 weights and int8 key/value caches: which parts of a model, and the arithmetic on them.

Symmetric and by channel: `x ~ qvalue * scale` with int8 `qvalue` in [-127, 127]. A weight has one
scale for each output channel, so that the product is done with the int8 matrix as it lies in memory
and scaled afterwards; a cache has one for each row, head and slot. Scales have the dtype that the
model computes in. The quantizing itself, and the pytree `QArray`, are qwix's.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeGuard, cast

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from mtad_jax.devices.sharding import Axes, Layout, constrain
from mtad_jax.types import Array, Float, Int

if TYPE_CHECKING:  # qwix takes long to import, and few models are int8
    from qwix import QArray

PARTS = ("weights", "kv")
"""What can be int8: all matrices and the token table; the cache of keys and values."""


def parse_int8(parts: str | Iterable[str]) -> frozenset[str]:
    """Read `weights`, `kv` or `weights,kv` (or a collection of those names); empty: nothing.

    Raises:
      ValueError: an unknown name.
    """
    names = parts.split(",") if isinstance(parts, str) else list(parts)
    found = frozenset(name.strip() for name in names) - {""}
    for name in sorted(found - set(PARTS)):
        raise ValueError(f"int8={name!r} is unknown: use {', '.join(PARTS)} or both")
    return found


def check_compute_dtype(int8: frozenset[str], dtype: jnp.dtype) -> None:
    """Check that a model with these int8 parts can compute in a dtype.

    Raises:
      ValueError: float16: products of int8 values pass its largest number, and small scales its
        smallest.
    """
    if int8 and dtype == jnp.float16:
        raise ValueError(
            f"int8={','.join(sorted(int8))} with dtype=float16: products of int8 values overflow: "
            "give dtype=bfloat16 or float32"
        )


def is_quantized(x: object) -> TypeGuard[QArray]:
    """Say whether a leaf of a parameter tree is an int8 array with its scales."""
    qwix = sys.modules.get("qwix")
    return qwix is not None and isinstance(x, qwix.QArray)


def channel_axis(axes: Axes) -> int | None:
    """Return the dimension of a parameter that has a scale for each index; None: never int8.

    Args:
      axes: the parameter's logical axes, as `LinenLM.param_axes` gives them. A matrix [in, out] has
        a scale for each output, the token table one for each row: a row is looked up, or is an
        output of the tied head. Norms, biases and position tables are small, and stay as they are.
    """
    if len(axes) != 2 or axes[0] is None:
        return None
    return 0 if axes[0] == "vocab" else 1


def quantized_axes(axes: Axes) -> QArray | PartitionSpec:
    """Return the logical axes of a parameter's int8 form, a tree of PartitionSpec.

    The scales of outputs lie with the outputs. Those of the token table lie whole on every device:
    split like its rows, looking them up would cost a second all-reduce.
    """
    channel = channel_axis(axes)
    if channel is None:
        return PartitionSpec(*axes)
    from qwix import QArray

    scale = PartitionSpec(None, axes[1] if channel == 1 else None)
    return QArray(PartitionSpec(*axes), scale, None, jnp.int8)  # type: ignore[arg-type]


@functools.partial(jax.jit, static_argnames=("axes", "dtype", "layout"))
def quantize_param(
    x: Array, axes: Axes, dtype: jnp.dtype, layout: Layout | None = None
) -> QArray | Array:
    """Return a parameter's int8 form with scales in `dtype`; in `dtype` where it has none.

    Args:
      x: the parameter, in any float dtype.
      axes: its logical axes; see `channel_axis`.
      dtype: that the model computes in.
      layout: where the result lies; None: wherever the compiler likes.
    """
    channel = channel_axis(axes)
    result = x.astype(dtype) if channel is None else quantize(x, (channel,), dtype)
    return jax.tree.map(
        lambda part, at: constrain(layout, part, tuple(at)), result, quantized_axes(axes)
    )


def quantize(x: Array, channels: tuple[int, ...], dtype: jnp.dtype) -> QArray:
    """Round an array to int8 with a scale for each index of the dimensions `channels`.

    A step is max|x| / 127.5 over a channel, and the error at most half of one where `dtype` is
    float32. A bfloat16 scale is itself rounded, by up to 2^-8 of its value; so is every product in
    bfloat16.
    """
    import qwix

    return qwix.quantize(
        x.astype(jnp.float32), jnp.int8, channelwise_axes=channels, scale_dtype=dtype
    )


def values(x: QArray | Array) -> Array:
    """Return what a product reads: the int8 values, or the array itself."""
    return x.qvalue if is_quantized(x) else cast(Array, x)


def matmul(x: Float[Array, "... I"], kernel: QArray | Float[Array, "I O"]) -> Float[Array, "... O"]:
    """Multiply by a matrix; an int8 one is read as it is, and its scale comes after the product."""
    y = x @ values(kernel)
    if is_quantized(kernel):
        y = (y * kernel.scale[0].astype(jnp.float32)).astype(x.dtype)
    return y


def take_rows(table: QArray | Float[Array, "V E"], ids: Int[Array, "B T"]) -> Float[Array, "B T E"]:
    """Look up rows; only those read are scaled. Ids out of range get the nearest row."""
    rows = jnp.take(values(table), ids, axis=0, mode="clip")
    if is_quantized(table):
        rows = rows.astype(table.dtype) * jnp.take(table.scale, ids, axis=0, mode="clip")
    return rows


def tied_logits(
    x: Float[Array, "B T E"], table: QArray | Float[Array, "V E"]
) -> Float[Array, "B T V"]:
    """Multiply by the transpose of a token table, into f32."""
    y = jnp.einsum("bte,ve->btv", x, values(table), preferred_element_type=jnp.float32)
    return y * table.scale[:, 0] if is_quantized(table) else y


def by_slot(x: Float[Array, "B G ... S"], buffer: QArray | Array) -> Float[Array, "B G ... S"]:
    """Multiply f32 scores or weights of slots by the scales of an int8 cache [B, G, S, D]."""
    if not is_quantized(buffer):
        return x
    return x * buffer.scale.reshape(*x.shape[:2], *(1,) * (x.ndim - 3), x.shape[-1])


def empty_buffer(shape: tuple[int, int, int, int], dtype: jnp.dtype) -> QArray:
    """Return an int8 cache buffer [B, G, S, D] of zeros, scales [B, G, S, 1] in `dtype`."""
    from qwix import QArray

    return QArray(jnp.zeros(shape, jnp.int8), jnp.zeros((*shape[:3], 1), dtype), None, jnp.int8)


def as_buffer(x: Float[Array, "B G T D"], buffer: QArray | Array) -> QArray | Array:
    """Return new keys or values in the form that a cache buffer holds them in."""
    return quantize(x, (0, 1, 2), buffer.dtype) if is_quantized(buffer) else x


def compute_dtype(params: object) -> jnp.dtype:
    """Return the dtype that a parameter tree is computed in: that of its first real numbers.

    An int8 array's is its scale's.
    """
    dtypes = [x.dtype for x in jax.tree.leaves(params, is_leaf=is_quantized)]
    return next((dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating)), dtypes[0])
