"""The settings beside a file of rows: there when it is, and such that a killed run can go on."""

import errno
import json
import os
from pathlib import Path

import pytest

from experiments.rows.output import NoWriter, RowWriter

CONFIG = {"tau": 0.5, "sizes": (4, 2)}


def facts(digest="a", **more):
    models = {"target": {"digest": digest, "dtype": "float32", "path": "x"}, "draft": None}
    return {"command": "first", "models": models} | more


def writer(path, config=CONFIG, told=None, **how):
    found = RowWriter(path, config, **how)
    if told is not None:
        found.describe(told)
    return found


def cut_short(path, *args, **how):
    """A run that is stopped after its first row."""
    with pytest.raises(KeyboardInterrupt), writer(path, *args, **how) as rows:
        rows.write([{"id": rows.count}])
        raise KeyboardInterrupt


def read(path: Path):
    return json.loads(path.read_text())


def test_the_settings_come_with_the_rows_and_replace_older_ones(tmp_path):
    out, final = tmp_path / "out.jsonl", tmp_path / "out.jsonl.settings.json"
    with writer(out, told=facts()) as rows:
        rows.write([{"id": 0}])
        assert sorted(os.listdir(tmp_path)) == [
            "out.jsonl.partial", "out.jsonl.partial.settings.json"
        ]  # fmt: skip
    assert sorted(os.listdir(tmp_path)) == ["out.jsonl", "out.jsonl.settings.json"]
    assert read(final) == facts() | {"config": {"tau": 0.5, "sizes": [4, 2]}}
    cut_short(out, {"tau": 0.9}, told=facts(), overwrite=True)
    assert read(final)["config"]["tau"] == 0.5  # of the rows that are still there
    with writer(out, {"tau": 0.9}, told=facts(), overwrite=True) as rows:
        rows.write([{"id": 0}])
    assert read(final)["config"] == {"tau": 0.9}
    with writer(out, overwrite=True) as rows:  # a run that is not described leaves none
        rows.write([{"id": 0}])
    assert os.listdir(tmp_path) == ["out.jsonl"]


def test_a_run_goes_on_with_what_its_rows_depend_on(tmp_path):
    out = tmp_path / "out.jsonl"
    config = CONFIG | {"batch_size": 1}
    cut_short(out, config, told=facts(), free=["batch_size"])
    again = {"free": ["batch_size"], "resume": True}
    with pytest.raises(ValueError, match="made with tau=0.5, not 0.6: .*--overwrite"):
        writer(out, config | {"tau": 0.6}, **again).check()
    with pytest.raises(ValueError, match="made with sizes=.4, 2., not None"):
        writer(out, {"tau": 0.5, "batch_size": 1}, **again).check()
    with pytest.raises(ValueError, match="made with target's digest=a, not b"):
        writer(out, config, facts("b"), **again).__enter__()
    later = facts(command="second", seed=1)
    with writer(out, config | {"batch_size": 2}, later, **again) as rows:
        assert rows.count == 1
    record = read(tmp_path / "out.jsonl.settings.json")
    assert record["config"]["batch_size"] == 1 and record["command"] == "first"
    assert record["resumed"] == [{"command": "second", "seed": 1}]


@pytest.mark.parametrize("damage", [None, "{", "[]", '{"tau": 0.5}'])
def test_rows_of_unknown_settings_are_not_gone_on_from(tmp_path, damage):
    out, sidecar = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial.settings.json"
    cut_short(out)
    sidecar.unlink() if damage is None else sidecar.write_text(damage)
    with pytest.raises(
        ValueError, match="settings.json: cannot be read, so nobody can .*: use --overwrite"
    ):
        writer(out, resume=True).check()


def test_a_kill_between_the_last_two_steps(tmp_path, monkeypatch):
    """The settings have their name, the rows not yet: the same command goes on and ends."""
    out = tmp_path / "out.jsonl"

    class Killed(BaseException):
        pass

    replace = Path.replace

    def killed(self, target):
        if Path(target) == out:
            raise Killed
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(Killed), writer(out, told=facts()) as rows:
            rows.write([{"id": 0}])
    assert not out.exists()
    with writer(out, told=facts(), resume=True) as rows:
        assert rows.count == 1
    assert sorted(os.listdir(tmp_path)) == ["out.jsonl", "out.jsonl.settings.json"]


def test_a_disk_that_is_full_at_the_end_keeps_the_rows(tmp_path, monkeypatch):
    out = tmp_path / "out.jsonl"

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="out.jsonl.partial: No space left.*make room"):
        with writer(out, told=facts()) as rows:
            rows.write([{"id": 0}])
            monkeypatch.setattr(os, "fsync", full)
    monkeypatch.undo()
    with writer(out, told=facts(), resume=True) as rows:
        assert rows.count == 1
    assert sorted(os.listdir(tmp_path)) == ["out.jsonl", "out.jsonl.settings.json"]


def test_who_does_not_write_rows_writes_no_settings(tmp_path):
    rows = NoWriter(tmp_path / "out.jsonl", CONFIG)
    rows.describe(facts())
    with rows:
        rows.write([{"id": 0}])
    assert rows.count == 1 and not os.listdir(tmp_path)
