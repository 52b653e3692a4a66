"""SmolLM3 as a flax.linen module; SmolLM and SmolLM2 are Llamas."""

from dataclasses import dataclass

from mtad_jax.models.decoder import Decoder, DecoderConfig, LayerKind, Traits


@dataclass(frozen=True)
class SmolLM3Config(DecoderConfig):
    """Shape of a SmolLM3.

    Attributes:
      attention_bias: biases on q, k, v and o.
      mlp_bias: biases on gate, up and down.
      rotary: of each layer, whether it has a position encoding; the others have none
        (arXiv 2501.18795).
      windows: of each layer, how many positions a token sees; None: all.
    """

    attention_bias: bool
    mlp_bias: bool
    rotary: tuple[bool, ...]
    windows: tuple[int | None, ...]

    @property
    def traits(self) -> Traits:
        """What sets it apart: biases."""
        bias = self.attention_bias
        return Traits(qkv_bias=bias, out_bias=bias, mlp_bias=self.mlp_bias)

    @property
    def layer_kinds(self) -> tuple[LayerKind, ...]:
        """The kind of each layer."""
        return tuple(
            LayerKind(window, self.rope if rotary else None)
            for window, rotary in zip(self.windows, self.rotary, strict=True)
        )


class SmolLM3(Decoder):
    """A SmolLM3, f32 logits out."""

    config: SmolLM3Config
