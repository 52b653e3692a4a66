"""What the decode loop carries, and what it gives back."""

from typing import Any

import jax.numpy as jnp
from flax import struct

from mtad_jax.types import Array, Bool, Float, Int, Key
from mtad_jax.warp import Warp


@struct.dataclass
class Controls:
    """Settings of one call that every strategy honours. All traced but `warp.top_k`.

    Attributes:
      warp: sharpening of both models' distributions.
      eos_ids: [E] the end tokens; E may be 0.
    """

    warp: Warp
    eos_ids: Int[Array, " E"]

    def is_end(self, tokens: Int[Array, "..."]) -> Bool[Array, "..."]:
        """Say which tokens end a text."""
        return jnp.any(tokens[..., None] == self.eos_ids, axis=-1)


@struct.dataclass
class DecodeStats:
    """Counters, gathered on the device.

    Attributes:
      rounds: [B] rounds (calls of the target) in which the row was not yet done.
      accepted: [B] drafted tokens that the user gets: no fillers, nothing past the end or limit.
      drafted: [B] tokens of the candidates x*, counted like `accepted`.
      accepted_at: [B, K] rounds in which at least i + 1 drafted tokens were accepted.
    """

    rounds: Int[Array, " B"]
    accepted: Int[Array, " B"]
    drafted: Int[Array, " B"]
    accepted_at: Int[Array, "B K"]


@struct.dataclass
class DecodeState:
    """The loop's carry. Rows are independent: each has its own length, key, limit and end flag.

    Invariants: token i of a row lives in slot i of `tokens`, `logp`, `logp_raw` and both caches;
    slots at or past `length` are scratch; caches hold every slot below `length - 1` (the last
    committed token is run in the next round, as node 0 of its draft).

    Attributes:
      tokens: [B, S] prompt and generated text.
      length: [B] committed tokens, prompt included.
      limit: [B] length at which the row stops.
      done: [B] ended or at its limit; the row then commits nothing more.
      key: [B] random key.
      logp, logp_raw: [B, S] log-probability of each generated token under the warped and the
        un-warped target.
      stats: counters.
      target_cache, draft_cache: the models' caches (draft: None without a draft model).
      extra: what a strategy carries from round to round; None for most.
      started: [] whether the prompt is in the caches.
    """

    tokens: Int[Array, "B S"]
    length: Int[Array, " B"]
    limit: Int[Array, " B"]
    done: Bool[Array, " B"]
    key: Key[Array, " B"]
    logp: Float[Array, "B S"]
    logp_raw: Float[Array, "B S"]
    stats: DecodeStats
    target_cache: Any
    draft_cache: Any
    extra: Any
    started: Bool[Array, ""]


@struct.dataclass
class DecodeResult:
    """What a call gives back.

    Attributes:
      tokens: [B, M] generated tokens, end token included, 0 past the row's length.
      length: [B] how many of them are text.
      logp, logp_raw: [B, M] log-probability of each under the warped and the un-warped target,
        natural log; 0 past the row's length.
      stats: counters.
    """

    tokens: Int[Array, "B M"]
    length: Int[Array, " B"]
    logp: Float[Array, "B M"]
    logp_raw: Float[Array, "B M"]
    stats: DecodeStats

    def block_efficiency(self) -> Float[Array, " B"]:
        """1 + accepted / rounds, the papers' formula."""
        return 1 + self.stats.accepted / jnp.maximum(self.stats.rounds, 1)

    def acceptance_by_position(self) -> Float[Array, "B K"]:
        """Share of rounds in which at least i + 1 drafted tokens were accepted."""
        return self.stats.accepted_at / jnp.maximum(self.stats.rounds, 1)[:, None]

    def perplexity(self) -> Float[Array, ""]:
        """exp(-mean over rows of the mean `logp_raw` over the row's tokens): macro average."""
        mean = jnp.sum(self.logp_raw, axis=1) / jnp.maximum(self.length, 1)
        return jnp.exp(-jnp.mean(mean))
