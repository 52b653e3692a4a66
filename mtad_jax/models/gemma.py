"""Gemma 2 and the text model of Gemma 3 as a flax.linen module."""

import functools
from dataclasses import dataclass

import jax

from mtad_jax.models import layers
from mtad_jax.models.decoder import Decoder, DecoderConfig, LayerKind, Traits
from mtad_jax.models.rope import Rope

_gelu = functools.partial(jax.nn.gelu, approximate=True)


@dataclass(frozen=True)
class GemmaConfig(DecoderConfig):
    """Shape of a Gemma.

    Attributes:
      attention_bias: biases on q, k, v and o.
      head_norms: a norm on each query's and each key's head; Gemma 3 has them.
      score_scale: factor of attention's scores, which need not be 1/sqrt(D).
      score_cap, logit_cap: soft bound on attention's scores, and on the logits; None: no bound.
        Gemma 2 has both, Gemma 3 neither as published.
      windows: of each layer, how many positions a token sees; None: all.
      local_rope: the position encoding of layers with a window.
    """

    attention_bias: bool
    head_norms: bool
    score_scale: float
    score_cap: float | None
    logit_cap: float | None
    windows: tuple[int | None, ...]
    local_rope: Rope

    @property
    def traits(self) -> Traits:
        """What sets it apart: nearly everything that may."""
        return Traits(
            qkv_bias=self.attention_bias,
            out_bias=self.attention_bias,
            norm=layers.OffsetRMSNorm,
            head_norms=self.head_norms,
            post_norms=True,
            activation=_gelu,
            score_scale=self.score_scale,
            score_cap=self.score_cap,
            logit_cap=self.logit_cap,
            embed_scale=self.embed_dim**0.5,
        )

    @property
    def layer_kinds(self) -> tuple[LayerKind, ...]:
        """The kind of each layer."""
        return tuple(
            LayerKind(window, self.rope if window is None else self.local_rope)
            for window in self.windows
        )


class Gemma(Decoder):
    """A Gemma, f32 logits out."""

    config: GemmaConfig
