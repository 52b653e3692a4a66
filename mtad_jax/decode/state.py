"""What the decode loop carries, and what it gives back."""

from typing import Any

import jax.numpy as jnp
from flax import struct

from mtad_jax.decode.warp import Warp
from mtad_jax.types import Array, Bool, Float, Int, Key


@struct.dataclass
class Controls:
    """Settings of one call that every strategy honours. All traced but the warps' top-k.

    Attributes:
      warp: sharpening of the target's distributions.
      draft_warp: sharpening of the draft's.
      eos_ids: [E] the end tokens; E may be 0.
      banned: [V] tokens that neither model may give; None: all may come.
      penalty: logits of tokens in the text are divided by it where positive and multiplied where
        negative, in both models; None: no repetition penalty.
      min_length: [B] length, prompt included, below which no end token may come; None: none.
    """

    warp: Warp
    draft_warp: Warp
    eos_ids: Int[Array, " E"]
    banned: Bool[Array, " V"] | None = None
    penalty: Float[Array, ""] | None = None
    min_length: Int[Array, " B"] | None = None

    def is_end(self, tokens: Int[Array, "..."]) -> Bool[Array, "..."]:
        """Say which tokens end a text."""
        return jnp.any(tokens[..., None] == self.eos_ids, axis=-1)


@struct.dataclass
class Trace:
    """What is known of each token, at the token's slot (state) or index (result).

    Attributes:
      logp: log-probability under the warped target, natural log.
      logp_raw: log-probability under the un-warped target.
      round: round that committed the token, from 0 on in every row.
      place: i where it was the i-th drafted token of its round, 0 where it was the bonus.
      candidate: at the first token of a round, the length of the round's candidate x*; else 0.
      log_ratio: at the first token of a round, log p - log q of what it accepted, before the
        row's limit cut it: log q is the accepted node's `DraftTree.reference`; else 0.
      ending: at the first token of a round, why the round ended there (REJECTED, DEPTH, END or
        LENGTH); else 0.
    """

    logp: Float[Array, "B S"]
    logp_raw: Float[Array, "B S"]
    round: Int[Array, "B S"]
    place: Int[Array, "B S"]
    candidate: Int[Array, "B S"]
    log_ratio: Float[Array, "B S"]
    ending: Int[Array, "B S"]


REJECTED, DEPTH, END, LENGTH = range(1, 5)
"""Why a round ended: a drafted token was not accepted; all that was drafted was accepted; the text
ended; the row's limit was reached. END goes before LENGTH, both before the others."""


@struct.dataclass
class DecodeState:
    """The loop's carry. Rows are independent: each has its own length, key, limit and end flag.

    Invariants: token i of a row lives in slot i of `tokens`, `trace` and both caches; slots at or
    past `length` are scratch; caches hold every slot below `length - 1` (the last committed token
    is run in the next round, as node 0 of its draft).

    Attributes:
      tokens: [B, S] prompt and generated text.
      length: [B] committed tokens, prompt included.
      limit: [B] length at which the row stops.
      done: [B] ended or at its limit; the row then commits nothing more.
      key: [B] random key.
      rounds: [] rounds run so far.
      trace: [B, S] what is known of each generated token.
      target_cache, draft_cache: the models' caches (draft: None without a draft model).
      extra: what a strategy or its drafter carries from round to round; None for most.
      started: [] whether the prompt is in the caches.
    """

    tokens: Int[Array, "B S"]
    length: Int[Array, " B"]
    limit: Int[Array, " B"]
    done: Bool[Array, " B"]
    key: Key[Array, " B"]
    rounds: Int[Array, ""]
    trace: Trace
    target_cache: Any
    draft_cache: Any
    extra: Any
    started: Bool[Array, ""]
