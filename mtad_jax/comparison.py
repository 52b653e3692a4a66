"""Texts of several rules side by side."""

import dataclasses
import math
from collections.abc import Mapping

from mtad_jax.completions import Completion
from mtad_jax.views.tables import table_html, table_text

_HEAD = ("rule", "tokens", "target calls", "tokens a call", "accepted", "perplexity")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What several rules made of one prompt: a table, and in notebooks the texts below it.

    Perplexity is that of the text under the un-warped target; see `Completion.logp_raw`.

    Attributes:
      rows: a completion of each rule, by the name that the table gives it.
    """

    rows: Mapping[str, Completion]

    def __post_init__(self):
        """Check the rows.

        Raises:
          ValueError: there are none.
          TypeError: one is no completion, but a list of them, say.
        """
        if not self.rows:
            raise ValueError("rows is empty: give at least one completion")
        for name, row in self.rows.items():
            if not isinstance(row, Completion):
                raise TypeError(
                    f"rows[{name!r}] is a {type(row).__name__}, not a Completion: a pipeline "
                    "gives a list of them: take one, pipe(...)[0]"
                )

    def __str__(self) -> str:
        return table_text(_HEAD, self._cells())

    def __repr__(self) -> str:
        return f"Comparison({', '.join(self.rows)})"

    def _repr_html_(self) -> str:
        last = len(self.rows) - 1
        texts = [
            row.html(name, legend=i == last) for i, (name, row) in enumerate(self.rows.items())
        ]
        return "\n".join([table_html(_HEAD, self._cells()), *texts])

    def _cells(self) -> list[list[str]]:
        return [[name, *_figures(row)] for name, row in self.rows.items()]


def _figures(row: Completion) -> list[str]:
    """Return a row's cells after its name."""
    stats, count = row.stats, len(row.tokens)
    accepted = f"{stats.accepted} of {stats.drafted}" if stats.drafted else "-"
    calls = f"{count / stats.rounds:.2f}" if stats.rounds else "-"
    mean = -sum(row.logp_raw) / count if count else math.nan
    perplexity = f"{math.exp(mean):.3f}" if math.isfinite(mean) else "-"
    return [str(count), str(stats.rounds), calls, accepted, perplexity]
