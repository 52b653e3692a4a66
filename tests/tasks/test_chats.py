"""Conversations: questions, and answer files as the benchmarks' own tools read them."""

import json
import os
from pathlib import Path

import pytest
from rouge_score import rouge_scorer

from experiments.tasks.base import conversation
from experiments.tasks.registry import make_task

DATA_DIR = Path(os.environ.get("MTAD_DATA", Path(__file__).parents[3] / "shared" / "data"))
PATHS = {
    "mt_bench": DATA_DIR / "prompts" / "mt-bench" / "question.jsonl",
    "spec_bench": DATA_DIR / "prompts" / "spec-bench" / "question.jsonl",
}
QUESTIONS = [
    {"question_id": 81, "category": "writing", "turns": ["Write.", "Again."]},
    {"question_id": 161, "category": "translation", "turns": ["Translate."], "reference": ["x"]},
]
SAID = [("user", "Hi"), ("assistant", "Hello there"), ("user", "Bye"), ("assistant", "See you")]


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "question.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    return str(file)


def record(turn: int, sample: int, text: str, blocks: list[list[int]]) -> dict:
    """Return what docs/records.md says of a row, as far as it is read."""
    return {
        "strategy": "mmtad depth=4", "id": "81", "turn": turn, "sample": sample,
        "text": text, "tokens": list(range(sum(tokens for _, tokens, *_ in blocks))),
        "stats": {"rounds": len(blocks)}, "blocks": blocks,
        "prefill_seconds": 0.5, "decode_seconds": 1.5,
    }  # fmt: skip


ROWS = [
    record(0, 0, " One.", [[0, 3, 2], [3, 1, 0]]),
    record(1, 0, "Two.\n", [[0, 5, 4]]),
    record(0, 1, "Uno.", [[0, 1, 0]]),
    record(1, 1, "Dos.", [[0, 2, 1]]),
]


def test_mt_bench_answers_are_fastchats(path):
    """Keys of FastChat's gen_model_answer.py; its judge reads choices[0].turns[i]."""
    task = make_task({"task": "mt_bench", "path": path})
    problem = task.prompts()[0]
    row = json.loads(json.dumps(task.answer_row(problem, ROWS)))
    assert set(row) == {"question_id", "answer_id", "model_id", "choices", "tstamp"}
    assert (row["question_id"], row["model_id"]) == (81, "mmtad depth=4")
    assert row["choices"] == [
        {"index": 0, "turns": ["One.", "Two."]},
        {"index": 1, "turns": ["Uno.", "Dos."]},
    ]
    again = task.answer_row(problem, ROWS[::-1])
    assert again["answer_id"] == row["answer_id"] and again["choices"] == row["choices"]
    other = task.answer_row(problem, [{**r, "strategy": "greedy"} for r in ROWS])
    assert other["answer_id"] != row["answer_id"]
    assert task.metrics == () and task.score(problem, ["a", "b"]) == {}


def test_spec_bench_answers_give_what_its_tool_prints(path):
    """evaluation/speed.py: tokens a second, and the mean of what was accepted a step."""
    task = make_task({"task": "spec_bench", "path": path})
    row = json.loads(json.dumps(task.answer_row(task.prompts()[0], ROWS)))
    assert row["category"] == "writing" and isinstance(row["tstamp"], float)
    first = row["choices"][0]
    assert set(first) == {
        "index", "turns", "decoding_steps", "new_tokens", "wall_time", "accept_lengths",
    }  # fmt: skip
    assert first["turns"] == ["One.", "Two."] and first["decoding_steps"] == [2, 1]
    assert sum(first["new_tokens"]) / sum(first["wall_time"]) == 9 / 4
    assert first["accept_lengths"] == [3, 1, 5]
    assert sum(first["accept_lengths"]) == sum(first["new_tokens"])


def test_other_tasks_write_no_answers():
    task = make_task({"task": "tales"})
    assert task.answer_row(task.prompts()[0], ROWS) is None


@pytest.mark.parametrize(("name", "count"), [("mt_bench", 80), ("spec_bench", 480)])
def test_the_benchmarks_own_questions(name, count):
    if not PATHS[name].is_file():
        pytest.skip("no questions beside the repository")
    task = make_task({"task": name, "path": str(PATHS[name])})
    problems = task.prompts()
    assert len(problems) == len({problem.id for problem in problems}) == count
    assert {problem.keys["question_id"] for problem in problems} == set(range(81, 81 + count))
    assert all(problem.category and problem.turns for problem in problems)
    assert len(make_task({"task": name, "path": str(PATHS[name]), "limit": 2}).prompts()) == 2


def test_a_plain_prompt_is_a_dialogue_that_stops_before_the_next_question(path):
    task = make_task({"task": "mt_bench", "path": path})
    text = task.plain(conversation(task.prompts()[0], ["Once."]))
    assert text == "User: Write.\nAssistant: Once.\nUser: Again.\nAssistant:"
    assert task.stop[0] in text


SHAPES = {
    "lists": [[{"role": role, "content": text} for role, text in SAID]],
    "messages": [{"id": 7, "messages": [{"role": r, "content": t} for r, t in SAID]}],
    "share": [
        {"id": "7", "conversations": [
            {"from": {"user": "human", "assistant": "gpt"}[r], "value": t} for r, t in SAID
        ]},
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "lines"),
    [("lists", False), ("messages", False), ("share", False), ("messages", True), ("share", True)],
)
def test_conversations_in_every_shape_they_come_in(tmp_path, shape, lines):
    file = tmp_path / "chats.json"
    text = "\n".join(map(json.dumps, SHAPES[shape])) if lines else json.dumps(SHAPES[shape])
    file.write_text(text)
    (problem,) = make_task({"task": "chat_alpaca", "path": str(file)}).prompts()
    assert (problem.turns, problem.reference) == (("Hi", "Bye"), ("Hello there", "See you"))
    assert problem.id == ("0" if shape == "lists" else "7")


def test_each_turn_is_compared_with_its_own_reference(tmp_path):
    file = tmp_path / "chats.json"
    file.write_text(json.dumps([[*SHAPES["lists"][0], {"role": "user", "content": "Left out"}]]))
    task = make_task({"task": "chat_alpaca", "path": str(file)})
    (problem,) = task.prompts()
    assert task.score(problem, ["Hello there", "See you"]) == {"rougeL": 1.0}
    assert task.score(problem, ["See you", "Hello there"]) == {"rougeL": 0.0}
    assert task.score(problem, ["Hello there", "nothing"]) == {"rougeL": 0.5}
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    theirs = scorer.score("Hello there", "Well, hello")["rougeL"].fmeasure
    assert task.score(problem, ["Well, hello", "See you"])["rougeL"] == (theirs + 1) / 2
    assert 0 < theirs < 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "line 1: no 'question_id' in it"),
        ({**QUESTIONS[0], "turns": []}, r"line 1: turns=\[\] must be a list of texts"),
        ({**QUESTIONS[0], "turns": ["x", 1]}, "line 1: turns=.* must be a list of texts"),
        ({**QUESTIONS[0], "category": None}, "line 1: category='None' is not of the"),
    ],
)
@pytest.mark.parametrize("name", ["mt_bench", "spec_bench"])
def test_malformed_questions_are_named(path, name, row, message):
    Path(path).write_text(json.dumps(row))
    with pytest.raises(ValueError, match=message):
        make_task({"task": name, "path": path}).prompts()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "is not a list with entries"),
        ("[1]", "entry 1: no list of turns"),
        ("[[1]]", "entry 1 turn 1: '1' is not an object"),
        ('[[{"role": "user", "content": "x"}]]', "entry 1: no answered turn"),
        ('[[{"role": "assistant", "content": "x"}]]', "turn 1: assistant twice, or the assistant"),
        ('[[{"role": "robot", "content": "x"}]]', "turn 1: no known role, or no text"),
        ('[[{"role": "user", "content": 1}]]', "turn 1: no known role, or no text"),
        ('{"id": 1}', "line 1: no list of turns"),
        ("nothing", "line 1: not JSON"),
    ],
)
def test_malformed_conversations_are_named(tmp_path, text, message):
    file = tmp_path / "chats.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        make_task({"task": "chat_alpaca", "path": str(file)}).prompts()


@pytest.mark.parametrize("name", ["mt_bench", "spec_bench", "chat_alpaca"])
def test_a_missing_file_says_where_to_get_it(name):
    with pytest.raises(FileNotFoundError, match="no such file; .* is at github.com/"):
        make_task({"task": name, "path": "no.json"})
