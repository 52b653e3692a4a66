"""What a joint rule promises of every block that it accepts, checked on a result."""

import dataclasses

import numpy as np

from mtad_jax.decode.arguments import check_result
from mtad_jax.decode.result import DecodeResult

_SHOWN = 12  # blocks of the printed table; the smallest margins come first


@dataclasses.dataclass(frozen=True)
class CertifiedBlock:
    """One accepted block.

    Attributes:
      row: of the result.
      start: index of the block's first token in the row's text.
      accepted: drafted tokens of it that the user gets, at least 1.
      log_ratio: measured log p - log q of what the round accepted, natural log.
      bound: what it must be above, log tau.
    """

    row: int
    start: int
    accepted: int
    log_ratio: float
    bound: float

    @property
    def margin(self) -> float:
        """How far the log-ratio is above the bound, in nats."""
        return self.log_ratio - self.bound

    @property
    def holds(self) -> bool:
        """Whether the log-ratio is above the bound; not where it is no number."""
        return self.log_ratio > self.bound


@dataclasses.dataclass(frozen=True)
class Certificate:
    """Whether every accepted block of a result keeps the rule's promise.

    Attributes:
      bound: log tau.
      blocks: every block with an accepted token, by row and start.
      rounds: rounds of all rows, those that accepted nothing included: these promise nothing.
    """

    bound: float
    blocks: tuple[CertifiedBlock, ...]
    rounds: int

    @property
    def holds(self) -> bool:
        """Whether all blocks keep the promise."""
        return all(block.holds for block in self.blocks)

    @property
    def margin(self) -> float:
        """The smallest margin of all blocks, in nats; infinity where nothing was accepted."""
        return min((block.margin for block in self.blocks), default=float("inf"))

    def __str__(self) -> str:
        failed = sum(not block.holds for block in self.blocks)
        verdict = "HOLDS for every block" if self.holds else f"BROKEN by {failed} blocks"
        lines = [
            f"log p - log q > log tau = {self.bound:.4f}: {verdict}",
            f"{len(self.blocks)} accepted blocks of {self.rounds} rounds, smallest margin "
            f"{self.margin:.4f} nats",
        ]
        if not self.blocks:
            return "\n".join(lines)
        lines.append(f"{'row':>5}{'start':>7}{'accepted':>10}{'log p/q':>10}{'margin':>10}")
        worst = sorted(self.blocks, key=lambda b: (b.holds, b.margin))
        for b in worst[:_SHOWN]:
            note = "" if b.holds else "  BROKEN"
            lines.append(
                f"{b.row:>5}{b.start:>7}{b.accepted:>10}{b.log_ratio:>10.4f}{b.margin:>10.4f}{note}"
            )
        if len(worst) > _SHOWN:
            lines.append(f"and {len(worst) - _SHOWN} more with larger margins")
        return "\n".join(lines)


def certificate(result: DecodeResult) -> Certificate:
    """Check log p(accepted) - log q(x*) > log tau on every accepted block of a result.

    log p is the warped target's, log q that of the draft's candidate x* over as many tokens, both
    as they were measured while decoding. A block that a limit cut is judged as it was accepted.

    Raises:
      ValueError: the result is of a rule that promises nothing (only MTAD and MMTAD do).
      TypeError: it is no result of `generate`, but a pipeline's completion, say.

    Source: arXiv 2407.09722, section 4.
    """
    check_result(result)
    if result.bound is None:
        raise ValueError(
            "result.bound=None: its rule promises nothing of a block's likelihood: give a result "
            "of recipes.mtad or recipes.mmtad"
        )
    bound = float(np.asarray(result.bound))
    rows = result.blocks()
    blocks = [
        CertifiedBlock(row, block.start, block.accepted, block.log_ratio, bound)
        for row, row_blocks in enumerate(rows)
        for block in row_blocks
        if block.accepted
    ]
    return Certificate(bound, tuple(blocks), sum(map(len, rows)))
