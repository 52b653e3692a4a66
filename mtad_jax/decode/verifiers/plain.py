"""No draft is judged: sampling and greedy decoding."""

import jax.numpy as jnp
from flax import struct

from mtad_jax.decode.draft import DraftTree
from mtad_jax.decode.protocols import Drafter, Verdict
from mtad_jax.decode.request import Request, check_draws
from mtad_jax.decode.state import Controls
from mtad_jax.decode.verifiers.base import Lossless, Lossy, verdict
from mtad_jax.types import Array, Float, Key


@struct.dataclass
class Ancestral(Lossless):
    """Accepts nothing and draws the next token from the target: plain sampling. Lossless."""

    def verify(
        self,
        tree: DraftTree,
        logp: Float[Array, "B N V"],
        logits: Float[Array, "B N V"],
        keys: Key[Array, " B"],
        controls: Controls,
    ) -> Verdict:
        """Judge a draft; see `Verifier.verify`."""
        return verdict(jnp.zeros_like(tree.length), logp)


@struct.dataclass
class Argmax(Lossy):
    """Accepts nothing and takes the likeliest next token: greedy decoding.

    Temperature and cuts keep the likeliest token the likeliest: they do not change which is taken,
    only the log-probabilities that are reported. Penalty, bans and minimum length do.
    """

    plain_bonus = False

    def check(self, drafter: Drafter, request: Request) -> None:
        """Raise ValueError where several samples are asked for."""
        check_draws(request, "use sample")

    def verify(
        self,
        tree: DraftTree,
        logp: Float[Array, "B N V"],
        logits: Float[Array, "B N V"],
        keys: Key[Array, " B"],
        controls: Controls,
    ) -> Verdict:
        """Judge a draft; see `Verifier.verify`."""
        last = logp[:, 0]
        best = jnp.argmax(last, axis=-1, keepdims=True) == jnp.arange(last.shape[-1])
        return Verdict(jnp.zeros_like(tree.length), jnp.where(best, 0.0, -jnp.inf))
