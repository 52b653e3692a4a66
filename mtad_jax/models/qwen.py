"""Qwen2, Qwen2.5 and Qwen3 (dense) as a flax.linen module."""

from dataclasses import dataclass

from mtad_jax.models.decoder import Decoder, DecoderConfig, LayerKind, Traits


@dataclass(frozen=True)
class QwenConfig(DecoderConfig):
    """Shape of a Qwen.

    Attributes:
      qkv_bias: biases on q, k and v; Qwen2 has them.
      out_bias: a bias on o.
      head_norms: a norm on each query's and each key's head; Qwen3 has them.
      windows: of each layer, how many positions a token sees; None: all.
    """

    qkv_bias: bool
    out_bias: bool
    head_norms: bool
    windows: tuple[int | None, ...]

    @property
    def traits(self) -> Traits:
        """What sets it apart: biases, or norms on heads."""
        return Traits(qkv_bias=self.qkv_bias, out_bias=self.out_bias, head_norms=self.head_norms)

    @property
    def layer_kinds(self) -> tuple[LayerKind, ...]:
        """The kind of each layer."""
        return tuple(LayerKind(window, self.rope) for window in self.windows)


class Qwen(Decoder):
    """A Qwen, f32 logits out."""

    config: QwenConfig
