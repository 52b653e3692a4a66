"""The generated text-to-SQL task on databases that the shipped pair was not trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from experiments.tasks import text_to_sql
from experiments.tasks.base import Problem, Task


@dataclass(frozen=True)
class TinySQL(Task):
    """Questions about made-up databases, judged by running the answer (`text_to_sql`).

    A query ends by itself: the shipped pair has learnt to end there.

    Attributes:
      questions: how many.
      seed: of their choice; the first ones do not depend on how many there are.
    """

    questions: int = 300
    seed: int = 0

    name: ClassVar[str] = "tinysql"
    metrics: ClassVar[tuple[str, ...]] = ("correct",)
    max_new_tokens: ClassVar[int] = 96

    def __post_init__(self) -> None:
        if self.questions < 1:
            raise ValueError(f"questions={self.questions} must be >= 1")

    def prompts(self) -> list[Problem]:
        """Return the questions; the category is the form of the query that was asked for."""
        found = text_to_sql.examples("held_out", self.questions, self.seed)
        return [
            Problem(
                id=f"{self.seed}-{index}",
                turns=(example.prompt,),
                reference=example,
                category=example.form,
                keys={
                    "db_id": example.db_id,
                    "tables": len(example.tables),
                    "query": example.sql,
                },
            )
            for index, example in enumerate(found)
        ]

    def score(self, problem: Problem, answers: Sequence[str]) -> dict[str, float]:
        """Return whether the query gives the rows of the one that was asked for."""
        return {"correct": float(text_to_sql.is_correct(problem.reference, answers[-1]))}
