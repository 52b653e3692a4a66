"""The evaluation: its rows, its summary, going on after a stop, and what it refuses."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import config_flags
import pytest
from tiny_pair import write_pair

from experiments import evaluate as program
from experiments.bench.facts import digest_of_arrays
from experiments.evaluation.ask import Asker
from experiments.evaluation.folder import RunFolder
from experiments.evaluation.summary import summary_of_rows
from experiments.tasks.base import Problem
from mtad_jax import recipes

pytestmark = pytest.mark.slow  # whole runs, most of them
ROOT = Path(__file__).resolve().parents[2]
TIMES = ("prefill_seconds", "decode_seconds", "joules", "compile_seconds", "peak_memory_bytes")
RULES = "('sample', 'mmtad depth=2 width=2 batch_size=2')"
ECHO = "outside_tasks:Echo count=5"


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    target, draft = write_pair(tmp_path_factory.mktemp("pair"))
    return [f"--config.target={target}", f"--config.draft={draft}", "--config.idle_seconds=0.0"]


def run(*args):
    config = f"--config={ROOT}/configs/eval/quick.py"
    return config_flags.run(program, program.evaluate, config, *args)


def asked(pair, folder, *more):
    return run(*pair, f"--config.task={ECHO}", f"--config.strategies={RULES}",
               "--config.samples=2", f"--output={folder}", *more)  # fmt: skip


def files_of(folder):
    return sorted(p for p in (folder / "echo").glob("*.jsonl") if ".answers" not in p.name)


def rows_of(folder):
    return [json.loads(line) for p in files_of(folder) for line in p.read_bytes().splitlines()]


def untimed(rows):
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


@pytest.fixture(scope="module")
def done(pair, tmp_path_factory):
    """An undisturbed run."""
    folder = tmp_path_factory.mktemp("runs") / "done"
    assert asked(pair, folder) == 0
    return folder


def test_a_row_for_every_turn_of_every_text(done):
    rows = rows_of(done)
    turns = [(f"e{i}", s, t) for i in range(5) for s in range(2) for t in range(1 + i % 3)]
    labels = ["sample", "mmtad depth=2 width=2 batch_size=2"]
    assert [(r["strategy"], r["id"], r["sample"], r["turn"]) for r in rows] == [
        (label, *turn) for label in labels for turn in turns
    ]
    for row in rows:
        assert sum(tokens for _, tokens, _, _ in row["blocks"]) == len(row["tokens"])
        assert sum(accepted for *_, accepted, _ in row["blocks"]) == row["stats"]["accepted"]
        assert sum(drafted for *_, drafted in row["blocks"]) == row["stats"]["drafted"]
        assert len(row["blocks"]) == row["stats"]["rounds"]
        assert "".join(row["pieces"]) == row["text"] and len(row["pieces"]) == len(row["tokens"])
        assert bool(row["scores"]) == (row["turn"] == int(row["id"][1]) % 3)
    by_turn = {(r["strategy"], r["id"], r["sample"], r["turn"]): r for r in rows}
    for (label, name, sample, turn), row in by_turn.items():
        if turn:
            before = by_turn[label, name, sample, turn - 1]
            said = f"A: {before['text']}\nQ: say {name[1]} {turn}\n"
            assert row["prompt"] == before["prompt"] + said


def test_samples_and_turns_draw_from_streams_of_their_own(done):
    rows = [r for r in rows_of(done) if r["strategy"] == "sample" and r["turn"] == 0]
    assert len({tuple(row["tokens"]) for row in rows}) > len(rows) // 2


def test_the_batch_size_changes_no_text(pair, done, tmp_path):
    folder = tmp_path / "other"
    run(*pair, f"--config.task={ECHO}", "--config.strategies=('sample batch_size=3',)",
        "--config.samples=2", f"--output={folder}")  # fmt: skip
    of_one = [r["tokens"] for r in rows_of(done) if r["strategy"] == "sample"]
    assert [r["tokens"] for r in rows_of(folder)] == of_one


def test_the_summary_is_that_of_the_rows_alone(done):
    summary = json.loads((done / "summary.json").read_text())
    by_rule = {}
    for row in rows_of(done):
        by_rule.setdefault(row["strategy"], []).append(row)
    energy = json.loads((done / "settings.json").read_text())["energy"]
    again = summary_of_rows(by_rule, energy["source"] or energy["reason"])
    assert json.loads(json.dumps(again)) == summary
    sample = [r for r in rows_of(done) if r["strategy"] == "sample"]
    assert summary[0]["problems"] == 5 and summary[0]["rows"] == len(sample) == 18
    assert summary[0]["tokens"] == sum(len(r["tokens"]) for r in sample)
    letters = {}
    for row in sample:
        if row["scores"]:
            letters.setdefault(row["id"], []).append(row["scores"]["letters"])
    mean = sum(sum(v) / len(v) for v in letters.values()) / 5
    assert summary[0]["scores"]["letters"][0] == pytest.approx(mean)


def test_settings_say_what_the_run_was(done, pair):
    settings = json.loads((done / "settings.json").read_text())
    assert settings["config"]["task"] == ECHO and settings["config"]["samples"] == 2
    assert settings["config"]["batch_size"] == 1  # a default, spelt out
    assert settings["versions"]["jax"] and settings["device"]["platform"] == "cpu"
    assert settings["models"]["target"]["path"] == pair[0].split("=", 1)[1]


def test_answers_in_the_format_of_the_tasks_own_tools(done):
    [first, _] = sorted((done / "echo").glob("*.answers.jsonl"))
    lines = [json.loads(line) for line in first.read_text().splitlines()]
    assert [line["question"] for line in lines] == [f"e{i}" for i in range(5)]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, "terminated"])
def test_a_stopped_run_goes_on_and_ends_alike(pair, done, tmp_path, monkeypatch, stop, capsys):
    folder, whole = tmp_path / "run", Asker.ask
    calls = []

    def ask(self, batch):
        calls.append(batch)
        if len(calls) == 8:
            if stop == "terminated":
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(1)
            raise KeyboardInterrupt
        return whole(self, batch)

    monkeypatch.setattr(Asker, "ask", ask)
    more = ["--overwrite"] if stop == "terminated" else []
    code = asked(pair, folder, *more)
    assert code == (143 if stop == "terminated" else 130)
    again = "the same command without --overwrite" if more else "the same command"
    assert f"rows are in {folder}: {again} goes on" in capsys.readouterr().err
    assert not (folder / "summary.json").exists()
    monkeypatch.setattr(Asker, "ask", whole)
    assert asked(pair, folder) == 0
    assert untimed(rows_of(folder)) == untimed(rows_of(done))


def test_half_a_batch_is_asked_again(pair, done, tmp_path, monkeypatch):
    folder, whole = tmp_path / "run", Asker.ask

    def ask(self, batch):
        if self.point.batch_size == 2 and batch == 2:
            raise KeyboardInterrupt
        return whole(self, batch)

    monkeypatch.setattr(Asker, "ask", ask)
    asked(pair, folder)
    [partial] = (folder / "echo").glob("*.partial")
    lines = partial.read_bytes().splitlines(keepends=True)
    partial.write_bytes(b"".join(lines[:-1]) + lines[-1][:9])  # the kill came while it wrote
    monkeypatch.setattr(Asker, "ask", whole)
    assert asked(pair, folder) == 0
    assert untimed(rows_of(folder)) == untimed(rows_of(done))


def test_a_killed_run_goes_on_by_the_same_command(pair, done, tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "experiments.evaluate", f"--output={folder}",
               f"--config={ROOT}/configs/eval/quick.py", *pair, f"--config.task={ECHO}",
               f"--config.strategies={RULES}", "--config.samples=2"]  # fmt: skip
    env = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT}/tests/support"}
    process = subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.DEVNULL)
    while not any(p.stat().st_size for p in folder.glob("echo/*.jsonl*")):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (folder / "summary.json").exists()
    subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True)
    assert untimed(rows_of(folder)) == untimed(rows_of(done))


def test_a_complete_run_is_not_run_again(pair, done, monkeypatch):
    before = {p: p.read_bytes() for p in files_of(done)}
    monkeypatch.setattr(Asker, "ask", None)
    assert asked(pair, done) == 0
    assert {p: p.read_bytes() for p in files_of(done)} == before


def test_another_runs_folder_is_refused_with_what_differs(pair, done, tmp_path):
    with pytest.raises(ValueError, match=r"config\.seed=0, not 1: give another --output, or"):
        asked(pair, done, "--config.seed=1")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("years of work")
    for more in ((), ("--overwrite",)):
        with pytest.raises(ValueError, match="no run in it"):
            asked(pair, foreign, *more)
    assert (foreign / "thesis.tex").read_text() == "years of work"
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file: give a folder"):
        asked(pair, tmp_path / "file")


def run_of(folder, *, overwrite=False, **changes):
    device = {"platform": "gpu", "kind": "H100", "count": 1, "cpu_cores": 8, "processor": "A"}
    settings = {"config": {"seed": 0}, "problems": {}, "device": device}
    return RunFolder(folder, settings | changes, overwrite=overwrite)


def test_a_folder_that_was_cut_short_is_still_ours(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".settings.json.7.partial").write_text("{")
    run_of(folder).begin()
    (folder / "echo").mkdir()
    with monkeypatch.context() as patch:

        def stop(*_):
            raise KeyboardInterrupt

        patch.setattr("shutil.rmtree", stop)
        with pytest.raises(KeyboardInterrupt):
            run_of(folder, overwrite=True).begin()
    assert run_of(folder).check()
    run_of(folder, overwrite=True).begin()
    assert [path.name for path in folder.iterdir()] == ["settings.json"]


def test_a_machine_that_comes_back_may_have_another_processor(tmp_path):
    run_of(tmp_path).begin()
    device = {"platform": "gpu", "kind": "H100", "count": 1, "cpu_cores": 16, "processor": "B"}
    run_of(tmp_path, device=device).begin()
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert settings["device"]["processor"] == "A"
    assert settings["resumed"] == [{"device": device}]
    with pytest.raises(ValueError, match=r"device\.kind=H100, not H200: give another --output"):
        run_of(tmp_path, device=device | {"kind": "H200"}).begin()


def test_a_model_may_be_recorded_by_another_path(tmp_path):
    models = {"target": {"path": "m", "digest": "1"}, "draft": None}
    run_of(tmp_path, models=models).begin()
    assert run_of(tmp_path, models=models | {"target": {"path": "/m", "digest": "1"}}).check()
    with pytest.raises(ValueError, match=r"models\.target\.digest=1, not 2"):
        run_of(tmp_path, models=models | {"target": {"path": "m", "digest": "2"}}).check()


def test_all_that_is_asked_is_part_of_a_run(tmp_path):
    asked = [Problem("a", ("b",), shots=(("q", "a"),)), Problem("a", ("b",), system="s")]
    asked += [Problem("a", ("b",)), Problem("a", ("b",), reference=1), Problem("a", ("c",))]
    assert len({program._digest([problem]) for problem in asked}) == len(asked)
    rules = [recipes.suffix(2, 2, corpus) for corpus in ([[1, 2, 3]], [[1, 2, 4]])]
    assert len({digest_of_arrays(rule) for rule in rules}) == 2
    assert digest_of_arrays(recipes.mmtad()) == ""


def test_overwrite_starts_again(pair, tmp_path):
    folder = tmp_path / "run"
    small = ["--config.task=outside_tasks:Echo count=1", "--config.strategies=('sample',)"]
    run(*pair, *small, f"--output={folder}")
    run(*pair, *small, f"--output={folder}", "--config.seed=1", "--overwrite")
    assert json.loads((folder / "settings.json").read_text())["seed"] == 1


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--config.task=nope"], "no task 'nope'"),
        (["--config.task=outside_tasks:NotATask"], "no dataclass of"),
        (["--config.task=outside_tasks:Plain"], "no dataclass of"),
        (["--config.task=outside_tasks:Gone"], "Gone"),
        (["--config.task=nowhere:Echo"], "nowhere"),
        (["--config.task=outside_tasks:Echo size=3"], "no setting 'size'; its settings: count"),
        (["--config.task=outside_tasks:Echo count=many"], "count=many must be a whole number"),
        (["--config.task=outside_tasks:Echo count"], "'count' is no key=value"),
        (["--config.task=gsm8k path=gone.jsonl"], "gone.jsonl: no such file"),
        (["--config.task=", "--config.tasks=()"], "no tasks: give"),
        (["--config.strategies=('nope',)"], "no rule 'nope'"),
        (["--config.batch_size=0"], "config.batch_size=0 must be >= 1"),
        (["--config.mesh=data:8"], "sample, batch_size=1: batch of 1 rows on mesh axis data:8"),
        (["--config.task=outside_tasks:Twins"], "echo: 5 problems have the id 'one': give each"),
        (["--config.style=rhyme"], "config.style=rhyme must be one of plain, chat"),
        (["--config.max_new_tokens=100000"], "max_new_tokens"),
        (["--config.draft="], "it drafts, and config.draft is empty"),
        (["--config.target="], r"config.draft=\S+ needs config.target: give both or neither"),
        (["--config.target=", "--config.draft=early_exit:9"], "early_exit=9: the model has 6"),
    ],
)
def test_refused_in_one_line_and_nothing_written(pair, tmp_path, args, said):
    with pytest.raises((ValueError, OSError), match=said) as caught:
        run(*pair, f"--config.task={ECHO}", *args, f"--output={tmp_path / 'run'}")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
