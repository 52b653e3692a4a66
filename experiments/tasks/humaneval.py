"""HumanEval: functions to be written from their docstrings (Chen et al., 2021, arXiv:2107.03374).

pass@1: the share of answers that pass the problem's own tests. The model's code is run.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from experiments.tasks.base import Problem, Task, check_file, limited, read_rows, value_of
from experiments.tasks.code_answers import code_of, definition, first_line
from experiments.tasks.code_execution import Outcome, check_allowed, run_program

SOURCE = "https://github.com/openai/human-eval (data/HumanEval.jsonl.gz)"
INSTRUCTION = (
    "Complete this Python function. Answer with the whole function in one ```python block.\n\n"
)


@dataclass(frozen=True)
class HumanEval(Task):
    """Functions to be continued after their docstring.

    Attributes:
      path: the problems, JSON lines, in gzip's format or not.
      limit: ask the first ones only.
      allow_code_execution: run what the model writes; nothing can be judged without.
      seconds: most time of one answer's tests.
      instruct: ask for the whole function in a block, instead of giving its head to be continued;
        for a chat.
    """

    name: ClassVar[str] = "humaneval"
    metrics: ClassVar[tuple[str, ...]] = ("pass@1",)
    stop: ClassVar[tuple[str, ...]] = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")  # as the paper
    max_new_tokens: ClassVar[int] = 512

    path: str = ""
    limit: int | None = None
    allow_code_execution: bool = False
    seconds: float = 10.0
    instruct: bool = False

    def __post_init__(self) -> None:
        check_file(self.path, "HumanEval.jsonl.gz", SOURCE)
        check_allowed("HumanEval", self.allow_code_execution, self.seconds)
        if self.instruct:  # such an answer has lines at the margin
            object.__setattr__(self, "stop", ())

    def prompts(self) -> list[Problem]:
        """Return the problems in the order of the file."""
        problems = []
        for source, row in read_rows(self.path):
            keys = ("task_id", "prompt", "entry_point", "test")
            task_id, prompt, entry, _ = (value_of(row, key, str, source) for key in keys)
            if not entry.isidentifier() or not definition(prompt, entry):
                raise ValueError(f"{source}: prompt has no function entry_point={entry[:40]!r}")
            turn = f"{INSTRUCTION}```python\n{prompt}```" if self.instruct else prompt
            problems.append(Problem(task_id, (turn,), reference=row))
        return limited(problems, self.limit)

    def score(self, problem: Problem, answers: Sequence[str]) -> dict[str, float]:
        """Return whether the function passes the problem's tests."""
        return {"pass@1": float(self.judge(problem, answers[-1]).passed)}

    def judge(self, problem: Problem, answer: str) -> Outcome:
        """Return how the tests ended on an answer."""
        row = problem.reference
        function = function_of(row, answer)
        if not function:
            return Outcome("failed", "no code in the answer")
        tests = (row["test"], f"check({row['entry_point']})")
        return run_program((*function, *tests), seconds=self.seconds)


def function_of(row: Mapping[str, Any], answer: str) -> tuple[str, ...]:
    """Return the parts of a program that define the function; () where an answer has no code.

    An answer that has the whole function takes the place of the prompt's, of which only what stands
    before it is kept: imports and helpers. Any other is the rest of the prompt's function, indented
    if it comes from a block that is not.
    """
    prompt, entry = row["prompt"], row["entry_point"]
    code = code_of(answer, entry)
    first = first_line(code)
    if not first:
        return ()
    indented = first[0].isspace()
    head = definition(prompt, entry)
    if head and definition(code, entry) and not indented:
        return prompt[: head.start()], code
    if code != answer and not indented:
        code = textwrap.indent(code, "    ")
    return (prompt + code,)
