"""The report of runs: one page without anything from outside, whole or not there."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from html_pages import Page
from run_folders import of_length, row, write_rows, write_run

from experiments import report as program
from experiments.bench.summary import summarize
from experiments.reporting import drawing, pictures
from experiments.reporting.runs import read_runs

ROOT = Path(__file__).resolve().parents[2]
EVIL = "<script>alert('x')</script> & \"quotes\""


def entries(task, metric, labels, count=5):
    """Rows of some strategies, by file."""
    files = {}
    for n, label in enumerate(labels):
        rows = [
            row(
                task=task, strategy=label, id=f"q{i}", decode_seconds=1.0 + n,
                scores={metric: float(i % 2)} if metric else {},
            )
            for i in range(count)
        ]  # fmt: skip
        files[f"{task}/{n:02d}-{label}.jsonl"] = rows
    return files


LABELS = ["sample", "mmtad depth=2 width=2 tau=0.5", "mmtad depth=2 width=2 tau=0.9"]


def facts(files, **changes):
    return [
        {"task": rows[0]["task"], "strategy": rows[0]["strategy"], "compile_seconds": 12.5,
         "peak_memory_bytes": None, "joules_source": None} | changes
        for rows in files.values()
    ]  # fmt: skip


def make(tmp_path, *paths, **given):
    values = flags.FlagValues()
    program.define_flags(values)
    values(["report", f"--output={tmp_path / 'out'}", *(f"--{k}={v}" for k, v in given.items())])
    program.report(values, [str(path) for path in paths])
    return (tmp_path / "out" / program.PAGE).read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Fewer pixels are drawn sooner."""
    monkeypatch.setattr(drawing, "DPI", 30)


@pytest.fixture
def no_pictures(monkeypatch):
    """Pictures take a second; most tests are about the page."""
    monkeypatch.setattr(program, "pictures", lambda lines: [])


@pytest.mark.slow
def test_a_page_of_two_tasks(tmp_path):
    files = entries("tinysql", "right", LABELS) | entries("tales", "", LABELS)
    reason = "no counter: /sys/class/powercap is missing"
    run = write_run(tmp_path / "run", files, summary=facts(files, joules_source=reason))
    text = make(tmp_path, run)
    page = Page(text)
    names = sorted(file.name for file in (tmp_path / "out").glob("*.png"))
    drawn = ["acceptance", "front-perplexity", "lengths", "perplexity", "tau", "times"]
    scored = sorted([*drawn, "front-score", "score"])
    assert names == [f"1-tales-{x}.png" for x in drawn] + [f"2-tinysql-{x}.png" for x in scored]
    assert page.tags.count("img") == len(names) and "script" not in page.tags
    assert {link.partition(",")[0] for link in page.links} == {
        "data:image/png;base64", "#task-0", "#task-1", "#runs",
    }  # fmt: skip
    bare = re.sub(r'base64,[^"]*|http-equiv', "", text)
    assert not re.search(r"http|//|@import|url\(", bare)
    assert "width=device-width" in text and "prefers-color-scheme: dark" in text
    words = "".join(page.words)
    assert "python -m experiments.evaluate --config=configs/eval/x.py" in words
    assert "abc123" in words and "not complete" not in words
    assert f"unavailable: {reason}" in words
    # sample against mmtad of 0.5: same texts in twice the time.
    assert "0.500.50 to 0.50" in words and "0.4000.000 to 0.800" in words


def test_the_texts_are_escaped_and_marked(tmp_path):
    half = "\ud800"  # half a surrogate pair
    pieces = [EVIL, half, " SELECT", "\n"]
    evil = row(
        task="<task>", strategy=f"{EVIL} tau=0.5", id="<id>", text="".join(pieces), pieces=pieces
    )
    settings = {"command": f"evaluate {EVIL}", "device": {"kind": EVIL, "list": [1, None, True]}}
    run = write_run(tmp_path / "$a<b>$", {"x/00.jsonl": [evil]}, settings=settings, summary=[])
    page = Page(make(tmp_path, run))
    assert "script" not in page.tags and "b" in page.tags
    assert page.texts[1] == EVIL + "? SELECT\n"
    words = "".join(page.words)
    assert f"evaluate {EVIL}" in words and f"kind: {EVIL}, list: 1 none yes" in words


def test_turns_samples_and_number_of_texts(tmp_path, no_pictures):
    rows = [row(id=i, turn=t, sample=s) for i in range(3) for t in range(2) for s in range(2)]
    run = write_run(tmp_path / "run", {"tinysql/00.jsonl": rows}, summary=[])
    assert len(Page(make(tmp_path, run, texts=2)).texts) == 1 + 2 * 2
    assert Page(make(tmp_path, run, texts=0, overwrite=True)).texts == []


def test_a_score_stands_under_its_own_name(tmp_path, no_pictures):
    runs = [
        write_run(tmp_path / metric, entries("spider", metric, LABELS[:1]))
        for metric in ("execution", "exact_set")
    ]
    page = make(tmp_path, *runs)
    table = page[page.index("<table>") if "<table>" in page else page.index("<table") :]
    assert "execution</th>" in table and "exact_set</th>" not in table
    assert table.count("<small>exact_set</small>") == 1
    assert table.count("<small>execution</small>") == 0


def test_a_run_that_goes_on(tmp_path, no_pictures):
    whole = entries("tinysql", "right", LABELS[:1])
    run = write_run(tmp_path / "run", whole)
    cut = [row(strategy="mtad", id="q0"), row(strategy="mtad", id="q1")]
    write_rows(run / "tinysql" / "01-mtad.jsonl.partial", cut, end='{"task": "tiny')
    write_rows(run / "tinysql" / "02-none.jsonl.partial", [])
    write_rows(run / "tinysql" / "00-sample.answers.jsonl", [{"else": 1}])
    (found,) = read_runs([str(run)])
    assert [(e.strategy, e.complete, len(e.rows)) for e in found.entries] == [
        ("sample", True, 5), ("mtad", False, 2),
    ]  # fmt: skip
    assert found.entries[1].summary["against"]["score"] == [0.5, 0.0, 1.0]
    words = "".join(Page(make(tmp_path, run)).words)
    assert "Run run is not complete" in words and "mtad (incomplete)" in words


@pytest.mark.slow
def test_runs_of_one_name_and_what_rows_cannot_say(tmp_path):
    files = entries("tinysql", "right", LABELS[:1])
    for rows in files.values():
        rows[:] = [r | {"joules": 8.0} for r in rows]
    paths = []
    for folder, source in (("a", "rapl"), ("b", None)):
        known = facts(files, joules_source=source)
        paths.append(write_run(tmp_path / folder / "run", files, summary=known))
    runs = read_runs([str(path) for path in paths])
    assert [run.name for run in runs] == [str(path) for path in paths]
    assert runs[0].entries[0].summary["joules_per_token"] == 2.0
    assert runs[0].entries[0].summary["compile_seconds"] == 12.5
    lines = drawing.numbered(runs)
    assert [line.number for line in lines] == [1, 2]
    words = "".join(Page(make(tmp_path, *paths)).words)
    assert f"{paths[1]}: sample" in words and "Joules a token of 1: read from rapl" in words
    assert (tmp_path / "out" / "1-tinysql-joules.png").is_file()


@pytest.mark.parametrize(
    ("label", "found"),
    [
        ("mmtad depth=4 width=4 tau=0.5", ("mmtad depth=4 width=4", 0.5)),
        ("mtad tau=0.25 depth=4, greedy", ("mtad depth=4, greedy", 0.25)),
        ("mtad depth=4, T=0.5", ("mtad depth=4, T=0.5", 0.5)),
        ("sample", None),
        ("module:rule tau=x", None),
        ("module:rule depth=2", None),
    ],
)
def test_tau_of_a_label(label, found):
    assert pictures.split_tau(label) == found


def test_labels_are_spread_in_their_order():
    places = drawing.spread([0.5, 0.5, 0.52, 0.0], 0.1, 0.0, 1.0)
    assert places == pytest.approx([0.5, 0.6, 0.7, 0.0])
    full = drawing.spread([1.0] * 5, 0.5, 0.0, 1.0)
    assert sorted(full) == pytest.approx([0.0, 0.25, 0.5, 0.75, 1.0])


def test_shares_of_accepted_lengths_are_drawn(tmp_path):
    """Long rounds share the last column; the figures are those of the rounds."""
    long = of_length(30, strategy="beam", blocks=[[0, 30, 0, 0]])
    files = {"t/00.jsonl": [row(), row(id="q1")], "t/01.jsonl": [long]}
    run = write_run(tmp_path / "run", files, summary=[])
    lines = drawing.numbered(read_runs([str(run)]))
    picture = next(p for p in pictures.pictures(lines) if p.name == "lengths")
    (axes,) = picture.figure.axes
    written = {t.get_position(): t.get_text() for t in axes.texts if t.get_text()}
    assert written == {(0, 0): "50", (2, 0): "50", (11, 1): "100"}
    assert axes.get_xticklabels()[-1].get_text() == "12+"
    assert np.allclose(axes.images[0].get_array().sum(axis=1), 1)


GOOD = {"tinysql/00.jsonl": [row()]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": None}, "00.jsonl line 2: tokens=null must be a list of token ids"),
        ({"logp_raw": [-1.0]}, "line 2: 1 logp_raw of 4 tokens"),
        ({"blocks": [[0, 3, 2, 2]]}, "line 2: blocks do not add up to its 4 tokens"),
        ({"blocks": [[0, 4, 5, 5]]}, "must be a list of .start, tokens, accepted, drafted."),
        ({"stats": {"rounds": -1}}, "line 2: stats: rounds=-1 must be a whole number"),
        ({"scores": {"right": "yes"}}, "line 2: scores=.* must be an object of numbers"),
        ({"joules": -1.0}, "line 2: joules=-1.0 must be a number from 0"),
        ({"pieces": [1]}, "line 2: pieces=.1. must be a list of texts"),
        ({"strategy": "other"}, "00.jsonl: rows of strategy 'sample' and of 'other'"),
        ({"id": "q0"}, "00.jsonl: two rows of id, turn and sample q0, 0, 0"),
    ],
)
def test_wrong_rows(changes, message, tmp_path):
    rows = {"tinysql/00.jsonl": [row(), row(id="q1") | changes]}
    run = write_run(tmp_path / "run", rows, summary=[])
    with pytest.raises(ValueError, match=message) as caught:
        make(tmp_path, run)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_figures_are_those_of_the_summary(tmp_path):
    """Of rows that shared a batch too."""
    rows = [row(id=f"q{i}", batch=i // 2) for i in range(4)]
    run = write_run(tmp_path / "run", {"tinysql/00.jsonl": rows})
    (entry,) = read_runs([str(run)])[0].entries
    (wanted,) = summarize({"sample": rows})
    source = {"joules_source": entry.summary["joules_source"]}  # the settings say it
    assert entry.summary == wanted | source
    assert wanted["time_to_first_token"] == 3.0  # 2 * (0.5 + 2.0 / 2)


def test_wrong_folders(tmp_path):
    def refused(error, message, *paths, **given):
        with pytest.raises(error, match=message):
            make(tmp_path, *paths, **given)

    refused(ValueError, "no runs are given")
    refused(FileNotFoundError, "nowhere: no such folder", tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    refused(ValueError, "file: no settings.json in it", tmp_path / "file")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    refused(ValueError, "foreign: no settings.json in it", foreign)
    bare = write_run(tmp_path / "bare", {})
    refused(ValueError, "bare: no rows in it", bare)
    run = write_run(tmp_path / "run", GOOD, summary=[])
    refused(ValueError, "run: given twice", run, run)
    refused(ValueError, "--texts=-1 must be >= 0", run, texts=-1)
    (run / "tinysql" / "01.jsonl").write_text("{}\n{")
    refused(ValueError, "01.jsonl line 2: not JSON", run)
    (run / "tinysql" / "01.jsonl").write_text("")
    refused(ValueError, "01.jsonl: no rows", run)
    write_rows(run / "tinysql" / "01.jsonl", [row()])
    refused(ValueError, "01.jsonl: another file there is of strategy 'sample' too", run)
    (run / "tinysql" / "01.jsonl").unlink()
    for text, message in (("{", "not JSON"), ("{}", "not a list"), ("[{}]", "entry 0: .*'task'")):
        (run / "summary.json").write_text(text)
        refused(ValueError, f"summary.json: {message}", run)
    (run / "settings.json").write_text("[]")
    refused(ValueError, "settings.json: holds a list", run)
    assert not (tmp_path / "out").exists()


def test_the_output_is_whole_or_not_there(tmp_path, monkeypatch, no_pictures):
    run = write_run(tmp_path / "run", GOOD, summary=[])
    make(tmp_path, run)
    with pytest.raises(ValueError, match="out: output exists: use another name or --overwrite"):
        make(tmp_path, run)
    (tmp_path / "out" / "old.txt").write_text("")
    make(tmp_path, run, overwrite=True)
    before = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert "old.txt" not in before
    with monkeypatch.context() as broken, pytest.raises(ZeroDivisionError):
        broken.setattr(program, "page_html", lambda *_: 1 / 0)
        make(tmp_path, run, overwrite=True)
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == before
    (tmp_path / "out" / program.PAGE).rename(tmp_path / "out" / "other.html")
    with pytest.raises(ValueError, match="something else than a folder with report.html"):
        make(tmp_path, run, overwrite=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out", "run"]


@pytest.mark.slow
def test_the_command(tmp_path):
    write_run(tmp_path / "a", GOOD, summary=[])
    write_run(tmp_path / "b", {"tinysql/00.jsonl": [row(id="q7")]})

    def run(*arguments):
        command = [sys.executable, "-m", "experiments.report", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)

    out = tmp_path / "out"
    done = run(str(tmp_path / "a"), f"--output={out}", str(tmp_path / "b"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"written: {out / program.PAGE}\n"
    words = "".join(Page((out / program.PAGE).read_text()).words)
    assert "a: sample" in words and "Run b is not complete" in words
    refused = run(str(tmp_path / "a"), f"--output={out}")
    assert refused.returncode == 1 and not refused.stdout
    assert re.fullmatch(r"error: .*out: output exists: [^\n]*\n", refused.stderr)


def test_json_of_the_settings_may_have_any_shape(tmp_path, no_pictures):
    settings = {"device": [{"a": 1}, "x"], "git": None, "models": 5, "energy": "none"}
    run = write_run(tmp_path / "run", GOOD, settings=settings, summary=[])
    words = "".join(Page(make(tmp_path, run)).words)
    assert "a: 1 x" in words and "unavailable: none was read" in words
    bare = json.loads((run / "settings.json").read_text())
    del bare["command"]
    (run / "settings.json").write_text(json.dumps(bare))
    make(tmp_path, run, overwrite=True)
