"""Mistral (7B, Nemo, Small 3) as a flax.linen module."""

from dataclasses import dataclass

from mtad_jax.models.decoder import Decoder, DecoderConfig, LayerKind


@dataclass(frozen=True)
class MistralConfig(DecoderConfig):
    """Shape of a Mistral.

    Attributes:
      window: how many positions a token sees, in every layer; None: all, as from version 0.2 on.
    """

    window: int | None

    @property
    def layer_kinds(self) -> tuple[LayerKind, ...]:
        """The kind of each layer: all are alike."""
        return (LayerKind(self.window, self.rope),) * self.num_layers


class Mistral(Decoder):
    """A Mistral, f32 logits out."""

    config: MistralConfig
