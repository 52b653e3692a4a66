"""Layers shared by the architectures. No numeric default for eps, theta, scale or offset."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mtad_jax.devices.sharding import Layout, constrain
from mtad_jax.models import cache as kv
from mtad_jax.models import quantize as int8
from mtad_jax.types import Array, Bool, Float, Int

STREAM = ("batch", None, None)
"""Logical axes of the residual stream [B, T, E]: whole on every device of a row."""

_ONES, _ZEROS = nn.initializers.ones, nn.initializers.zeros
_INIT = nn.initializers.normal(0.02)  # the standard deviation that Llama, OPT and GPT-2 use


def _param(
    module: nn.Module, name: str, init: Any, axes: tuple[str | None, ...], shape: tuple[int, ...]
) -> Array:
    """Declare a parameter with a logical axis name for each dimension.

    What it is applied with may be a matrix's int8 form, a `QArray`; see `LinenLM.quantized`.
    """
    return module.param(name, nn.with_partitioning(init, axes), shape)  # type: ignore


class Dense(nn.Module):
    """Matrix multiply in the parameters' dtype. `kernel` is [in, features], 2-D for sharding."""

    features: int
    axes: tuple[str, str]
    use_bias: bool

    @nn.compact
    def __call__(self, x: Float[Array, "... I"]) -> Float[Array, "... O"]:
        kernel = _param(self, "kernel", _INIT, self.axes, (x.shape[-1], self.features))
        y = int8.matmul(x, kernel)
        if self.use_bias:
            y += _param(self, "bias", _ZEROS, self.axes[1:], (self.features,))
        return y


class Embed(nn.Module):
    """Token or position table; `attend` multiplies by its transpose (a tied head)."""

    rows: int
    features: int
    axes: tuple[str | None, str]

    def setup(self):
        self.table = _param(self, "table", _INIT, self.axes, (self.rows, self.features))

    def __call__(self, ids: Int[Array, "B T"]) -> Float[Array, "B T E"]:
        # Out-of-range ids can only be padding, whose result nobody reads.
        return int8.take_rows(self.table, ids)

    def attend(self, x: Float[Array, "B T E"]) -> Float[Array, "B T V"]:
        return int8.tied_logits(x, self.table)


class RMSNorm(nn.Module):
    """Root-mean-square norm in f32 (Zhang & Sennrich 2019), as in Llama."""

    eps: float
    axis: str = "embed"

    @nn.compact
    def __call__(self, x: Float[Array, "B T *H E"]) -> Float[Array, "B T *H E"]:
        scale = _param(self, "scale", _ONES, (self.axis,), x.shape[-1:])
        return scale * _unit(x, self.eps).astype(x.dtype)


class OffsetRMSNorm(nn.Module):
    """Root-mean-square norm whose scale is stored less one, and applied in f32, as in Gemma."""

    eps: float
    axis: str = "embed"

    @nn.compact
    def __call__(self, x: Float[Array, "B T *H E"]) -> Float[Array, "B T *H E"]:
        scale = _param(self, "scale", _ZEROS, (self.axis,), x.shape[-1:])
        return ((1 + scale.astype(jnp.float32)) * _unit(x, self.eps)).astype(x.dtype)


def _unit(x: Float[Array, "... E"], eps: float) -> Float[Array, "... E"]:
    """Return x in f32, divided by its root mean square."""
    y = x.astype(jnp.float32)
    return y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + eps)


class LayerNorm(nn.Module):
    """Layer norm in f32 with optional scale and bias, as in OPT."""

    eps: float
    affine: bool

    @nn.compact
    def __call__(self, x: Float[Array, "B T E"]) -> Float[Array, "B T E"]:
        y = x.astype(jnp.float32)
        y -= jnp.mean(y, axis=-1, keepdims=True)
        y *= jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.eps)
        if self.affine:
            y *= _param(self, "scale", _ONES, ("embed",), x.shape[-1:])
            y += _param(self, "bias", _ZEROS, ("embed",), x.shape[-1:])
        return y.astype(x.dtype)


def split_heads(
    layout: Layout | None, x: Float[Array, "B T H*D"], dim: int, axis: str
) -> Float[Array, "B T H D"]:
    """Cut a projection into heads of `dim`.

    Pinned, since for the heads' sake XLA's TPU compiler would make the product transposed, and
    keep a transposed copy of the weights for that.
    """
    if layout is not None:
        x = layout.local(layout.pin, (("batch", None, axis),), ("batch", None, axis))(x)
    return x.reshape(*x.shape[:2], -1, dim)


def visibility(
    tokens: Int[Array, "B T"],
    write_at: Int[Array, " B"] | None,
    prefix: Int[Array, " B"] | None,
    window: Bool[Array, "B T R"] | None,
    cache: kv.KVCache | None,
) -> Bool[Array, "B T S"]:
    """Return the mask of a whole call, computed once for all layers."""
    length = tokens.shape[1]
    if cache is None:
        causal = jnp.tril(jnp.ones((1, length, length), bool))
        return causal if window is None else causal & window
    assert write_at is not None and prefix is not None
    return kv.visible_slots(cache[0].k.shape[2], length, write_at, prefix, window)


def attend(
    q: Float[Array, "B T H D"],
    k: Float[Array, "B T G D"],
    v: Float[Array, "B T G D"],
    *,
    visible: Bool[Array, "B T S"],
    write_at: Int[Array, " B"] | None,
    cache: kv.LayerCache | None,
    layout: Layout | None,
    scale: float | None = None,
    softcap: float | None = None,
) -> tuple[Float[Array, "B T H*D"], kv.LayerCache | None]:
    """Grouped-query attention over the cache (or, without one, over the call itself).

    Softmax in f32; scores scaled by `scale`, None: 1/sqrt(D), then kept within `softcap`, if any.
    Query head h reads key/value head h // (H / G).
    """
    q = constrain(layout, q, ("batch", None, "heads", "head_dim"))
    k, v = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)  # --> [B, G, T, D]
    seen = kv.LayerCache(k, v)
    if cache is not None:
        assert write_at is not None
        seen = cache = kv.write(cache, k, v, write_at, layout)
    batch, tokens, heads, dim = q.shape
    groups, slots = seen.k.shape[1:3]
    # One matrix a group: its heads and tokens are the rows. --> [B, G, H/G*T, D]
    q = q.reshape(batch, tokens, groups, -1, dim).transpose(0, 2, 3, 1, 4)
    q = q.reshape(batch, groups, -1, dim) * (dim**-0.5 if scale is None else scale)
    # Both products take the cache transposed. Where a product can read it as it lies, XLA's CPU
    # compiler repeats the cache write inside the product, and copies the cache four times for it.
    keys = int8.values(seen.k).swapaxes(2, 3)
    scores = jnp.matmul(q, keys, preferred_element_type=jnp.float32)
    scores = int8.by_slot(scores.reshape(batch, groups, -1, tokens, slots), seen.k)
    scores = soft_cap(scores, softcap)
    scores = jnp.where(visible[:, None, None], scores, jnp.finfo(jnp.float32).min)
    weights = int8.by_slot(jax.nn.softmax(scores, axis=-1), seen.v).astype(q.dtype)
    out = jnp.einsum("bgrts,bgsd->btgrd", weights, int8.values(seen.v))
    return out.reshape(batch, tokens, heads * dim), cache


def soft_cap(x: Float[Array, "..."], cap: float | None) -> Float[Array, "..."]:
    """Squeeze numbers smoothly into -cap ... cap; None: leave them."""
    return x if cap is None else cap * jnp.tanh(x / cap)
