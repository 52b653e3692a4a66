"""What a call gives back, and the counters that its trace holds."""

import dataclasses
import itertools

import numpy as np
from flax import struct

from mtad_jax.decode.state import DEPTH, END, LENGTH, REJECTED, Trace
from mtad_jax.types import Array, Bool, Float, Int

ENDINGS = {REJECTED: "rejected", DEPTH: "depth", END: "end", LENGTH: "length"}
"""Names of why a round ended, by their codes in `Trace.ending`; in the order of their counts."""


@dataclasses.dataclass(frozen=True)
class Block:
    """What one round gave a row.

    Attributes:
      start: index of its first token in the row's text.
      tokens: how many tokens the user gets of it, bonus included.
      accepted: how many of them were drafted.
      candidate: tokens of the round's candidate x*, counted like `accepted`.
      log_ratio: log p - log q of what the round accepted, before a limit or a cut took part of it
        (natural log); 0 where it accepted nothing.
      ending: why the round ended: "rejected", "depth", "end" or "length"; see `ENDINGS`.
    """

    start: int
    tokens: int
    accepted: int
    candidate: int
    log_ratio: float
    ending: str


@dataclasses.dataclass(frozen=True)
class DecodeStats:
    """Counters of each row, derived from the trace.

    Attributes:
      rounds: [B] rounds, each one call of the target.
      accepted: [B] drafted tokens that the user gets: no fillers, nothing past the end or limit.
      drafted: [B] tokens of the candidates x*, counted like `accepted`.
      accepted_at: [B, K] rounds in which at least i + 1 drafted tokens were accepted.
      endings: [B, 4] rounds that a rejection, the draft's depth, the text's end or the row's
        limit ended, in this order (`ENDINGS`). They add up to `rounds`, but for rules that decide
        all of a text at its end: those count once.
    """

    rounds: Int[np.ndarray, " B"]
    accepted: Int[np.ndarray, " B"]
    drafted: Int[np.ndarray, " B"]
    accepted_at: Int[np.ndarray, "B K"]
    endings: Int[np.ndarray, "B 4"]

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

        A round that the cut goes through counts with the part of its candidate before the cut, and
        as ended by the length, as at `max_new_tokens`.
        """
        kept = self._kept(length)
        index = np.arange(self.tokens.shape[1])
        inside = index < kept[:, None]
        rounds = np.where(inside, np.asarray(self.trace.round), -1)
        place = np.where(inside, np.asarray(self.trace.place), 0)
        candidate = np.where(inside, np.asarray(self.trace.candidate), 0)
        ending = np.where(inside, np.asarray(self.trace.ending), 0)
        for row, first in self._cut_rounds(kept):
            ending[row, first] = LENGTH
        return DecodeStats(
            rounds=1 + rounds.max(axis=1),
            accepted=(place > 0).sum(axis=1),
            drafted=candidate.sum(axis=1) - self._cut_candidate(kept),
            accepted_at=(place[:, :, None] == 1 + np.arange(self.depth)).sum(axis=1),
            endings=(ending[:, :, None] == list(ENDINGS)).sum(axis=1),
        )

    def blocks(self, length: Int[np.ndarray, " B"] | None = None) -> list[list[Block]]:
        """Return each row's rounds in order, cut like the counters of `stats(length)`."""
        kept = self._kept(length)
        cut, past = dict(self._cut_rounds(kept)), self._cut_candidate(kept)
        rows = []
        for row, n in enumerate(kept):
            trace = {name: np.asarray(value[row]) for name, value in vars(self.trace).items()}
            starts = [int(i) for i in np.flatnonzero(trace["ending"][:n])]
            blocks = []
            for start, stop in itertools.pairwise([*starts, int(n)]):
                last = cut.get(row) == start
                code = LENGTH if last else int(trace["ending"][start])
                block = Block(
                    start=start,
                    tokens=stop - start,
                    accepted=int((trace["place"][start:stop] > 0).sum()),
                    candidate=int(trace["candidate"][start]) - last * int(past[row]),
                    log_ratio=float(trace["log_ratio"][start]),
                    ending=ENDINGS[code],
                )
                blocks.append(block)
            rows.append(blocks)
        return rows

    def _kept(self, length: Int[np.ndarray, " B"] | None) -> Int[np.ndarray, " B"]:
        """Return how many tokens of each row are looked at."""
        full = np.asarray(self.length)
        return full if length is None else np.minimum(length, full)

    def _cut_rounds(self, kept: Int[np.ndarray, " B"]) -> list[tuple[int, int]]:
        """Return the rows that the cut goes through a round of, and where that round starts."""
        cut = []
        for row, (n, full) in enumerate(zip(kept, np.asarray(self.length), strict=True)):
            rounds = np.asarray(self.trace.round[row])
            if 0 < n < full and rounds[n] == rounds[n - 1]:
                cut.append((row, int(np.argmax(rounds == rounds[n - 1]))))
        return cut

    def _cut_candidate(self, kept: Int[np.ndarray, " B"]) -> Int[np.ndarray, " B"]:
        """Return how many candidate tokens of each row's last round lie past the cut."""
        past = np.zeros_like(kept)
        for row, first in self._cut_rounds(kept):
            past[row] = max(int(self.trace.candidate[row, first]) - (kept[row] - first), 0)
        return past

    def perplexity(self) -> float:
        """exp(-mean over rows of the mean `logp_raw` over the row's tokens): macro average."""
        mean = np.asarray(self.trace.logp_raw).sum(axis=1) / np.maximum(self.length, 1)
        return float(np.exp(-mean.mean()))
