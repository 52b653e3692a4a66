"""The trunk of the families that are built as Llama is, and what they differ in.

A token table, layers of grouped-query attention and a gated MLP, root-mean-square norms, rotary
positions. A family is a config in a file of its own, which says what sets it apart.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mtad_jax.devices.sharding import Layout, constrain
from mtad_jax.models import cache as kv
from mtad_jax.models import layers
from mtad_jax.models.rope import Rope, RopeScaling, rope_angles, rotate
from mtad_jax.types import Array, Bool, Float, Int


@dataclass(frozen=True)
class LayerKind:
    """What may differ from layer to layer.

    Attributes:
      window: how many positions a token sees, its own and those right before it; None: all.
      rope: the position encoding; None: none.
    """

    window: int | None
    rope: Rope | None


@dataclass(frozen=True)
class Traits:
    """What sets a family apart from the plain form, which is Llama's.

    Attributes:
      qkv_bias, out_bias, mlp_bias: biases on q, k and v; on o; on gate, up and down.
      norm: the class of all norms.
      head_norms: a norm on each query's and each key's head, before they are rotated.
      post_norms: norms after attention and MLP, too.
      activation: of the gate.
      score_scale: of attention's scores; None: 1/sqrt(D).
      score_cap, logit_cap: soft bound on attention's scores, and on the logits; None: no bound.
      embed_scale: factor of the token table's rows; None: none.
    """

    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    norm: Callable[..., nn.Module] = layers.RMSNorm
    head_norms: bool = False
    post_norms: bool = False
    activation: Callable[[Array], Array] = jax.nn.silu
    score_scale: float | None = None
    score_cap: float | None = None
    logit_cap: float | None = None
    embed_scale: float | None = None


@dataclass(frozen=True)
class DecoderConfig:
    """Shape that all families share. Field names follow this package's letters (`mtad_jax.types`).

    Attributes:
      vocab_size: V, rows of the embedding.
      embed_dim: E.
      mlp_dim: F.
      num_layers, num_heads, num_kv_heads, head_dim: L, H, G, D.
      max_positions: longest sequence that the model was made for.
      norm_eps: of every RMS norm.
      rope_theta, rope_scaling: rotary position encoding.
      tied_head: logits come from the embedding's transpose.
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
    rope_scaling: RopeScaling | None
    tied_head: bool

    @property
    def rope(self) -> Rope:
        """The position encoding, of all layers unless `layer_kinds` says otherwise."""
        return Rope(self.rope_theta, self.rope_scaling)

    @property
    def traits(self) -> Traits:
        """What sets the family apart."""
        return Traits()

    @property
    def layer_kinds(self) -> tuple[LayerKind, ...]:
        """The kind of each layer."""
        return (LayerKind(None, self.rope),) * self.num_layers


class Block(nn.Module):
    """Attention and gated MLP, each with a norm before it, and in some families one after it."""

    config: DecoderConfig
    layout: Layout | None = None

    @nn.compact
    def __call__(self, x, *, rope, visible, write_at, cache):
        c, traits = self.config, self.config.traits

        def add(x: Array, change: Array, name: str) -> Array:
            if traits.post_norms:
                change = traits.norm(c.norm_eps, name=name)(change)
            return constrain(self.layout, x + change, layers.STREAM)

        h = traits.norm(c.norm_eps, name="attn_norm")(x)
        q, k, v = self._heads(h, rope)
        h, cache = layers.attend(
            q, k, v, visible=visible, write_at=write_at, cache=cache, layout=self.layout,
            scale=traits.score_scale, softcap=traits.score_cap,
        )  # fmt: skip
        h = layers.Dense(c.embed_dim, ("heads", "embed"), traits.out_bias, name="o")(h)
        x = add(x, h, "attn_post_norm")

        h = traits.norm(c.norm_eps, name="mlp_norm")(x)
        gate = layers.Dense(c.mlp_dim, ("embed", "mlp"), traits.mlp_bias, name="gate")(h)
        up = layers.Dense(c.mlp_dim, ("embed", "mlp"), traits.mlp_bias, name="up")(h)
        h = traits.activation(gate) * up
        h = layers.Dense(c.embed_dim, ("mlp", "embed"), traits.mlp_bias, name="down")(h)
        return add(x, h, "mlp_post_norm"), cache

    def _heads(self, x: Array, rope: tuple[Array, Array] | None) -> tuple[Array, Array, Array]:
        """Return queries, keys and values, [B, T, H or G, D]."""
        c, traits = self.config, self.config.traits

        def heads(name: str, count: int, axis: str) -> Array:
            y = layers.Dense(count * c.head_dim, ("embed", axis), traits.qkv_bias, name=name)(x)
            y = layers.split_heads(self.layout, y, c.head_dim, axis)
            if name == "v":
                return y
            if traits.head_norms:
                y = traits.norm(c.norm_eps, "head_dim", name=f"{name}_norm")(y)
            return y if rope is None else rotate(y, *rope)

        q, k = heads("q", c.num_heads, "heads"), heads("k", c.num_kv_heads, "kv_heads")
        return q, k, heads("v", c.num_kv_heads, "kv_heads")


class Decoder(nn.Module):
    """The whole transformer of any of these families, f32 logits out."""

    config: Any
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
        c: DecoderConfig = self.config
        traits, kinds = c.traits, c.layer_kinds[: c.num_layers]
        embed = layers.Embed(c.vocab_size, c.embed_dim, ("vocab", "embed"), name="embed")
        x = constrain(self.layout, embed(tokens), layers.STREAM)
        if traits.embed_scale is not None:
            x *= jnp.asarray(traits.embed_scale, x.dtype)
        # In the layers' order: a set's differs from process to process.
        ropes = {
            rope: None if rope is None else rope_angles(positions, c.head_dim, rope)
            for rope in dict.fromkeys(kind.rope for kind in kinds)
        }
        visible = layers.visibility(tokens, write_at, prefix, window, cache)
        masks = {
            width: visible if width is None else kv.last_seen(visible, width)
            for width in dict.fromkeys(kind.window for kind in kinds)
        }
        new = []
        for i, kind in enumerate(kinds):
            x, layer_cache = Block(c, self.layout, name=f"layer_{i}")(
                x, rope=ropes[kind.rope], visible=masks[kind.window], write_at=write_at,
                cache=None if cache is None else cache[i],
            )  # fmt: skip
            new.append(layer_cache)
        x = traits.norm(c.norm_eps, name="final_norm")(x)
        if c.tied_head:
            logits = embed.attend(x)
        else:
            logits = layers.Dense(c.vocab_size, ("embed", "vocab"), False, name="head")(x)
        logits = layers.soft_cap(logits.astype(jnp.float32), traits.logit_cap)
        return logits, None if cache is None else tuple(new)
