"""MBPP: short Python tasks with three tests each (Austin et al., 2021, arXiv:2108.07732).

pass@1: the share of answers that pass the problem's tests, which the prompt shows, as in the paper.
The test set is tasks 11 to 510; solved examples come from tasks 1 to 10, and are by default the
paper's own three. The model's code is run.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from experiments.tasks.base import Problem, Task, check_file, limited, read_rows, value_of
from experiments.tasks.code_answers import code_of
from experiments.tasks.code_execution import Outcome, check_allowed, run_program

SOURCE = "https://github.com/google-research/google-research (mbpp/mbpp.jsonl)"
SHOTS = (2, 3, 4, 1, 5, 6, 7, 8, 9, 10)
"""Task ids of the examples, in the order they are taken in."""
TEST = range(11, 511)
ASK = (
    "You are an expert Python programmer, and here is your task: {} Your code should pass these "
    "tests:\n\n{}"
)


@dataclass(frozen=True)
class MBPP(Task):
    """Functions to be written from a sentence and three tests.

    Attributes:
      path: mbpp.jsonl, all 974 tasks.
      limit: ask the first ones only.
      shots: solved examples shown before each, at most 10.
      allow_code_execution: run what the model writes; nothing can be judged without.
      seconds: most time of one answer's tests.
    """

    name: ClassVar[str] = "mbpp"
    metrics: ClassVar[tuple[str, ...]] = ("pass@1",)
    stop: ClassVar[tuple[str, ...]] = ("[DONE]",)
    max_new_tokens: ClassVar[int] = 512
    question: ClassVar[str] = "{}\n[BEGIN]\n"
    answer: ClassVar[str] = "{}\n[DONE]\n\n"

    path: str = ""
    limit: int | None = None
    shots: int = 3
    allow_code_execution: bool = False
    seconds: float = 10.0

    def __post_init__(self) -> None:
        check_file(self.path, "MBPP's mbpp.jsonl", SOURCE)
        check_allowed("MBPP", self.allow_code_execution, self.seconds)
        if not 0 <= self.shots <= len(SHOTS):
            raise ValueError(f"shots={self.shots} must be in [0, {len(SHOTS)}]: MBPP has no more")

    def prompts(self) -> list[Problem]:
        """Return the problems of the test set in the order of the file."""
        rows = {}
        for source, row in read_rows(self.path):
            number = _check(source, row)
            if number in rows:
                raise ValueError(f"{source}: task_id={number} is there twice")
            rows[number] = row
        if missing := [n for n in SHOTS[: self.shots] if n not in rows]:
            raise ValueError(f"{self.path}: no task_id={missing[0]} for shots={self.shots}")
        shots = tuple((_ask(rows[n]), _plain(rows[n]["code"])) for n in SHOTS[: self.shots])
        tests = [number for number in rows if number in TEST]
        if not tests:
            raise ValueError(f"{self.path}: none of the test set, task_id 11 to 510")
        problems = [
            Problem(str(n), (_ask(rows[n]),), reference=rows[n], shots=shots) for n in tests
        ]
        return limited(problems, self.limit)

    def score(self, problem: Problem, answers: Sequence[str]) -> dict[str, float]:
        """Return whether the code passes the problem's tests."""
        return {"pass@1": float(self.judge(problem, answers[-1]).passed)}

    def judge(self, problem: Problem, answer: str) -> Outcome:
        """Return how the tests ended on an answer; a chat may keep the marks of the examples."""
        row = problem.reference
        answer = answer.rpartition("[BEGIN]")[2].partition("[DONE]")[0]
        code = code_of(answer, _function(row))
        # What the tests need may be of classes that the code defines, so it comes second.
        parts = (code, row["test_setup_code"], *row["test_list"])
        return run_program(parts, seconds=self.seconds)


def _check(source: str, row: dict[str, Any]) -> int:
    """Check a row, and return its number.

    Raises:
      ValueError: something is missing in it, or of another kind.
    """
    for key in ("text", "code", "test_setup_code"):
        value_of(row, key, str, source)
    tests = value_of(row, "test_list", list, source)
    if not tests or not all(isinstance(test, str) for test in tests):
        raise ValueError(f"{source}: test_list={str(tests)[:40]} is no list of tests")
    return value_of(row, "task_id", int, source)


def _ask(row: dict[str, Any]) -> str:
    return ASK.format(row["text"], "\n".join(row["test_list"]))


def _plain(code: str) -> str:
    return code.replace("\r\n", "\n")


def _function(row: dict[str, Any]) -> str:
    """Return the name of the function that the tests call; "" if none can be told."""
    names = re.findall(r"^def +(\w+)", row["code"], re.MULTILINE)
    called = (name for name in names if re.search(rf"\b{name} *\(", row["test_list"][0]))
    return next(called, "")
