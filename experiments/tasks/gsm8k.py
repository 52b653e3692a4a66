"""GSM8K: word problems whose answer is one number (Cobbe et al., 2021, arXiv:2110.14168).

An answer is right if the last number in it is the right one: the "flexible-extract" score of
lm-evaluation-harness, beside which it has a strict one. As there, commas and dollar signs do not
count. Unlike there, numbers are compared as numbers (18.00 is 18), dots that belong to no number
are not taken for one, and a hyphen after a digit is no sign (20-25 ends in 25).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import ClassVar

from experiments.tasks.base import Problem, Task, check_file, limited, read_rows, value_of

SOURCE = "https://github.com/openai/grade-school-math (grade_school_math/data)"
INSTRUCTION = (
    "\n\nThink step by step. End with a line that has #### and the answer, as a number alone."
)
_NUMBER = re.compile(r"(?:(?<![0-9])[-\u2212])?\$?(?:[0-9][0-9,]*(?:\.[0-9]+)?|\.[0-9]+)")
_MARKED = re.compile(r"#### (-?[0-9][0-9,]*(?:\.[0-9]+)?)")


@dataclass(frozen=True)
class GSM8K(Task):
    """Word problems.

    Attributes:
      path: the test set, JSON lines with `question` and `answer`.
      limit: ask the first ones only.
      shots: solved problems shown before each, the first of `train_path`.
      train_path: where they come from.
      instruct: say how to answer; for a model that follows instructions and sees no shots.
    """

    name: ClassVar[str] = "gsm8k"
    metrics: ClassVar[tuple[str, ...]] = ("correct", "strict")
    stop: ClassVar[tuple[str, ...]] = ("Question:",)
    question: ClassVar[str] = "Question: {}\nAnswer:"
    answer: ClassVar[str] = " {}\n\n"

    path: str = ""
    limit: int | None = None
    shots: int = 0
    train_path: str = ""
    instruct: bool = False

    def __post_init__(self) -> None:
        check_file(self.path, "GSM8K's test.jsonl", SOURCE)
        if self.shots < 0:
            raise ValueError(f"shots={self.shots} must be >= 0: solved problems shown before each")
        if self.train_path:
            check_file(self.train_path, "GSM8K's train.jsonl", SOURCE)
        elif self.shots:
            raise ValueError(
                f"shots={self.shots} without train_path: give GSM8K's train.jsonl, from {SOURCE}"
            )

    def prompts(self) -> list[Problem]:
        """Return the problems, each named by its place in the file, from 0 on."""
        shots = self._solved()
        problems = []
        for index, (source, row) in enumerate(read_rows(self.path)):
            question, answer = _read(source, row)
            turn = question + (INSTRUCTION if self.instruct else "")
            problems.append(
                Problem(str(index), (turn,), reference=marked_number(answer), shots=shots)
            )
        return limited(problems, self.limit)

    def score(self, problem: Problem, answers: Sequence[str]) -> dict[str, float]:
        """Return whether the last number is right, and whether the one after `####` is."""
        right = problem.reference
        found = (last_number(answers[-1]), marked_number(answers[-1]))
        return {name: float(n == right) for name, n in zip(self.metrics, found, strict=True)}

    def _solved(self) -> tuple[tuple[str, str], ...]:
        if not self.shots:
            return ()
        rows = read_rows(self.train_path)
        if len(rows) < self.shots:
            raise ValueError(
                f"shots={self.shots} must be <= {len(rows)}, the rows of {self.train_path}"
            )
        return tuple(_read(source, row) for source, row in rows[: self.shots])


def last_number(text: str) -> Decimal | None:
    """Return the last number in a text; None if there is none."""
    found = _NUMBER.findall(text)
    return _value(found[-1]) if found else None


def marked_number(text: str) -> Decimal | None:
    """Return the first number after `#### `, as the data set marks its answers; None without."""
    found = _MARKED.search(text)
    return _value(found[1]) if found else None


def _value(number: str) -> Decimal:
    return Decimal(re.sub(r"[$,]", "", number).replace("\u2212", "-"))


def _read(source: str, row: dict) -> tuple[str, str]:
    """Return a row's question and answer.

    Raises:
      ValueError: it has none, or the answer has no number.
    """
    question, answer = (value_of(row, key, str, source) for key in ("question", "answer"))
    if marked_number(answer) is None:
        raise ValueError(f"{source}: answer ends in {answer[-30:]!r}, not in '#### ' and a number")
    return question, answer
