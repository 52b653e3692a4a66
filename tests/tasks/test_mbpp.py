"""Answers by hand, the prompt by lm-evaluation-harness's template, the reference answers."""

import json
import os
from pathlib import Path

import pytest

from experiments.tasks.base import conversation
from experiments.tasks.mbpp import MBPP

DATA_DIR = Path(os.environ.get("MTAD_DATA", Path(__file__).parents[3] / "shared" / "data"))
FILE = DATA_DIR / "prompts" / "mbpp" / "mbpp.jsonl"
STEPS = [pytest.param(6, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.heavy)]
needs_data = pytest.mark.skipif(not FILE.is_file(), reason="no prompts beside the repository")

CODE = "class Pair:\r\n  def __init__(self, a): self.a = a\r\ndef double(p):\r\n  return 2 * p.a"
ROW = {
    "task_id": 11,
    "text": "Write a function to double.",
    "code": CODE,
    "test_setup_code": "pair = Pair(4)",
    "test_list": ["assert double(pair) == 8", "assert double(Pair(0)) == 0"],
}


def file(tmp_path, *rows: dict | str) -> str:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (tmp_path / "mbpp.jsonl").write_text("\n".join(lines))
    return str(tmp_path / "mbpp.jsonl")


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> MBPP:
    path = file(tmp_path_factory.mktemp("mbpp"), ROW, *(ROW | {"task_id": n} for n in (2, 3, 511)))
    return MBPP(path, shots=2, allow_code_execution=True, seconds=5)


PLAIN = CODE.replace("\r", "") + "\n"


@pytest.mark.parametrize(
    ("answer", "passes"),
    [
        (CODE, True),
        (PLAIN, True),
        (PLAIN + "[DONE]\nand more", True),
        ("[BEGIN]\n" + PLAIN + "[DONE]\n", True),
        (f"Sure:\n```python\n{PLAIN}```\nDone.", True),
        (f"```\npair = 1\n```\n```\n{PLAIN}```", True),
        (PLAIN + "```\nDone.", True),
        (PLAIN.replace("2 *", "3 *"), False),
        (PLAIN.replace("return", "return 8 #"), False),
        (PLAIN.replace("double", "twice"), False),
        ("", False),
        ("[BEGIN]\n[DONE]", False),
        ("def double(p):\n    return 8 if p is pair else 0", False),
        (PLAIN + "raise SystemExit(0)", False),
        (PLAIN + "import os\nos._exit(0)", False),
        (PLAIN + "'''", False),
        ("You are an expert Python programmer", False),
    ],
)
def test_answers(task, answer, passes):
    (problem,) = task.prompts()
    assert task.score(problem, [answer]) == {"pass@1": float(passes)}


def test_the_plain_prompt(task):
    (problem,) = task.prompts()
    asked = (
        "You are an expert Python programmer, and here is your task: Write a function to double. "
        "Your code should pass these tests:\n\nassert double(pair) == 8\n"
        "assert double(Pair(0)) == 0\n[BEGIN]\n"
    )
    solved = asked + CODE.replace("\r\n", "\n") + "\n[DONE]\n\n"
    assert problem.id == "11" and task.stop == ("[DONE]",)
    assert task.plain(conversation(problem, [])) == solved + solved + asked


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"task_id": "11"}, "task_id='11'"),
        ({"task_id": 11}, "task_id=11 is there twice"),
        ({"text": None}, "text='None'"),
        ({"test_list": []}, "test_list="),
        ({"test_list": [1]}, "test_list="),
        ({"test_setup_code": None}, "test_setup_code="),
    ],
)
def test_malformed_rows_are_named(tmp_path, change, what):
    path = file(tmp_path, ROW, ROW | {"task_id": 12} | change)
    with pytest.raises(ValueError, match=f"line 2.*{what}"):
        MBPP(path, shots=0, allow_code_execution=True).prompts()


def test_settings_are_refused(task, tmp_path):
    for shots in (-1, 11):
        with pytest.raises(ValueError, match=rf"shots={shots} must be in \[0, 10\]"):
            MBPP(task.path, shots=shots, allow_code_execution=True)
    with pytest.raises(ValueError, match="no task_id=4 for shots=3"):
        MBPP(task.path, allow_code_execution=True).prompts()
    only_shots = file(tmp_path, ROW | {"task_id": 2})
    with pytest.raises(ValueError, match="none of the test set"):
        MBPP(only_shots, shots=1, allow_code_execution=True).prompts()


@needs_data
def test_the_split_is_the_papers():
    problems = MBPP(str(FILE), allow_code_execution=True).prompts()
    assert [int(problem.id) for problem in problems] == list(range(11, 511))
    assert len(MBPP(str(FILE), 7, allow_code_execution=True).prompts()) == 7


@needs_data
def test_the_prompt_is_that_of_lm_evaluation_harness():
    """Its template, with its three examples; lines end in a line feed alone here."""
    lm_eval = pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")
    from lm_eval.utils import apply_template

    (folder,) = lm_eval.__path__
    text = (Path(folder) / "tasks/mbpp/mbpp.yaml").read_text()
    lines = dict(line.split(": ", 1) for line in text.splitlines() if line.startswith("doc_to_"))
    ask, solved = (json.loads(lines[key]) for key in ("doc_to_text", "doc_to_target"))
    rows = {row["task_id"]: row for row in map(json.loads, FILE.read_bytes().splitlines())}
    shots = "".join(
        apply_template(ask, rows[n])
        + apply_template(solved, rows[n] | {"is_fewshot": True})
        + "\n\n"
        for n in (2, 3, 4)
    )
    task = MBPP(str(FILE), allow_code_execution=True)
    for problem in task.prompts()[:50]:
        theirs = shots.replace("\r\n", "\n") + apply_template(ask, rows[int(problem.id)])
        assert task.plain(conversation(problem, [])) == theirs


@needs_data
def test_some_reference_answers_pass():
    task = MBPP(str(FILE), 6, allow_code_execution=True)
    problems = task.prompts()
    for problem, other in zip(problems, problems[1:] + problems[:1], strict=True):
        assert task.judge(problem, problem.reference["code"]).passed
        assert not task.judge(problem, other.reference["code"]).passed


@needs_data
@pytest.mark.parametrize("step", STEPS)
def test_reference_answers_pass(step):
    task = MBPP(str(FILE), allow_code_execution=True)
    for problem in task.prompts()[::step]:
        outcome = task.judge(problem, problem.reference["code"])
        assert outcome.passed, (problem.id, outcome)
