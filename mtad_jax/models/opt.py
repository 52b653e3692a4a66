"""OPT (125m to 66b, 350m's post-norm form included) as a flax.linen module."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import linen as nn

from mtad_jax.devices.sharding import Layout, constrain
from mtad_jax.models import cache as kv
from mtad_jax.models import layers
from mtad_jax.types import Array, Bool, Float, Int

_ACTIVATIONS = {"relu": jax.nn.relu, "gelu": lambda x: jax.nn.gelu(x, approximate=False)}


@dataclass(frozen=True)
class OPTConfig:
    """Shape of an OPT.

    Attributes:
      vocab_size: V.
      embed_dim: E.
      word_dim: width of the token table; unlike E, a projection leads in and out (350m).
      mlp_dim: F.
      num_layers, num_heads: L, H (key/value heads are the same).
      max_positions: longest sequence; the table has `position_offset` more rows.
      position_offset: rows skipped at the start of the position table, 2 in every OPT.
      norm_eps: of every layer norm, 1e-5 in every OPT.
      pre_norm: norm before attention and MLP (350m: after).
      final_norm: a norm after the last layer.
      use_bias: biases on all dense layers.
      norm_affine: norms have scale and bias.
      activation: "relu" or "gelu".
      tied_head: logits come from the embedding's transpose.
    """

    vocab_size: int
    embed_dim: int
    word_dim: int
    mlp_dim: int
    num_layers: int
    num_heads: int
    max_positions: int
    position_offset: int
    norm_eps: float
    pre_norm: bool
    final_norm: bool
    use_bias: bool
    norm_affine: bool
    activation: str
    tied_head: bool

    @property
    def num_kv_heads(self) -> int:
        """G, the same as H."""
        return self.num_heads

    @property
    def head_dim(self) -> int:
        """D."""
        return self.embed_dim // self.num_heads


class OPTBlock(nn.Module):
    """Attention and two-layer MLP, norms before (usual) or after (350m)."""

    config: OPTConfig
    layout: Layout | None = None

    @nn.compact
    def __call__(self, x, *, visible, write_at, cache):
        c = self.config

        def norm(name: str, y: Array) -> Array:
            return layers.LayerNorm(c.norm_eps, c.norm_affine, name=name)(y)

        def heads(name: str, axis: str, y: Array) -> Array:
            y = layers.Dense(c.embed_dim, ("embed", axis), c.use_bias, name=name)(y)
            return layers.split_heads(self.layout, y, c.head_dim, axis)

        h = norm("attn_norm", x) if c.pre_norm else x
        q, k, v = heads("q", "heads", h), heads("k", "kv_heads", h), heads("v", "kv_heads", h)
        h, cache = layers.attend(
            q, k, v, visible=visible, write_at=write_at, cache=cache, layout=self.layout
        )
        x += layers.Dense(c.embed_dim, ("heads", "embed"), c.use_bias, name="o")(h)
        x = constrain(self.layout, x, layers.STREAM)
        x = x if c.pre_norm else norm("attn_norm", x)

        h = norm("mlp_norm", x) if c.pre_norm else x
        h = layers.Dense(c.mlp_dim, ("embed", "mlp"), c.use_bias, name="up")(h)
        h = _ACTIVATIONS[c.activation](h)
        x += layers.Dense(c.embed_dim, ("mlp", "embed"), c.use_bias, name="down")(h)
        x = constrain(self.layout, x, layers.STREAM)
        return x if c.pre_norm else norm("mlp_norm", x), cache


class OPT(nn.Module):
    """The whole transformer, f32 logits out."""

    config: OPTConfig
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
        """See `CausalLM.apply`; without a cache: causal over the call (training)."""
        c = self.config
        embed = layers.Embed(c.vocab_size, c.word_dim, ("vocab", "embed"), name="embed")
        rows = c.max_positions + c.position_offset
        x = constrain(self.layout, embed(tokens), layers.STREAM)
        if c.word_dim != c.embed_dim:
            x = layers.Dense(c.embed_dim, ("embed", "embed_out"), False, name="project_in")(x)
        table = layers.Embed(rows, c.embed_dim, (None, "embed"), name="positions")
        x += table(positions + c.position_offset)
        visible = layers.visibility(tokens, write_at, prefix, window, cache)
        new = []
        for i in range(c.num_layers):
            layer_cache = None if cache is None else cache[i]
            block = OPTBlock(c, self.layout, name=f"layer_{i}")
            x, layer_cache = block(x, visible=visible, write_at=write_at, cache=layer_cache)
            new.append(layer_cache)
        if c.final_norm:
            x = layers.LayerNorm(c.norm_eps, c.norm_affine, name="final_norm")(x)
        if c.word_dim != c.embed_dim:
            x = layers.Dense(c.word_dim, ("embed", "embed_out"), False, name="project_out")(x)
        if c.tied_head:
            logits = embed.attend(x)
        else:
            logits = layers.Dense(c.vocab_size, ("embed", "vocab"), False, name="head")(x)
        return logits.astype(jnp.float32), None if cache is None else tuple(new)
