"""A table as a language model, and the law of its next token."""

import dataclasses
import functools

import numpy as np

from reference.warping import Law, Text, warp


@dataclasses.dataclass(frozen=True, eq=False)
class TableModel:
    """A fake language model: the whole context picks a row of `table [rows, V]`."""

    table: np.ndarray

    def row(self, context: Text) -> int:
        """sum_i (token_i + 1) (i + 1)^2 mod rows, i the absolute position, exact integers."""
        total = sum((int(token) + 1) * (i + 1) * (i + 1) for i, token in enumerate(context))
        return total % len(self.table)

    def logits(self, context: Text) -> np.ndarray:
        """Next-token logits `[V]` after `context`."""
        return self.table[self.row(context)]


def law(
    model: TableModel,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    *,
    min_p: float = 0.0,
    vocab_size: int | None = None,
    dtype: type = np.float64,
) -> Law:
    """The warped next-token law of `model` (algorithms: Notation, p and q)."""

    @functools.cache
    def next_token(context: Text) -> np.ndarray:
        return warp(
            model.logits(context),
            temperature,
            top_k,
            top_p,
            min_p=min_p,
            vocab_size=vocab_size,
            dtype=dtype,
        )

    return next_token
