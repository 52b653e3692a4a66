"""The file of rows of one task and rule, written batch by batch."""

import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.evaluation.ask import Asker
from experiments.rows.output import RowWriter
from mtad_jax.checkpoints.atomic import new_file
from mtad_jax.records import partial_of


@dataclasses.dataclass
class TaskRows:
    """One file and who fills it.

    Attributes:
      path: the complete file.
      asker: asks the batches.
      written: rows that this process has written.
    """

    path: Path
    asker: Asker
    written: int = 0

    def ask_all(self, tick: Callable[[int], object]) -> None:
        """Ask every batch that is not there yet; `tick` is told of each, also of those there.

        Raises:
          OSError: the rows cannot be written; those written before stay.
        """
        if self.path.exists():
            tick(self.asker.batches)
        else:
            self._ask_left(tick)
        self._write_answers()

    def _ask_left(self, tick: Callable[[int], object]) -> None:
        """Ask the batches that are not there; the file gets its name with the last."""
        writer = RowWriter(
            self.path, {"strategy": self.asker.point.label}, resume=True,
            again="give the same command", anew=f"remove {partial_of(self.path)} to ask anew",
        )  # fmt: skip
        with writer:
            first = self._whole_batches(writer)
            tick(first)
            for batch in range(first, self.asker.batches):
                rows = self.asker.ask(batch)
                writer.write(rows)
                self.written += len(rows)
                tick(1)

    def read(self) -> list[dict[str, Any]]:
        """Return the complete file's rows."""
        return [json.loads(line) for line in self.path.read_bytes().splitlines()]

    def _whole_batches(self, writer: RowWriter) -> int:
        """Cut a batch that a killed run left in parts; return how many batches stay."""
        ends = itertools.accumulate(map(self.asker.rows_in, range(self.asker.batches)))
        whole = [end for end in ends if end <= writer.count]
        writer.cut(whole[-1] if whole else 0)
        return len(whole)

    def _write_answers(self) -> None:
        """Write the answers in the format of the task's own tools, where it has one."""
        task, rows = self.asker.task, self.read()
        by_problem: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            by_problem.setdefault(row["id"], []).append(row)
        answers = [task.answer_row(p, by_problem[p.id]) for p in self.asker.problems]
        found = [answer for answer in answers if answer is not None]
        if not found:
            return
        path = self.path.with_suffix(".answers.jsonl")
        with new_file(path, overwrite=True) as file:
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found)
            file.write_text(text, encoding="utf-8")
