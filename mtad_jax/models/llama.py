"""Llama 1, 2 and 3.x as a flax.linen module (and its relatives with the same shape)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import linen as nn

from mtad_jax.devices.sharding import Layout, constrain
from mtad_jax.models import cache as kv
from mtad_jax.models import layers
from mtad_jax.types import Array, Bool, Float, Int


@dataclass(frozen=True)
class LlamaConfig:
    """Shape of a Llama. Field names follow this package's letters (see `mtad_jax.types`).

    Attributes:
      vocab_size: V, rows of the embedding.
      embed_dim: E.
      mlp_dim: F.
      num_layers, num_heads, num_kv_heads, head_dim: L, H, G, D.
      max_positions: longest sequence that the model was made for.
      norm_eps: of every RMS norm.
      rope_theta, rope_scaling: rotary position encoding.
      tied_head: logits come from the embedding's transpose.
      attention_bias: biases on q, k, v and o.
      mlp_bias: biases on gate, up and down.
    """

    vocab_size: int
    embed_dim: int
    mlp_dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    norm_eps: float
    rope_theta: float
    rope_scaling: layers.RopeScaling | None
    tied_head: bool
    attention_bias: bool
    mlp_bias: bool


class LlamaBlock(nn.Module):
    """Pre-norm attention and gated MLP."""

    config: LlamaConfig
    layout: Layout | None = None

    @nn.compact
    def __call__(self, x, *, rope, visible, write_at, cache):
        c = self.config

        def heads(name: str, count: int, axis: str, y: Array) -> Array:
            y = layers.Dense(count * c.head_dim, ("embed", axis), c.attention_bias, name=name)(y)
            return layers.split_heads(self.layout, y, c.head_dim, axis)

        h = layers.RMSNorm(c.norm_eps, name="attn_norm")(x)
        q = layers.rotate(heads("q", c.num_heads, "heads", h), *rope)
        k = layers.rotate(heads("k", c.num_kv_heads, "kv_heads", h), *rope)
        v = heads("v", c.num_kv_heads, "kv_heads", h)
        h, cache = layers.attend(
            q, k, v, visible=visible, write_at=write_at, cache=cache, layout=self.layout
        )
        x += layers.Dense(c.embed_dim, ("heads", "embed"), c.attention_bias, name="o")(h)
        x = constrain(self.layout, x, layers.STREAM)

        h = layers.RMSNorm(c.norm_eps, name="mlp_norm")(x)
        gate = layers.Dense(c.mlp_dim, ("embed", "mlp"), c.mlp_bias, name="gate")(h)
        up = layers.Dense(c.mlp_dim, ("embed", "mlp"), c.mlp_bias, name="up")(h)
        h = jax.nn.silu(gate) * up
        x += layers.Dense(c.embed_dim, ("mlp", "embed"), c.mlp_bias, name="down")(h)
        return constrain(self.layout, x, layers.STREAM), cache


class Llama(nn.Module):
    """The whole transformer, f32 logits out."""

    config: LlamaConfig
    layout: Layout | None = None

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "B T"],
        *,
        positions: Int[Array, "B T"],
        write_at: Int[Array, " B"] | None = None,
        prefix: Int[Array, " B"] | None = None,
        window: Bool[Array, "B T R"] | None = None,
        cache: kv.KVCache | None = None,
    ) -> tuple[Float[Array, "B T V"], kv.KVCache | None]:
        """See `CausalLM.apply`; without a cache, as in training: causal within `window`."""
        c = self.config
        embed = layers.Embed(c.vocab_size, c.embed_dim, ("vocab", "embed"), name="embed")
        x = constrain(self.layout, embed(tokens), layers.STREAM)
        frequencies = layers.rope_frequencies(c.head_dim, c.rope_theta, c.rope_scaling)
        rope = layers.rope_angles(positions, frequencies)
        visible = layers.visibility(tokens, write_at, prefix, window, cache)
        new = []
        for i in range(c.num_layers):
            layer_cache = None if cache is None else cache[i]
            block = LlamaBlock(c, self.layout, name=f"layer_{i}")
            x, layer_cache = block(
                x, rope=rope, visible=visible, write_at=write_at, cache=layer_cache
            )
            new.append(layer_cache)
        x = layers.RMSNorm(c.norm_eps, name="final_norm")(x)
        if c.tied_head:
            logits = embed.attend(x)
        else:
            logits = layers.Dense(c.vocab_size, ("embed", "vocab"), False, name="head")(x)
        return logits.astype(jnp.float32), None if cache is None else tuple(new)
