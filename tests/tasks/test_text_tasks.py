"""Tales, plain text, summaries and the generated text-to-SQL task behind the one interface."""

import builtins
import json
import os
from pathlib import Path

import pytest
from rouge_score import rouge_scorer

from experiments.tasks import rouge, shipped, spider_query
from experiments.tasks.base import conversation
from experiments.tasks.registry import make_task

DATA_DIR = Path(os.environ.get("MTAD_DATA", Path(__file__).parents[3] / "shared" / "data"))
needs_data = pytest.mark.skipif(
    not (DATA_DIR / "corpora").is_dir(), reason="no corpora beside the repository"
)
ARTICLE = {"id": "a1", "article": "A cat sat on a mat. It slept.", "highlights": "The cat slept."}


def test_tinysql_is_the_shipped_pairs_task():
    task = make_task({"task": "tinysql", "questions": 40, "seed": 3})
    problems = task.prompts()
    tasks = shipped.make_tasks(0, 40, 3)
    assert [p.turns[0] for p in problems] == [t.prompt for t in tasks]
    assert task.plain(conversation(problems[0], [])) == tasks[0].prompt
    assert make_task({"task": "tinysql", "questions": 5, "seed": 3}).prompts() == problems[:5]
    assert {"join", "select"} < {p.category for p in problems}
    assert {p.keys["tables"] for p in problems} == {1, 2}
    assert len({p.id for p in problems}) == 40


def test_tinysql_is_judged_by_rows():
    task = make_task({"task": "tinysql", "questions": 30})
    for problem in task.prompts():
        gold = problem.keys["query"]
        assert task.score(problem, [gold]) == {"correct": 1.0}
        assert task.score(problem, [f"\n{gold}  "]) == {"correct": 1.0}
        for wrong in ("", "SELECT", problem.turns[0], problem.turns[0] + gold, f"{gold} {gold}"):
            assert task.score(problem, [wrong]) == {"correct": 0.0}, wrong


def test_cells_stay_in_their_columns():
    """A query that shows the same columns in another order is another query."""
    task = make_task({"task": "tinysql", "questions": 300})
    turned = 0
    for problem in task.prompts():
        shown, comma, rest = problem.keys["query"].partition(" , ")
        other, source, rest = rest.partition(" FROM ")
        if comma and source and "(" not in shown + other and "," not in other:
            first = shown.removeprefix("SELECT ").removeprefix("DISTINCT ")
            query = shown.replace(first, other) + f" , {first} FROM {rest}"
            assert task.score(problem, [query]) == {"correct": 0.0}, query
            turned += 1
    assert turned > 20


def test_tales_are_the_benchmarks_openings():
    task = make_task({"task": "tales", "openings": 3})
    assert [problem.turns[0] for problem in task.prompts()] == list(shipped.OPENINGS[:3])
    assert task.metrics == () and task.stop == ()
    with pytest.raises(ValueError, match="openings=25 must be <= 24, the built-in ones"):
        make_task({"task": "tales", "openings": 25})
    with pytest.raises(ValueError, match="openings=0 must be >= 1"):
        make_task({"task": "tales", "openings": 0})
    with pytest.raises(FileNotFoundError, match="test.txt: no such file; FairytaleQA's"):
        make_task({"task": "tales", "data_dir": "nowhere"})


@needs_data
def test_tales_of_a_folder():
    settings = {"task": "tales", "openings": 30, "data_dir": str(DATA_DIR)}
    problems = make_task(settings).prompts()
    text = " ".join((DATA_DIR / "corpora" / "fairytaleqa" / "test.txt").read_text().split())
    assert len({p.turns for p in problems}) == 30 and len({p.id for p in problems}) == 30
    assert sum(" ".join(p.turns[0].split()) in text for p in problems) > 25  # some quotes differ
    assert make_task({**settings, "openings": 10}).prompts() == problems[:10]
    assert make_task({**settings, "seed": 1}).prompts() != problems


def test_plain_text_is_cut_at_words(tmp_path):
    file = tmp_path / "text.txt"
    parts = [f"{i} one\ttwo\n  three four {i}" for i in range(6)]
    file.write_bytes("\r\n \r\n\r\n".join([*parts, "too short to go on"]).encode())
    settings = {"task": "text", "path": str(file), "words": 5}
    problems = make_task(settings).prompts()
    assert {p.turns[0] for p in problems} == {f"{i} one\ttwo\n  three four" for i in range(6)}
    assert make_task({**settings, "limit": 2}).prompts() == problems[:2]
    assert make_task(settings).prompts() == problems
    other = make_task({**settings, "seed": 1}).prompts()
    assert [p.turns for p in other] != [p.turns for p in problems]
    assert {p.turns for p in other} == {p.turns for p in problems}


@needs_data
def test_plain_text_of_a_corpus():
    path = DATA_DIR / "corpora" / "wikitext-2" / "test.txt"
    problems = make_task({"task": "text", "path": str(path), "limit": 50}).prompts()
    text = path.read_text()
    assert all(p.turns[0] in text and len(p.turns[0].split()) == 60 for p in problems)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path": ""}, "path is empty"),
        ({"path": "no.txt"}, "no.txt: no such file"),
        ({"words": 0}, "words=0 must be >= 1"),
        ({"limit": 0}, "limit=0 must be >= 1"),
        ({"words": 9}, "no paragraph of more than 9 words: lower words"),
        ({"unknown": 1}, "no setting 'unknown'"),
    ],
)
def test_plain_text_settings_that_are_refused(tmp_path, settings, message):
    file = tmp_path / "text.txt"
    file.write_text("one two three\n")
    with pytest.raises((ValueError, OSError), match=message):
        make_task({"task": "text", "path": str(file), **settings}).prompts()
    file.write_bytes(b"\xff")
    with pytest.raises(ValueError, match="not UTF-8: .* at byte 0"):
        make_task({"task": "text", "path": str(file)}).prompts()


@pytest.fixture
def articles(tmp_path):
    file = tmp_path / "articles.jsonl"
    rows = [ARTICLE, {"text": "x", "article": "Second.", "highlights": "Two."}]
    file.write_text("\n".join(map(json.dumps, rows)))
    return {"task": "summaries", "path": str(file)}


def test_summaries_are_judged_by_rouge(articles):
    task = make_task(articles)
    problems = task.prompts()
    assert [problem.id for problem in problems] == ["a1", "1"]
    right = task.score(problems[0], [" The cat slept.\n"])
    assert right == {"rouge1": 1.0, "rouge2": 1.0, "rougeL": 1.0} and tuple(right) == task.metrics
    assert set(task.score(problems[0], ["Dogs bark"]).values()) == {0.0}
    assert set(task.score(problems[0], [""]).values()) == {0.0}
    turned = task.score(problems[0], ["Slept the cats"])  # the same stems, one pair, two in order
    assert turned == pytest.approx({"rouge1": 1, "rouge2": 1 / 2, "rougeL": 2 / 3})
    text = "A cat slept on a mat"
    scorer = rouge_scorer.RougeScorer(list(task.metrics), use_stemmer=True)
    theirs = scorer.score(ARTICLE["highlights"], text)
    assert task.score(problems[0], [text]) == {k: v.fmeasure for k, v in theirs.items()}
    assert 0 < theirs["rouge2"].fmeasure < theirs["rouge1"].fmeasure < 1


def test_summaries_ask_for_a_summary(articles):
    task = make_task({**articles, "limit": 1})
    (problem,) = task.prompts()
    assert task.plain(conversation(problem, [])) == (
        f"Summarize the following article.\n\n{ARTICLE['article']}\n\nSummary:"
    )
    other = make_task({**articles, "article": "text", "summary": "article"})
    with pytest.raises(ValueError, match="articles.jsonl line 1: no 'text' in it"):
        other.prompts()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "line 1: not JSON"),
        ("[]", "line 1: .* is not an object"),
        ('{"article": "x"}', "line 1: no 'highlights' in it"),
        ('{"article": 1, "highlights": "x"}', "line 1: article='1' is not of the expected kind"),
        ('{"article": " ", "highlights": "x"}', "line 1: 'article' is empty"),
        ("", "no rows"),
    ],
)
def test_malformed_articles_are_named(articles, row, message):
    Path(articles["path"]).write_text(row)
    with pytest.raises(ValueError, match=message):
        make_task(articles).prompts()


@pytest.mark.parametrize(
    ("needed", "package", "message"),
    [
        (lambda: rouge.scorer("rouge2"), "rouge_score", "ROUGE needs rouge_score: pip install"),
        (spider_query.sqlglot, "sqlglot", "exact-set match needs sqlglot: pip install"),
    ],
)
def test_a_missing_package_says_what_to_install(monkeypatch, needed, package, message):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == package:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    rouge.scorer.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=message) as caught:
        needed()
    assert "\n" not in str(caught.value)
