"""What a call gives back, and the counters that its trace holds."""

import dataclasses

import numpy as np
from flax import struct

from mtad_jax.decode.state import Trace
from mtad_jax.types import Array, Bool, Float, Int


@dataclasses.dataclass(frozen=True)
class DecodeStats:
    """Counters of each row, derived from the trace.

    Attributes:
      rounds: [B] rounds, each one call of the target.
      accepted: [B] drafted tokens that the user gets: no fillers, nothing past the end or limit.
      drafted: [B] tokens of the candidates x*, counted like `accepted`.
      accepted_at: [B, K] rounds in which at least i + 1 drafted tokens were accepted.
    """

    rounds: Int[np.ndarray, " B"]
    accepted: Int[np.ndarray, " B"]
    drafted: Int[np.ndarray, " B"]
    accepted_at: Int[np.ndarray, "B K"]

    @property
    def block_efficiency(self) -> Float[np.ndarray, " B"]:
        """1 + accepted / rounds, the papers' formula; the bonus is the 1."""
        return 1 + self.accepted / np.maximum(self.rounds, 1)

    @property
    def acceptance_by_position(self) -> Float[np.ndarray, "B K"]:
        """Share of rounds in which at least i + 1 drafted tokens were accepted."""
        return self.accepted_at / np.maximum(self.rounds, 1)[:, None]


@struct.dataclass
class DecodeResult:
    """What a call gives back, on device.

    Attributes:
      tokens: [B, M] generated tokens, end token included, 0 past the row's length.
      length: [B] how many of them are text.
      done: [B] whether the row has ended; False only in the items of a stream.
      trace: [B, M] what is known of each; 0 past the row's length.
      bound: [] what the log-ratio of every accepted block is above (log tau); None where the rule
        promises nothing.
      depth: K of the strategy; static.
    """

    tokens: Int[Array, "B M"]
    length: Int[Array, " B"]
    done: Bool[Array, " B"]
    trace: Trace
    bound: Float[Array, ""] | None
    depth: int = struct.field(pytree_node=False)

    def stats(self, length: Int[np.ndarray, " B"] | None = None) -> DecodeStats:
        """Return the counters of the first `length[b]` tokens of each row; None: of all.

        A round that the cut goes through counts with the part of its candidate before the cut, as
        at `max_new_tokens`.
        """
        full = np.asarray(self.length)
        kept = full if length is None else np.minimum(length, full)
        index = np.arange(self.tokens.shape[1])
        inside = index < kept[:, None]
        rounds = np.where(inside, np.asarray(self.trace.round), -1)
        place = np.where(inside, np.asarray(self.trace.place), 0)
        candidate = np.where(inside, np.asarray(self.trace.candidate), 0)
        return DecodeStats(
            rounds=1 + rounds.max(axis=1),
            accepted=(place > 0).sum(axis=1),
            drafted=candidate.sum(axis=1) - self._cut_candidate(kept),
            accepted_at=(place[:, :, None] == 1 + np.arange(self.depth)).sum(axis=1),
        )

    def _cut_candidate(self, kept: Int[np.ndarray, " B"]) -> Int[np.ndarray, " B"]:
        """Return how many candidate tokens of each row's last round lie past the cut."""
        past = np.zeros_like(kept)
        for row, (n, full) in enumerate(zip(kept, np.asarray(self.length), strict=True)):
            rounds = np.asarray(self.trace.round[row])
            if 0 < n < full and rounds[n] == rounds[n - 1]:
                first = int(np.argmax(rounds == rounds[n - 1]))
                past[row] = max(int(self.trace.candidate[row, first]) - (n - first), 0)
        return past

    def perplexity(self) -> float:
        """exp(-mean over rows of the mean `logp_raw` over the row's tokens): macro average."""
        mean = np.asarray(self.trace.logp_raw).sum(axis=1) / np.maximum(self.length, 1)
        return float(np.exp(-mean.mean()))
