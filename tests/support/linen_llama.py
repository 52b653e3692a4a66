"""A Llama as another flax.linen library would have it, on the parameters of this package's.

Its cache is a collection of variables, and one index says where all rows of a batch write.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mtad_jax import adapters
from mtad_jax.models.protocol import BoundLM


class Norm(nn.Module):
    eps: float

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        return scale * x / jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.eps)


def rotated(x, positions, theta):
    """Rotate [B, T, H, D] by position, each head's first half against its second."""
    half = x.shape[-1] // 2
    angle = positions[..., None] / theta ** (jnp.arange(half) / half)
    turn = jnp.exp(1j * angle)[:, :, None] * jax.lax.complex(x[..., :half], x[..., half:])
    return jnp.concatenate([turn.real, turn.imag], axis=-1)


class Layer(nn.Module):
    config: Any

    @nn.compact
    def __call__(self, x, segment_pos, attn_mask):
        c = self.config

        def dense(name, features, y):
            return nn.Dense(features, use_bias=False, name=name)(y)

        def heads(name, count, y):
            return dense(name, count * c.head_dim, y).reshape(*y.shape[:2], count, c.head_dim)

        def cached(name, y):
            buffer = self.variable("cache", f"cached_{name}", lambda: y)
            buffer.value = jax.lax.dynamic_update_slice(buffer.value, y, (0, at, 0, 0))
            return buffer.value

        index = self.variable("cache", "cache_index", lambda: jnp.int32(0))
        at = index.value
        h = Norm(c.norm_eps, name="attn_norm")(x)
        q = rotated(heads("q", c.num_heads, h), segment_pos, c.rope_theta)
        k = cached("k", rotated(heads("k", c.num_kv_heads, h), segment_pos, c.rope_theta))
        v = cached("v", heads("v", c.num_kv_heads, h))
        index.value = at + x.shape[1]
        y = jax.nn.dot_product_attention(q, k, v, mask=attn_mask)
        x += dense("o", c.embed_dim, y.reshape(*x.shape[:2], -1))
        h = Norm(c.norm_eps, name="mlp_norm")(x)
        h = nn.silu(dense("gate", c.mlp_dim, h)) * dense("up", c.mlp_dim, h)
        return x + dense("down", c.embed_dim, h)


class Table(nn.Module):
    rows: int
    features: int

    def setup(self):
        init = nn.initializers.normal(1.0)
        self.table = self.param("table", init, (self.rows, self.features))

    def __call__(self, ids):
        return self.table[ids]

    def head(self, x):
        return x @ self.table.T


class LinenLlama(nn.Module):
    """Takes its mask with an axis of heads, and gives back logits alone."""

    config: Any

    @nn.compact
    def __call__(self, ids, attn_mask, segment_pos):
        table = Table(self.config.vocab_size, self.config.embed_dim, name="embed")
        x = table(ids)
        for i in range(self.config.num_layers):
            x = Layer(self.config, name=f"layer_{i}")(x, segment_pos, attn_mask)
        x = Norm(self.config.norm_eps, name="final_norm")(x)
        if self.config.tied_head:
            return table.head(x)
        return nn.Dense(self.config.vocab_size, use_bias=False, name="head")(x)


def call(module, params, x):
    logits, new = module.apply(
        {"params": params, "cache": x.cache}, x.tokens, x.mask[:, None], x.positions,
        mutable=["cache"],
    )  # fmt: skip
    return logits, new["cache"]


def twin(lm: BoundLM, **changes) -> BoundLM:
    """Return the foreign twin of a Llama of this package, with the same parameters."""
    config = lm.model.config

    def init_cache(batch, slots, dtype):
        shape = (batch, slots, config.num_kv_heads, config.head_dim)
        layer = {f"cached_{name}": jnp.zeros(shape, dtype) for name in "kv"}
        layer["cache_index"] = jnp.int32(0)
        return {f"layer_{i}": layer for i in range(config.num_layers)}

    settings = {"max_positions": config.max_positions} | changes
    module = LinenLlama(config)
    return adapters.from_linen(module, lm.params, call, init_cache, **settings)
