"""Llama 1, 2 and 3.x as a flax.linen module (and its relatives with the same shape)."""

from dataclasses import dataclass

from mtad_jax.models.decoder import Decoder, DecoderConfig, Traits


@dataclass(frozen=True)
class LlamaConfig(DecoderConfig):
    """Shape of a Llama.

    Attributes:
      attention_bias: biases on q, k, v and o.
      mlp_bias: biases on gate, up and down.
    """

    attention_bias: bool
    mlp_bias: bool

    @property
    def traits(self) -> Traits:
        """What sets it apart: biases."""
        bias = self.attention_bias
        return Traits(qkv_bias=bias, out_bias=bias, mlp_bias=self.mlp_bias)


class Llama(Decoder):
    """A Llama, f32 logits out."""

    config: LlamaConfig
