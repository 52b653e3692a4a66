"""The runner: what it prints and writes, and that wrong input ends in one line."""

import errno
import fcntl
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from generate_flags import run
from tiny_pair import IDS_ONLY_VOCAB, write_ids_only_pair, write_pair

from experiments import generate as program
from experiments.rows.completion import row_of
from experiments.rows.output import RowWriter
from mtad_jax import recipes
from mtad_jax.completions import Completion, RowStats
from mtad_jax.decode.drafters import recycling
from mtad_jax.devices.hosts import checkpoint_digest
from mtad_jax.pipeline import Pipeline

ROOT = Path(__file__).resolve().parents[2]
ROWS = [
    {"prompt_ids": [1, 5, 6], "id": "a", "note": {"who": ["é", None, 1.5]}},
    {"prompt_ids": [1], "question_id": 7, "target": "an answer"},
    {"prompt_ids": [1, 9, 9, 9, 12]},
]
KEYS = {"prompt_ids", "tokens", "text", "logp_raw", "logp", "stats", "seconds", "finish_reason"}
KEYS |= {"prompt", "rule"}
STATS = {"rounds", "accepted", "drafted", "block_efficiency", "acceptance_by_position", "endings"}


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """With tokenizer files."""
    return write_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="session")
def ids_pair(tmp_path_factory):
    """Without."""
    return write_ids_only_pair(tmp_path_factory.mktemp("ids_pair"))


@pytest.fixture
def prompts(tmp_path):
    return write_jsonl(tmp_path / "prompts.jsonl", ROWS)


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def without_time(path):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_jsonl(path)]


def models(pair):
    return f"--target={pair[0]}", f"--draft={pair[1]}"


def greedy(pair):
    return f"--target={pair[0]}", "--strategy=greedy", "--max_new_tokens=8", "--ignore_eos"


@pytest.mark.slow
def test_rows(ids_pair, prompts, tmp_path):
    out = tmp_path / "deeper" / "out.jsonl"
    flags_ = ("--max_new_tokens=6", "--depth=2", "--width=2", f"--prompts={prompts}")
    assert run(*models(ids_pair), *flags_, f"--output={out}", "--batch_size=2") == 0
    rows = read_jsonl(out)
    assert [row["prompt_ids"] for row in rows] == [row["prompt_ids"] for row in ROWS]
    for row, given in zip(rows, ROWS, strict=True):  # a row's own keys come back as they are
        assert set(row) == KEYS | set(given) and {k: row[k] for k in given} == given
    assert {row["rule"]["strategy"] for row in rows} == {"mmtad"}
    for row in rows:
        assert set(row["stats"]) == STATS and len(row["stats"]["acceptance_by_position"]) == 2
        assert 1 <= len(row["tokens"]) == len(row["logp"]) == len(row["logp_raw"]) <= 6
        assert row["finish_reason"] == ("end" if row["tokens"][-1] == 2 else "length")
        assert row["seconds"] > 0 and row["text"] == ""
        assert row["prompt"] is None  # ids were given
    assert sorted(os.listdir(out.parent)) == ["out.jsonl", "out.jsonl.settings.json"]
    made_with = json.loads((out.parent / "out.jsonl.settings.json").read_text())
    config, drafts = made_with["config"], made_with["models"]["draft"]
    assert config.items() >= rows[0]["rule"].items() and config["width"] == 2
    # Defaults are spelt out, and what another rule has is not in it.
    assert config.items() >= {"temperature": 1.0, "top_k": 10, "top_p": 0.9, "min_p": 0}.items()
    assert config["draft_top_k"] == 10 and not {"ngram", "branching"} & set(config)
    assert config["batch_size"] == 2 and config["max_new_tokens"] == 6
    assert made_with["seed"] == config["seed"] == 0 and made_with["energy"]["source"] is None
    assert drafts["digest"] == checkpoint_digest(ids_pair[1]) and drafts["path"] in str(ids_pair)


@pytest.mark.slow
def test_prompts_are_in_the_rows_as_they_were_given(pair, tmp_path):
    rows = [{"prompt": "The cat", "id": 4}, {"prompt_ids": [1, 5]}]
    prompts, out = write_jsonl(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    assert run(*greedy(pair), f"--prompts={prompts}", f"--output={out}") == 0
    first, second = read_jsonl(out)
    assert (first["prompt"], first["id"], second["prompt"]) == ("The cat", 4, None)
    assert first["prompt_ids"] == Pipeline.load(pair[0]).encode("The cat")


@pytest.mark.slow
def test_rows_do_not_depend_on_the_batch_size(ids_pair, prompts, tmp_path):
    outs = [tmp_path / f"{n}.jsonl" for n in (1, 2)]
    for n, out in enumerate(outs, start=1):
        common = (f"--target={ids_pair[0]}", "--strategy=sample", "--max_new_tokens=8")
        run(*common, f"--prompts={prompts}", f"--output={out}", f"--batch_size={n}")
    tokens = [[row["tokens"] for row in read_jsonl(out)] for out in outs]
    assert tokens[0] == tokens[1]


@pytest.mark.slow
def test_samples_are_rows_and_rows_may_have_seeds(ids_pair, tmp_path, monkeypatch):
    """A row's own seed gives its texts in any file; a run cut inside a prompt goes on there."""
    rows = [{"prompt_ids": [1, 5], "seed": 3}, {"prompt_ids": [1, 9, 9]}, {"prompt_ids": [1, 7]}]
    common = (
        f"--target={ids_pair[0]}", "--strategy=sample", "--max_new_tokens=8", "--ignore_eos",
        "--samples=2", "--batch_size=2", "--banned_ids=4", "--repetition_penalty=1.5",
    )  # fmt: skip
    prompts, out = write_jsonl(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    assert run(*common, f"--prompts={prompts}", f"--output={out}") == 0
    got = read_jsonl(out)
    assert [row["sample"] for row in got] == [0, 1] * 3
    assert [row["prompt_ids"] for row in got] == [r["prompt_ids"] for r in rows for _ in range(2)]
    assert len({tuple(row["tokens"]) for row in got}) == 6
    assert not any(4 in row["tokens"] for row in got)

    turned = write_jsonl(tmp_path / "turned.jsonl", [rows[2], rows[1], rows[0]])
    run(*common, f"--prompts={turned}", f"--output={tmp_path / 'turned_out.jsonl'}")
    other = read_jsonl(tmp_path / "turned_out.jsonl")
    assert [row["tokens"] for row in other[4:]] == [row["tokens"] for row in got[:2]]
    assert [row["tokens"] for row in other[2:4]] == [row["tokens"] for row in got[2:4]]
    assert other[0]["tokens"] != got[4]["tokens"]  # the stream of its place

    again = tmp_path / "again.jsonl"
    with monkeypatch.context() as patch:
        interrupt_second_batch(patch, KeyboardInterrupt())
        assert run(*common, f"--prompts={prompts}", f"--output={again}") == 130
    partial = tmp_path / "again.jsonl.partial"
    partial.write_text("".join(partial.read_text().splitlines(keepends=True)[:3]))
    assert run(*common, f"--prompts={prompts}", f"--output={again}", "--resume") == 0
    assert without_time(again) == without_time(out)


def interrupt_second_batch(monkeypatch, error):
    call, calls = Pipeline.__call__, []

    def interrupted(self, *args, **settings):
        calls.append(1)
        if len(calls) == 2:
            raise error
        return call(self, *args, **settings)

    monkeypatch.setattr(Pipeline, "__call__", interrupted)


def test_an_interrupted_run_goes_on(ids_pair, prompts, tmp_path, monkeypatch, capsys):
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    common = (*greedy(ids_pair), f"--prompts={prompts}")
    run(*common, f"--output={whole}", "--batch_size=2")
    with monkeypatch.context() as patch:
        interrupt_second_batch(patch, KeyboardInterrupt())
        assert run(*common, f"--output={out}", "--batch_size=2") == 130
    assert "2 of 3 rows" in capsys.readouterr().err
    partial = tmp_path / "out.jsonl.partial"
    assert not out.exists() and len(read_jsonl(partial)) == 2
    with partial.open("a") as file:
        file.write('{"prompt_ids": [1, 9')  # as a killed run leaves it
    with pytest.raises(ValueError, match="--resume"):
        run(*common, f"--output={out}")
    with pytest.raises(ValueError, match="seed=0, not 1"):
        run(*common, f"--output={out}", "--resume", "--seed=1")
    assert run(*common, f"--output={out}", "--resume", "--batch_size=2") == 0
    assert without_time(out) == without_time(whole)
    assert not list(tmp_path.glob("*partial*"))


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["suffix", "recycle"])
def test_a_run_does_not_go_on_with_another_file_of_its_rule(
    ids_pair, prompts, tmp_path, monkeypatch, rule
):
    out, file = tmp_path / "out.jsonl", tmp_path / "file.npy"
    flag = {"suffix": "--corpus", "recycle": "--table"}[rule]
    common = (*greedy(ids_pair), f"--strategy={rule}", f"{flag}={file}", f"--prompts={prompts}")
    ids = np.arange(IDS_ONLY_VOCAB * 4).reshape(-1, 4) % IDS_ONLY_VOCAB
    np.save(file, ids.ravel() if rule == "suffix" else ids)
    with monkeypatch.context() as patch:
        interrupt_second_batch(patch, KeyboardInterrupt())
        assert run(*common, f"--output={out}") == 130
    np.save(file, ids[::-1].ravel() if rule == "suffix" else ids[::-1])
    with pytest.raises(ValueError, match="made with arrays_sha256=.*, not "):
        run(*common, f"--output={out}", "--resume")
    np.save(file, ids.ravel() if rule == "suffix" else ids)
    assert run(*common, f"--output={out}", "--resume") == 0


def test_nothing_stays_of_a_run_without_a_row(ids_pair, prompts, tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    out = tmp_path / "out.jsonl"
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="out.jsonl.*No space left.*make room"):
        run(*greedy(ids_pair), f"--prompts={prompts}", f"--output={out}")
    assert os.listdir(tmp_path) == ["prompts.jsonl"]


def test_rows_stay_where_the_file_cannot_be_locked(tmp_path, monkeypatch):
    def no_locks(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    out = tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt), RowWriter(out, {"seed": 0}) as writer:
        writer.write([{"id": 1}])
        raise KeyboardInterrupt
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", no_locks)
        with pytest.raises(OSError, match="No locks"):
            RowWriter(out, {"seed": 0}, resume=True).__enter__()
        with pytest.raises(OSError, match="No locks"):
            RowWriter(tmp_path / "new.jsonl", {}).__enter__()
    assert sorted(os.listdir(tmp_path)) == [
        "out.jsonl.partial", "out.jsonl.partial.settings.json"
    ]  # fmt: skip
    with RowWriter(out, {"seed": 0}, resume=True) as writer:
        assert writer.count == 1
    assert read_jsonl(out) == [{"id": 1}]


def test_two_runs_cannot_write_one_output(tmp_path):
    out = tmp_path / "out.jsonl"
    with RowWriter(out, {}) as writer:
        writer.write([{"text": "\ud83d half a pair"}])
        with pytest.raises(ValueError, match="another run"), RowWriter(out, {}, overwrite=True):
            pass
    assert read_jsonl(out) == [{"text": "\ud83d half a pair"}]


def test_overwrite(ids_pair, prompts, tmp_path):
    out = tmp_path / "out.jsonl"
    out.write_text("old\n")
    common = (*greedy(ids_pair), "--prompt_ids=1,5,6", f"--output={out}")
    with pytest.raises(ValueError, match="output exists"):
        run(*common)
    assert out.read_text() == "old\n"
    run(*common, "--overwrite")
    assert len(read_jsonl(out)) == 1


def test_a_prompt_is_streamed(pair, capsys):
    run(*greedy(pair), "--prompt=The cat")
    out, err = capsys.readouterr()
    row = Pipeline.load(pair[0])(
        ["The cat"], strategy=recipes.greedy(), max_new_tokens=8, eos_id=()
    )[0]
    assert out == row.text + "\n" and err.count("\n") == 1 and "8 tokens" in err


def test_ids_are_printed_without_a_tokenizer(ids_pair, capsys):
    run(*greedy(ids_pair), "--prompt_ids=1,5,6")
    ids = [int(i) for i in capsys.readouterr().out.split(",")]
    assert len(ids) == 8 and all(0 <= i < IDS_ONLY_VOCAB for i in ids)


ONE = "--prompt_ids=1,5"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--prompt=x"], "no tokenizer"),
        ([f"--prompt_ids={IDS_ONLY_VOCAB}"], f"id {IDS_ONLY_VOCAB}, outside"),
        (["--prompt_ids=99999999999999999999"], "outside"),
        ([ONE, "--noignore_eos", "--eos_id=77"], "eos_id=77 is outside"),
        ([ONE, "--stop=x"], "stop strings need a tokenizer"),
        ([ONE, f"--banned_ids={IDS_ONLY_VOCAB}"], "banned_ids holds 40, outside"),
        ([ONE, "--repetition_penalty=0"], "repetition_penalty=0.0 must be finite and > 0"),
        ([ONE, "--max_new_tokens=255"], "positions=256 of the target < 257"),
        (["--prompt_ids=" + ",".join("1" * 250)], "lower max_new_tokens or shorten"),
    ],
)
def test_what_the_model_cannot_do(args, message, ids_pair, tmp_path):
    out = tmp_path / "out.jsonl"
    with pytest.raises(ValueError, match=message):
        run(*greedy(ids_pair), *args, f"--output={out}")
    assert not os.listdir(tmp_path)


def test_rows_are_those_of_a_batch_not_of_the_file(ids_pair, prompts, tmp_path, monkeypatch):
    monkeypatch.setattr(recycling, "MOST_BYTES", 4 * IDS_ONLY_VOCAB * 4)  # one row's table
    rule = [f"--target={ids_pair[0]}", "--strategy=recycle", "--max_new_tokens=4"]
    out = tmp_path / "out.jsonl"
    with pytest.raises(ValueError, match="for each of 2 rows"):
        run(*rule, f"--prompts={prompts}", f"--output={out}", "--batch_size=2")
    assert run(*rule, f"--prompts={prompts}", f"--output={out}", "--batch_size=1") == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ("[" * 100_000, "line 2: not JSON"),
        ("3", "line 2: '3' is not an object"),
        ("{}", "line 2: neither"),
        ('{"prompt": "x", "prompt_ids": [1]}', "line 2: both"),
        ('{"prompt": 3}', "line 2: prompt='3' is not a string"),
        ('{"prompt": ""}', "line 2: the prompt is empty"),
        ('{"prompt_ids": []}', "line 2: the prompt is empty"),
        ('{"prompt_ids": [1, true]}', "line 2: prompt_ids must be"),
        ('{"prompt_ids": [1, -1]}', "line 2: the prompt holds id -1"),
        ('{"prompt_ids": "1"}', "line 2: prompt_ids must be"),
        ('{"prompt": "x", "seed": 1.5}', "line 2: seed=1.5 must be an integer"),
        ('{"prompt": "x", "seed": true}', "line 2: seed=True must be an integer"),
        ('{"prompt": "\\ud800"}', "line 2: "),
        ('{"prompt": "x", "id": NaN}', "line 2: not JSON: NaN is not a finite number"),
        ('{"prompt": "x", "id": {"a": [-Infinity]}}', "line 2: not JSON: -Infinity is not"),
        ('{"prompt": "x", "id": 1e999}', "line 2: not JSON: 1e999 is not a finite number"),
        ('{"prompt": "x", "id": %s}' % ("1" * 5000), "line 2: not JSON: .* 5000 digits"),
        ('{"prompt_ids": [1, %s]}' % ("1" * 5000), "line 2: not JSON: .* 5000 digits"),
        (json.dumps({"prompt_ids": [1, 2**63]}), f"line 2: the prompt holds id {2**63}, outside"),
        ('{"prompt": "x", "max_new_tokens": 3}', "line 2: max_new_tokens=3 is a setting of the"),
        ('{"prompt": "x", "tau": 0.5}', "line 2: tau=0.5 is a setting of the whole run"),
        ('{"prompt": "x", "stop": ["a"]}', "line 2: stop=.* is a setting of the whole run"),
        ('{"prompt": "x", "max_tokens": 3}', "line 2: max_tokens=3 is a setting of the whole"),
        ('{"prompt": "x", "text": "y"}', "line 2: key 'text' is one that output rows have"),
        ('{"prompt": "\udcff"}', "line 2: not UTF-8"),
    ],
)
def test_wrong_rows(line, message, pair, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    text = f'{{"prompt": "good"}}\n{line}\n'
    prompts.write_bytes(text.encode("utf-8", errors="surrogateescape"))
    with pytest.raises(ValueError, match=f"{prompts} {message}"):
        run(*greedy(pair), f"--prompts={prompts}", f"--output={tmp_path / 'out.jsonl'}")
    assert os.listdir(tmp_path) == ["prompts.jsonl"]


def test_output_keys_are_those_of_the_rows(ids_pair, tmp_path):
    out, models_ = tmp_path / "out.jsonl", greedy(ids_pair)[:1]
    prompts = write_jsonl(tmp_path / "in.jsonl", [{"prompt_ids": [1]}])
    run(*models_, "--strategy=sample", "--samples=2", f"--prompts={prompts}", f"--output={out}")
    assert set(read_jsonl(out)[0]) == set(program.OUTPUT_KEYS) == KEYS | {"sample"}


def completion(*logp):
    stats = RowStats(1, 0, 0, 1.0, [], {})
    return Completion([1], [2] * len(logp), "", list(logp), list(logp), stats, "length")


def test_a_target_without_numbers_neither_stops_the_summary_nor_the_rows():
    assert "perplexity 2.72," in program.summary(completion(-1.0, -1.0), 1.0)
    assert "perplexity 1e+304," in program.summary(completion(-700.0), 1.0)
    assert "perplexity inf," in program.summary(completion(-1e3, -2e3), 1.0)
    assert "perplexity inf," in program.summary(completion(-math.inf), 1.0)
    assert "perplexity nan," in program.summary(completion(math.nan), 1.0)
    row = row_of(completion(-1.0, -math.inf, math.nan))
    assert row["logp"] == row["logp_raw"] == [-1.0, None, None]


def test_wrong_files(ids_pair, prompts, tmp_path):
    common = (*greedy(ids_pair), f"--output={tmp_path / 'out.jsonl'}")
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n\n")
    with pytest.raises(ValueError, match="no prompts"):
        run(*common, f"--prompts={empty}")
    with pytest.raises(OSError, match="absent.jsonl"):
        run(*common, f"--prompts={tmp_path / 'absent.jsonl'}")
    with pytest.raises(ValueError, match="is a folder"):
        run(*greedy(ids_pair), f"--prompts={prompts}", f"--output={tmp_path}")
    with pytest.raises(OSError, match="empty.jsonl"):
        run(*greedy(ids_pair), f"--prompts={prompts}", f"--output={empty}/out.jsonl")


def test_vocabularies_that_differ(pair, ids_pair, tmp_path):
    with pytest.raises(ValueError, match="vocabular"):
        run(f"--target={pair[0]}", f"--draft={ids_pair[1]}", "--prompt=The cat")


def program_in_a_process(*args):
    command = [sys.executable, "-m", "experiments.generate", *map(str, args)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_as_a_program(ids_pair):
    done = program_in_a_process(*greedy(ids_pair), ONE)
    assert done.returncode == 0 and done.stdout.count(",") == 7, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("args", [["--depth=x"], [ONE, "--tau=0"]])
def test_an_error_is_one_line(args):
    done = program_in_a_process(*args)
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
