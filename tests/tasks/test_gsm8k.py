"""Numbers out of answers, beside those of lm-evaluation-harness; the data set's own answers."""

import json
import os
from decimal import Decimal
from pathlib import Path

import pytest

from experiments.tasks.base import conversation
from experiments.tasks.gsm8k import GSM8K, last_number, marked_number
from experiments.tasks.registry import make_task

DATA_DIR = Path(os.environ.get("MTAD_DATA", Path(__file__).parents[3] / "shared" / "data"))
FOLDER = DATA_DIR / "prompts" / "gsm8k"
needs_data = pytest.mark.skipif(not FOLDER.is_dir(), reason="no prompts beside the repository")

# An answer and its last number, as lm-evaluation-harness finds it too.
SAME = [
    ("The answer is 18", "18"),
    ("The answer is 18.", "18"),
    ("She makes 9 * 2 = $<<9*2=18>>18 every day.\n#### 18", "18"),
    ("$18", "18"),
    ("It costs $1,234.", "1234"),
    ("It costs $1,234.50 in all", "1234.50"),
    ("1,000,000 people", "1000000"),
    ("first 3, then 4, and so 7 in all", "7"),
    ("a loss of -5", "-5"),
    ("a loss of -$5", "-5"),
    ("x = -12.5", "-12.5"),
    ("**42**", "42"),
    (r"\boxed{42}", "42"),
    ("50%", "50"),
    ("1/2", "2"),
    ("it is 3 apples and 10 pears", "10"),
    ("10 - 4 = 6", "6"),
    ("#### 1,200", "1200"),
    ("#### 18\n\nThat was 5 steps.", "5"),
    ("0.25 of it", "0.25"),
    ("worth .75", ".75"),
    ("18, 19,", "19"),
    ("a loss of $-5", "-5"),
    ("no number here", None),
    ("", None),
    ("eighteen", None),
    ("\u0663", None),  # a digit, not of ours
]
# Answers that lm-evaluation-harness reads otherwise, and why ours is the last number.
OTHERWISE = [
    ("It is 18...", "18"),  # dots are part of its number
    ("It is 18. Well... ", "18"),  # dots alone are one
    ("18.00", "18"),  # not the same text
    ("room 007", "7"),
    ("between 20-25", "25"),  # the hyphen is a sign to it
    ("a loss of \u22125", "-5"),
    ("4 dollars ($$)", "4"),
]


@pytest.mark.parametrize(("text", "number"), SAME + OTHERWISE)
def test_the_last_number(text, number):
    assert last_number(text) == (None if number is None else Decimal(number))


def test_what_is_marked():
    assert marked_number("3 and 4\n#### 1,234\n#### 5") == 1234
    assert marked_number("#### -7.50") == Decimal("-7.5")
    assert marked_number("#### $5") is None and marked_number("####5") is None


def file(tmp_path, *rows: dict | str, name="test.jsonl") -> str:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (tmp_path / name).write_text("\n".join(lines))
    return str(tmp_path / name)


def row(question="How many?", answer="So many.\n#### 18") -> dict:
    return {"question": question, "answer": answer}


@pytest.mark.parametrize(
    ("answer", "correct", "strict"),
    [
        ("18", 1, 0),
        ("#### 18", 1, 1),
        (" 3 * 6 = 18.00", 1, 0),
        ("#### 18.0 dollars", 1, 1),
        ("#### 18\n\nor 19?", 0, 1),
        ("#### 17, no, 18", 1, 0),
        ("180", 0, 0),
        ("-18", 0, 0),
        ("1.8", 0, 0),
        ("", 0, 0),
        ("none", 0, 0),
    ],
)
def test_scores(tmp_path, answer, correct, strict):
    task = GSM8K(file(tmp_path, row()))
    assert task.score(task.prompts()[0], [answer]) == {"correct": correct, "strict": strict}


def test_the_plain_prompt_with_shots(tmp_path):
    train = file(tmp_path, row("A?", "a\n#### 1"), row("B?", "b\n#### 2"), name="train.jsonl")
    task = GSM8K(file(tmp_path, row("C?"), row("D?")), shots=1, train_path=train)
    first, second = task.prompts()
    assert (first.id, second.id) == ("0", "1")
    assert task.plain(conversation(first, [])) == (
        "Question: A?\nAnswer: a\n#### 1\n\nQuestion: C?\nAnswer:"
    )
    assert len(GSM8K(task.path, limit=1).prompts()) == 1


def test_instructions_are_said_only_where_asked(tmp_path):
    path = file(tmp_path, row("C?"))
    assert GSM8K(path).prompts()[0].turns == ("C?",)
    (turn,) = GSM8K(path, instruct=True).prompts()[0].turns
    assert turn.startswith("C?\n") and "####" in turn


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        ("{", "not JSON"),
        ('{"answer": "#### 1"}', "no 'question'"),
        ('{"question": "A?", "answer": 1}', "answer='1' is not of the expected kind"),
        ('{"question": "A?", "answer": "one"}', "answer ends in 'one'"),
        ('{"question": "A?", "answer": "1"}', "answer ends in '1'"),
    ],
)
def test_malformed_rows_are_named(tmp_path, bad, what):
    path = file(tmp_path, row(), bad)
    with pytest.raises(ValueError, match=f"line 2.*{what}"):
        GSM8K(path).prompts()
    with pytest.raises(ValueError, match=f"line 2.*{what}"):
        GSM8K(file(tmp_path, row(), name="good"), shots=2, train_path=path).prompts()


def test_settings_are_refused(tmp_path):
    path = file(tmp_path, row())
    for settings, what in [
        ({"path": path, "shots": -1}, "shots=-1"),
        ({"path": path, "shots": 1}, "train_path"),
        ({"path": ""}, "grade-school-math"),
    ]:
        with pytest.raises(ValueError, match=what):
            make_task({"task": "gsm8k", **settings})
    with pytest.raises(ValueError, match="shots=2 must be <= 1"):
        GSM8K(path, shots=2, train_path=path).prompts()
    with pytest.raises(ValueError, match="limit=0"):
        GSM8K(path, limit=0).prompts()
    for missing in ({"path": "none.jsonl"}, {"path": path, "train_path": "none.jsonl"}):
        with pytest.raises(FileNotFoundError, match="none.jsonl.*grade-school-math"):
            GSM8K(**missing)


def rows_of(name: str) -> list[dict]:
    return [json.loads(line) for line in (FOLDER / name).read_bytes().splitlines()]


@needs_data
def test_the_data_set_answers_itself():
    task = GSM8K(str(FOLDER / "test.jsonl"), shots=5, train_path=str(FOLDER / "train.jsonl"))
    problems = task.prompts()
    assert len(problems) == 1319 and len(problems[0].shots) == 5
    for row, problem in zip(rows_of("test.jsonl"), problems, strict=True):
        answer = row["answer"]
        assert task.score(problem, [answer]) == {"correct": 1, "strict": 1}
        assert task.score(problem, [answer + "1"])["correct"] == 0


@pytest.fixture(scope="module")
def harness():
    """Return lm-evaluation-harness's own scores of GSM8K: of an answer, flexible and strict."""
    lm_eval = pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")
    import yaml
    from lm_eval.api.metrics import exact_match_hf_evaluate
    from lm_eval.filters.extraction import RegexFilter

    (folder,) = lm_eval.__path__
    config = yaml.safe_load((Path(folder) / "tasks/gsm8k/gsm8k.yaml").read_text())
    filters = {f["name"]: f["filter"][0] for f in config["filter_list"]}
    ignored = config["metric_list"][0]["regexes_to_ignore"]

    def score(name: str, answer: str, gold: str) -> float:
        settings = {k: v for k, v in filters[name].items() if k != "function"}
        ((found,),) = RegexFilter(**settings).apply([[answer]], [{}])
        return exact_match_hf_evaluate([found], [gold], ignored, ignore_case=True)["exact_match"]

    return score


@pytest.mark.parametrize("gold", ["18", "1234", "-5", "7", "2", "1200", "19", "10"])
def test_scores_as_lm_evaluation_harness(harness, gold, tmp_path):
    task = GSM8K(file(tmp_path, row(answer=f"#### {gold}")))
    (problem,) = task.prompts()
    right = 0
    for answer, _ in SAME:
        scores = task.score(problem, [answer])
        assert scores["correct"] == harness("flexible-extract", answer, f"#### {gold}"), answer
        assert scores["strict"] == harness("strict-match", answer, f"#### {gold}"), answer
        right += scores["correct"]
    assert right


def test_lm_evaluation_harness_still_reads_the_others_otherwise(harness):
    for answer, number in OTHERWISE:
        assert not harness("flexible-extract", answer, f"#### {number}"), answer


@needs_data
def test_the_prompt_is_that_of_lm_evaluation_harness(harness):
    """Its template of a question and of a solved one, with its default delimiters."""
    import lm_eval
    import yaml
    from lm_eval.utils import apply_template

    text = (Path(lm_eval.__path__[0]) / "tasks/gsm8k/gsm8k.yaml").read_text()
    config = yaml.safe_load(text)
    ask, solved = config["doc_to_text"], config["doc_to_target"]
    shots = "".join(
        f"{apply_template(ask, row)} {apply_template(solved, row)}\n\n"
        for row in rows_of("train.jsonl")[:3]
    )
    task = GSM8K(str(FOLDER / "test.jsonl"), shots=3, train_path=str(FOLDER / "train.jsonl"))
    asked = apply_template(ask, rows_of("test.jsonl")[0])
    assert task.plain(conversation(task.prompts()[0], [])) == shots + asked
