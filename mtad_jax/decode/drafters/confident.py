"""BiLD's draft: a chain drawn from the draft model, as long as the model is sure of itself."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from mtad_jax.decode import random
from mtad_jax.decode.draft import DraftTree, take
from mtad_jax.decode.drafters.base import OneChain, chain_draft, last_logits
from mtad_jax.decode.logits import History, extend, history, law
from mtad_jax.decode.request import Request, check_depth, check_number
from mtad_jax.decode.state import Controls, DecodeState
from mtad_jax.models.protocol import BoundLM
from mtad_jax.types import Array, Bool, Float, Int


@struct.dataclass
class ConfidentChain(OneChain):
    """Up to K tokens drawn from the warped q, none where the raw q is unsure.

    Before each token the chain stops if max_v q_raw(v) < `fallback`; q_raw is the un-warped
    softmax of the draft's logits, without penalty or bans. It may stop before its first token.
    A batch whose rows have all stopped runs the draft model no more.

    Draws: as `Chain`: token i from `round_keys(key, length, DRAFT, i - 1)`, Gumbel of shape (V,).

    Source: BiLD, arXiv 2302.07863; its code takes the likeliest token instead of drawing one.

    Attributes:
      depth: K, at least 1; static.
      fallback: least probability of the likeliest token, in [0, 1]; 0 never stops. Traced.
    """

    depth: int = struct.field(pytree_node=False)
    fallback: float | Float[Array, ""]

    def check(self, request: Request) -> None:
        """Raise ValueError on a depth or a probability out of range."""
        check_depth(self.depth)
        fallback = check_number("fallback", self.fallback)
        if not 0.0 <= fallback <= 1.0:
            raise ValueError(
                f"fallback={fallback} must be in [0, 1]: it is a probability (0 never "
                "stops a draft early)"
            )

    def propose(
        self, lm: BoundLM | None, state: DecodeState, controls: Controls
    ) -> tuple[DraftTree, Any]:
        """Return the chain with the distribution that each token was drawn from."""
        assert lm is not None
        logits, cache = last_logits(lm, state)
        past = history(state, controls, lm.vocab_size)
        batch, vocab = logits.shape
        grown = _Grown(
            tokens=jnp.zeros((batch, self.depth), state.tokens.dtype),
            valid=jnp.zeros((batch, self.depth), bool),
            dists=jnp.zeros((batch, self.depth, vocab), jnp.float32),
            reference=jnp.zeros((batch, self.depth + 1), jnp.float32),
            alive=~state.done,  # rows that are done must not keep the draft model running
        )
        grown = self._draw(grown, logits, past, 0, state, controls)

        def unfinished(carry):
            step, grown, _, _ = carry
            return (step < self.depth) & jnp.any(grown.alive)

        def one_token(carry):
            step, grown, past, cache = carry
            at = state.length + step - 1
            token = take(grown.tokens, jnp.broadcast_to(step - 1, at.shape))[:, None]
            logits, cache = lm.model.apply(
                lm.params, token, positions=at[:, None], write_at=at, prefix=at, window=None,
                cache=cache,
            )  # fmt: skip
            past = extend(past, jnp.zeros_like(token), token)
            logits = logits[:, 0, : lm.vocab_size]
            return step + 1, self._draw(grown, logits, past, step, state, controls), past, cache

        _, grown, _, cache = lax.while_loop(
            unfinished, one_token, (jnp.int32(1), grown, past, cache)
        )
        draft = chain_draft(state, grown.tokens, grown.valid, grown.reference)
        return dataclasses.replace(draft, logq=grown.dists), cache

    def _draw(
        self,
        grown: "_Grown",
        logits: Float[Array, "B V"],
        past: History,
        step: int | Int[Array, ""],
        state: DecodeState,
        controls: Controls,
    ) -> "_Grown":
        """Add token `step` to the rows that are still alive and sure."""
        sure = jnp.exp(jnp.max(jax.nn.log_softmax(logits), axis=-1)) >= self.fallback
        alive = grown.alive & sure
        logq = law(logits[:, None], past, controls, controls.draft_warp)[:, 0]
        token = random.categorical(
            random.round_keys(state.key, state.length, random.DRAFT, step), logq
        )
        token = jnp.where(alive, token, 0).astype(grown.tokens.dtype)
        value = jnp.where(alive, take(logq, token), 0.0)
        here = jnp.arange(self.depth) == step
        total = jnp.sum(jnp.where(here, grown.reference[:, :-1], 0.0), axis=1) + value
        # Past the chain's end the sum stays as it is, as it does where nothing is drawn any more.
        later = jnp.arange(self.depth + 1) > step
        return _Grown(
            tokens=jnp.where(here, token[:, None], grown.tokens),
            valid=grown.valid | (here & alive[:, None]),
            # Zeros where nothing was drawn: how long other rows go on must not show.
            dists=jnp.where(here[:, None] & alive[:, None, None], logq[:, None], grown.dists),
            reference=jnp.where(later, total[:, None], grown.reference),
            alive=alive & ~controls.is_end(token),
        )


@struct.dataclass
class _Grown:
    """The chain so far.

    Attributes:
      tokens, valid: [B, K] its tokens, and which of them were drawn.
      dists: [B, K, V] log q that each was drawn from.
      reference: [B, K+1] log q of its prefixes.
      alive: [B] whether it may grow.
    """

    tokens: Int[Array, "B K"]
    valid: Bool[Array, "B K"]
    dists: Float[Array, "B K V"]
    reference: Float[Array, "B K+1"]
    alive: Bool[Array, " B"]
