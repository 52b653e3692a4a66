"""SQuAD's scores, by hand and beside a public implementation, and the task's prompts."""

import json
import os
import random
from pathlib import Path

import pytest

from experiments.tasks.base import conversation
from experiments.tasks.registry import make_task
from experiments.tasks.xquad import exact_match, f1, normalized

DATA_DIR = Path(os.environ.get("MTAD_DATA", Path(__file__).parents[3] / "shared" / "data"))
PATH = DATA_DIR / "prompts" / "xquad-en" / "xquad.en.json"
needs_data = pytest.mark.skipif(not PATH.is_file(), reason="no XQuAD beside the repository")


def article(title: str, *questions: tuple[str, list[str]]) -> dict:
    qas = [
        {
            "id": f"{title}{i}",
            "question": q,
            "answers": [{"text": a, "answer_start": 0} for a in found],
        }
        for i, (q, found) in enumerate(questions)
    ]
    return {"title": title, "paragraphs": [{"context": f"About {title}.", "qas": qas}]}


ARTICLES = [
    article("A", ("Who?", ["the Cat", "a grey cat"]), ("When?", ["1901"])),
    article("B", ("Where?", ["Rome"]), ("Why?", ["war"])),
]


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "squad.json"
    file.write_text(json.dumps({"version": "1.1", "data": ARTICLES}))
    return str(file)


@pytest.mark.parametrize(
    ("text", "reference", "same", "shared"),
    [
        ("The Cat!", "cat", 1.0, 1.0),
        ("the  cat ", "a cat", 1.0, 1.0),
        ("U.S.", "us", 1.0, 1.0),
        ("cat", "cats", 0.0, 0.0),
        ("grey cat", "the cat", 0.0, 2 / 3),  # precision 1/2, recall 1
        ("cat cat", "cat", 0.0, 2 / 3),  # a word counts as often as it is there
        ("cat grey", "grey cat", 0.0, 1.0),
        ("", "cat", 0.0, 0.0),
        ("theater", "ater", 0.0, 0.0),  # articles are words
    ],
)
def test_scores_by_hand(text, reference, same, shared):
    assert exact_match(text, reference) == same and f1(text, reference) == pytest.approx(shared)


def test_the_best_reference_counts(path):
    task = make_task({"task": "xquad", "path": path})
    problem = task.prompts()[0]
    assert task.score(problem, [" Grey cat."]) == {"f1": 1.0, "exact_match": 1.0}
    assert task.score(problem, ["dog"]) == {"f1": 0.0, "exact_match": 0.0}
    # The prompt's words are not the answer's.
    assert task.score(problem, ["About the Cat, who?"])["exact_match"] == 0.0


@pytest.mark.slow  # the import
@needs_data
def test_agrees_with_a_public_implementation():
    """On answers cut, turned and mixed from the references and their texts."""
    squad = pytest.importorskip("torchmetrics.functional.text").squad
    rng, problems = random.Random(0), make_task({"task": "xquad", "path": str(PATH)}).prompts()
    for problem in rng.sample(problems, 60):
        words = rng.choice([problem.turns[0], problem.reference[0]]).split(" ")
        start = rng.randrange(len(words))
        text = rng.choice(["the ", "", "A, "]) + " ".join(words[start : start + rng.randint(1, 6)])
        reference = rng.choice([problem.reference[0], text.upper() + "."])
        if not normalized(text) or not normalized(reference):
            continue  # version 1.1 and 2.0 of SQuAD differ where nothing is left
        theirs = squad(
            [{"prediction_text": text, "id": "0"}],
            [{"answers": {"answer_start": [0], "text": [reference]}, "id": "0"}],
        )
        assert exact_match(text, reference) == theirs["exact_match"].item() / 100
        assert f1(text, reference) == pytest.approx(theirs["f1"].item() / 100, abs=1e-6)


def test_prompts_and_shots(path):
    task = make_task({"task": "xquad", "path": path, "shots": 1})
    problems = task.prompts()
    assert [problem.id for problem in problems] == ["A0", "A1"]
    assert task.plain(conversation(problems[0], [])) == (
        "Answer with a few words of the text.\n\nText: About B.\n\nQuestion: Where?\nAnswer: Rome"
        "\n\nAnswer with a few words of the text.\n\nText: About A.\n\nQuestion: Who?\nAnswer:"
    )
    assert len(make_task({"task": "xquad", "path": path, "limit": 3}).prompts()) == 3
    with pytest.raises(ValueError, match="shots=2 must be < 2"):
        make_task({"task": "xquad", "path": path, "shots": 2}).prompts()


@needs_data
def test_all_of_xquad():
    task = make_task({"task": "xquad", "path": str(PATH)})
    problems = task.prompts()
    assert len(problems) == len({problem.id for problem in problems}) == 1190
    for problem in problems:
        assert problem.reference[0] in problem.turns[0]
        assert task.score(problem, [problem.reference[0]]) == {"f1": 1.0, "exact_match": 1.0}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{", "squad.json: not JSON"),
        ("[1]", "squad.json: .* is not an object with keys"),
        ('{"data": []}', "squad.json: 'data' is empty"),
        ('{"data": [1]}', "squad.json: 'data' holds '1', not objects"),
        ({"paragraphs": 1}, "squad.json article 1: paragraphs='1' is not of the expected kind"),
        ({"paragraphs": [{"qas": [{}]}]}, "article 1 paragraph 1: no 'context' in it"),
        (
            {"paragraphs": [{"context": "x", "qas": [{"question": "y", "answers": []}]}]},
            "article 1 paragraph 1 question 1: 'answers' is empty",
        ),
    ],
)
def test_malformed_files_are_named(path, data, message):
    Path(path).write_text(data if isinstance(data, str) else json.dumps({"data": [data]}))
    with pytest.raises(ValueError, match=message):
        make_task({"task": "xquad", "path": path}).prompts()


def test_a_missing_file_says_where_to_get_it():
    with pytest.raises(
        FileNotFoundError, match="no such file; .* is at github.com/google-deepmind"
    ):
        make_task({"task": "xquad", "path": "no.json"})
