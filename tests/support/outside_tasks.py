"""Tasks from outside the package, as `module:Class` names them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from experiments.tasks.base import Problem, Task


@dataclass(frozen=True)
class Echo(Task):
    """Conversations of one to three turns; an answer is worth the share of its turns with text."""

    count: int = 5
    name = "echo"
    metrics = ("answered", "letters")
    max_new_tokens = 6
    question = "Q: {}\n"
    answer = "A: {}\n"

    def prompts(self) -> list[Problem]:
        """Return `count` conversations."""
        return [
            Problem(f"e{i}", tuple(f"say {i} {j}" for j in range(1 + i % 3)), reference=i)
            for i in range(self.count)
        ]

    def score(self, problem: Problem, answers: Sequence[str]) -> dict[str, float]:
        """Return the share of answers with text, and how many letters there are."""
        assert len(answers) == len(problem.turns)
        return {
            "answered": sum(map(bool, answers)) / len(answers),
            "letters": float(sum(map(len, answers))),
        }

    def answer_row(self, problem, rows):
        """Return what a tool of its own would read."""
        return {"question": problem.id, "answers": [row["text"] for row in rows]}


@dataclass(frozen=True)
class Twins(Echo):
    """All problems have one id, as no task's may."""

    def prompts(self) -> list[Problem]:
        """Return `count` conversations of one id."""
        return [replace(problem, id="one") for problem in super().prompts()]


@dataclass(frozen=True)
class NotATask:
    """Has nothing of a task."""


class Plain(Task):
    """No dataclass."""
