"""The calibration program: what it prints, writes and refuses; measuring itself is replaced."""

import json
import shlex

import numpy as np
import pytest
from absl import flags
from tiny_pair import write_ids_only_pair

from experiments import calibrate as program
from experiments import generate
from experiments.flags.settings import read_settings
from mtad_jax.calibration.candidates import Candidate, default_candidates
from mtad_jax.calibration.decide import Interval
from mtad_jax.calibration.report import Calibration, Row
from mtad_jax.checkpoints.atomic import new_file
from mtad_jax.decode.warp import Warp

CHOICE = Candidate.of("mmtad", depth=3, width=2)
ROWS = (
    Row(CHOICE, 1.5, Interval(1.4, 1.3, 1.5), Interval(0.8, 0.7, 0.9), "chosen"),
    Row(Candidate.of("mcsd", branching=(4, 2)), None, None, None, "out of time"),
)


def found_of(choice=CHOICE):
    return Calibration(
        choice=choice.strategy, name=choice.name, settings=choice.settings,
        speed=Interval(1.4, 1.3, 1.5), quality=Interval(0.8, 0.7, 0.9),
        plain_tokens_per_second=99.0, rows=ROWS, floor=1.0, margin=0.03, programs=7, seconds=3.0,
    )  # fmt: skip


def values_of(*args):
    values = flags.FlagValues()
    program.define_flags(values)
    values(["calibrate", *args])
    return values


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return write_ids_only_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt_ids": [1, 5, 6]}\n{"prompt_ids": [1]}\n')
    return path


@pytest.fixture
def seen(monkeypatch):
    calls = []

    def fake(*args, **settings):
        calls.append((args, settings))
        settings["progress"]("measuring")
        return found_of()

    monkeypatch.setattr("mtad_jax.calibration.calibrate.calibrate", fake)
    return calls


def test_a_rule_of_another_package_competes(pair, prompts, seen):
    args = [f"--target={pair[0]}", f"--draft={pair[1]}", f"--prompts={prompts}", "--noprogress"]
    program.calibrate(
        values_of(*args, "--rule=mtad depth=9", "--rule=outside_rules:slack draft=beam")
    )
    first = seen[0][1]["candidates"][:3]
    named = [Candidate.of("mtad", depth=9), Candidate.of("outside_rules:slack", draft="beam")]
    assert first == [*named, default_candidates(draft=True)[0]]
    command = program.command_line(found_of(named[1]), values_of(*args))
    assert "--strategy=outside_rules:slack --draft_kind=beam" in command


def test_the_choice_is_printed_and_written(pair, prompts, seen, tmp_path, capsys):
    output = tmp_path / "new" / "choice.json"
    args = [f"--target={pair[0]}", f"--draft={pair[1]}", f"--prompts={prompts}", "--floor=1.0"]
    args += ["--noprogress", "--top_k=5", f"--output={output}", "--batch_size=2"]
    program.calibrate(values_of(*args))
    (target, draft, ids, length), settings = seen[0]
    assert target.vocab_size == draft.vocab_size == 40
    np.testing.assert_array_equal(ids, [[1, 5, 6], [1, 0, 0]])
    assert length.tolist() == [3, 1]
    assert (settings["floor"], settings["batch_size"], settings["warp"].top_k) == (1.0, 2, 5)
    assert settings["eos_id"] == (2,)
    command = (
        "python -m experiments.generate --strategy=mmtad --depth=3 --width=2 "
        f"--target={pair[0]} --draft={pair[1]} --top_k=5 --max_new_tokens=64 --batch_size=2 "
        f"--prompts={prompts} --output=OUT.jsonl"
    )
    shown = capsys.readouterr()
    assert shown.out.endswith(command + "\n") and shown.err == ""
    assert "mmtad depth=3 width=2" in shown.out and "mcsd branching=4,2" in shown.out
    assert "1.40 (1.30 to 1.50)" in shown.out and "0.80 (0.70 to 0.90)" in shown.out
    row = json.loads(output.read_text())
    assert (row["strategy"], row["settings"]) == ("mmtad", {"depth": 3, "width": 2})
    assert row["command"] == command
    assert row["speed"] == {"value": 1.4, "low": 1.3, "high": 1.5}
    assert [r["verdict"] for r in row["rows"]] == ["chosen", "out of time"]
    assert row["rows"][1]["settings"] == {"branching": [4, 2]}
    assert sorted(path.name for path in output.parent.iterdir()) == ["choice.json"]
    with pytest.raises(ValueError, match="output exists"):
        program.calibrate(values_of(*args))
    program.calibrate(values_of(*args, "--overwrite"))


def test_rules_without_a_draft_are_called_without_one():
    values = values_of("--target=t", "--draft=d", "--temperature=0.7")
    lookup = found_of(Candidate.of("lookup", depth=4, ngram=3))
    want = "--strategy=lookup --depth=4 --ngram=3 --target=t --temperature=0.7 --max_new_tokens=64"
    assert f"{want} --prompt=" in program.command_line(lookup, values)


@pytest.mark.parametrize("candidate", default_candidates(draft=True), ids=lambda c: c.label)
def test_the_command_line_means_the_choice(candidate):
    values = flags.FlagValues()
    generate.define_flags(values)
    line = program.command_line(found_of(candidate), values_of())
    values(line.split()[2:])
    assert read_settings(values).strategy == candidate.strategy


CONTROLS = (
    "--temperature=0.7", "--min_p=0.1", "--draft_temperature=0.9", "--draft_top_k=20",
    "--max_new_tokens=48", "--min_new_tokens=3", "--banned_ids=5,17", "--repetition_penalty=1.2",
)  # fmt: skip


@pytest.mark.parametrize("ends", ["--eos_id=2,7", None, "--ignore_eos"])
def test_the_command_line_decodes_as_was_measured(pair, prompts, seen, ends):
    controls = [c for c in CONTROLS if ends != "--ignore_eos" or "min_new" not in c]
    controls += [ends] if ends else []
    args = [f"--target={pair[0]}", f"--draft={pair[1]}", f"--prompts={prompts}", "--batch_size=2"]
    values = values_of(*args, *controls, "--noprogress")
    program.calibrate(values)
    measured = seen[0][1]
    line = program.command_line(found_of(), values)
    theirs = flags.FlagValues()
    generate.define_flags(theirs)
    theirs(shlex.split(line)[2:])
    call = read_settings(theirs).call()
    assert (theirs.target, theirs.draft, theirs.batch_size) == (*map(str, pair), 2)
    assert call["eos_id"] == (measured["eos_id"] if ends else None)
    names = ("warp", "draft_warp", "max_new_tokens", "min_new_tokens", "banned_ids")
    for name in (*names, "repetition_penalty"):
        assert call[name] == measured[name], name
    assert measured["eos_id"] == {"--eos_id=2,7": (2, 7), None: (2,)}.get(ends, ())
    assert measured["draft_warp"] == Warp(0.9, 0.9, 20, min_p=0.1)


def test_a_row_with_its_own_seed_is_refused(prompts, seen):
    prompts.write_text('{"prompt_ids": [1, 5]}\n{"prompt_ids": [1], "seed": 3}\n')
    with pytest.raises(ValueError, match="line 2: seed=3: a calibration draws .*: leave it out$"):
        program.calibrate(values_of(f"--prompts={prompts}"))
    assert not seen


def test_an_interrupted_file_leaves_the_old_one(tmp_path):
    path = tmp_path / "choice.json"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), new_file(path, overwrite=True) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError, match="output exists"), new_file(path):
        pass


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--floor=best"], "--floor=best must be lossless, none, or a number"),
        (["--floor=nan"], "--floor=nan must be"),
        (["--floor=0.5"], "floor=0.5 must be finite and >= 1"),
        (["--draft=d"], "--draft=d needs --target=DIR"),
        (["--overwrite"], "--overwrite needs --output"),
        (["--output=."], "--output is a folder"),
        (["--temperature=-1"], "temperature=-1"),
        (["--max_new_tokens=0"], "--max_new_tokens=0 must be >= 1"),
        (["--min_new_tokens=65"], "min_new_tokens=65 > max_new_tokens=64"),
        (["--eos_id=2", "--ignore_eos"], "--eos_id=2 contradicts --ignore_eos"),
        (["--draft_top_k=-1"], "the draft's top_k=-1"),
        (["--target=t", "--draft_top_k=5"], "--draft_top_k=5 means nothing without a draft"),
        (["--prompts=no/such/file"], "no/such/file"),
    ],
)
def test_wrong_input_is_refused_before_any_work(args, message, seen):
    with pytest.raises((ValueError, OSError), match=message):
        program.calibrate(values_of(*args))
    assert not seen


def test_built_in_prompts_need_a_tokenizer(pair, seen):
    with pytest.raises(ValueError, match="give --prompts=FILE.jsonl with prompt_ids"):
        program.calibrate(values_of(f"--target={pair[0]}", f"--draft={pair[1]}"))


def test_one_built_in_calibration_has_sixteen_prompts(seen):
    program.calibrate(values_of("--noprogress"))
    (_, draft, ids, length), settings = seen[0]
    assert draft is not None and ids.shape[0] == len(length) == 16
    assert settings["floor"] == "lossless"
