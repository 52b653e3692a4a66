"""What a call gives back, and the counters that its trace holds."""

import dataclasses
import itertools

import jax
import numpy as np
from flax import struct
from jax.core import Tracer

from mtad_jax.decode.state import DEPTH, END, LENGTH, REJECTED, Trace
from mtad_jax.types import Array, Bool, Float, Int
from mtad_jax.views.tables import table_html

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

    def __repr__(self) -> str:
        """On one line, whatever the leaves are: arrays, shapes or tracers."""
        shape = "x".join(map(str, getattr(self.tokens, "shape", "?")))
        if not isinstance(self.length, jax.Array | np.ndarray) or isinstance(self.length, Tracer):
            return f"DecodeResult({shape} tokens)"
        rows = [len(self.length), int(np.sum(self.length)), int(np.sum(self.done))]
        return "DecodeResult({} rows, {} tokens, {} done)".format(*rows)

    def _repr_html_(self) -> str:
        """Return a table of the rows' counters; notebooks show it."""
        stats = self.stats()
        numbers = (self.length, stats.rounds, stats.accepted, stats.drafted, stats.block_efficiency)
        rows = [
            [str(row), *map(str, counts), f"{efficiency:.2f}"]
            for row, (*counts, efficiency) in enumerate(zip(*map(np.asarray, numbers), strict=True))
        ]
        return table_html(
            ["row", "tokens", "target calls", "accepted", "drafted", "block efficiency"], rows
        )

    def stats(self, length: Int[np.ndarray, " B"] | None = None) -> DecodeStats:
        """Return the counters of the first `length[b]` tokens of each row; None: of all.

        A round that the cut goes through counts with the part of its candidate before the cut, and
        as ended by the length, as at `max_new_tokens`.
        """
        kept = self._kept(length)
        trace = self._cut_trace(kept)
        inside = np.arange(self.tokens.shape[1]) < kept[:, None]
        place, ending = trace["place"], trace["ending"]
        return DecodeStats(
            rounds=1 + np.where(inside, trace["round"], -1).max(axis=1),
            accepted=(place > 0).sum(axis=1),
            drafted=trace["candidate"].sum(axis=1),
            accepted_at=(place[:, :, None] == 1 + np.arange(self.depth)).sum(axis=1),
            endings=(ending[:, :, None] == list(ENDINGS)).sum(axis=1),
        )

    def blocks(self, length: Int[np.ndarray, " B"] | None = None) -> list[list[Block]]:
        """Return each row's rounds in order, cut like the counters of `stats(length)`."""
        kept = self._kept(length)
        whole = self._cut_trace(kept)
        rows = []
        for row, n in enumerate(kept):
            trace = {name: value[row] for name, value in whole.items()}
            starts = [int(i) for i in np.flatnonzero(trace["ending"])]
            rows.append(
                [
                    Block(
                        start=start,
                        tokens=stop - start,
                        accepted=int((trace["place"][start:stop] > 0).sum()),
                        candidate=int(trace["candidate"][start]),
                        log_ratio=float(trace["log_ratio"][start]),
                        ending=ENDINGS[int(trace["ending"][start])],
                    )
                    for start, stop in itertools.pairwise([*starts, int(n)])
                ]
            )
        return rows

    def _kept(self, length: Int[np.ndarray, " B"] | None) -> Int[np.ndarray, " B"]:
        """Return how many tokens of each row are looked at."""
        full = np.asarray(self.length)
        return full if length is None else np.minimum(length, full)

    def _cut_trace(self, kept: Int[np.ndarray, " B"]) -> dict[str, np.ndarray]:
        """Return the trace on the host, by name, as if each row's limit had been `kept` tokens.

        A round that the cut goes through ends by the length, and its candidate ends at the cut.
        """
        trace = {name: np.asarray(value) for name, value in vars(self.trace).items()}
        cut = np.flatnonzero(kept < np.asarray(self.length)).tolist()
        if not cut:
            return trace
        inside = np.arange(self.tokens.shape[1]) < kept[:, None]
        rounds = trace["round"]
        trace = {name: np.where(inside, value, 0) for name, value in trace.items()}
        for row in cut:
            n = int(kept[row])
            if n and rounds[row, n] == rounds[row, n - 1]:
                start = int(np.argmax(rounds[row] == rounds[row, n - 1]))
                trace["ending"][row, start] = LENGTH
                trace["candidate"][row, start] = min(trace["candidate"][row, start], n - start)
        return trace

    def perplexity(self) -> float:
        """exp(-mean over rows of the mean `logp_raw` over the row's tokens): macro average."""
        mean = np.asarray(self.trace.logp_raw).sum(axis=1) / np.maximum(self.length, 1)
        return float(np.exp(-mean.mean()))
