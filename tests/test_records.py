"""Rows of runs as a frame."""

import json
import sys
from pathlib import Path

import pytest

pandas = pytest.importorskip("pandas")

from mtad_jax import records  # noqa: E402

ROWS = [
    {
        "task": "sql", "id": "a", "tokens": [5, 6], "stats": {"rounds": 2, "endings": {"depth": 1}},
        "scores": {"correct": 1.0}, "blocks": [[0, [5], [True]]], "joules": None,
    },
    {"task": "sql", "id": "b", "tokens": [], "stats": {"rounds": 1}, "scores": {}, "joules": 2.5},
]  # fmt: skip
HALF = '{"task": "sql", "id": "c", "tok'


def put(path: Path, rows, end="") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + end)
    return path


def test_nested_values_have_dotted_names_and_lists_stay(tmp_path):
    file = put(tmp_path / "out.jsonl", ROWS)
    put(tmp_path / "out.jsonl.settings.json", [{"seed": 3}])
    frame = records.read(file)
    assert list(frame["stats.rounds"]) == [2, 1] and frame["tokens"][0] == [5, 6]
    assert frame["stats.endings.depth"][0] == 1 and pandas.isna(frame["stats.endings.depth"][1])
    assert frame["scores.correct"][0] == 1.0 and pandas.isna(frame["scores.correct"][1])
    assert frame["blocks"][0] == [[0, [5], [True]]]
    assert not {"stats", "scores"} & set(frame.columns)
    assert frame["joules"].mean() == 2.5
    assert frame.attrs["settings"] == {"seed": 3}


def test_a_run_is_all_of_its_rows_and_nothing_else(tmp_path):
    put(tmp_path / "settings.json", [{"seed": 4}])
    put(tmp_path / "summary.json", [{"task": "no row"}])
    put(tmp_path / "sql" / "01-mtad tau=0.5.jsonl", ROWS[1:])
    put(tmp_path / "sql" / "00-sample.jsonl", ROWS[:1])
    put(tmp_path / "chat" / "00-sample.jsonl.partial", [{"id": "d"}], end=HALF)
    put(tmp_path / "chat" / "00-sample.answers.jsonl", [{"id": "no row"}])
    put(tmp_path / "chat" / "01-mtad.answers.jsonl.partial", [{"id": "no row"}])
    put(tmp_path / "sql" / "00-sample.jsonl.partial", [{"id": "of a run that replaces it"}])
    put(tmp_path / "chat" / "notes.jsonl", [{"id": "no row"}])
    frame = records.read(str(tmp_path))
    assert list(frame["id"]) == ["d", "a", "b"] and frame.attrs["settings"] == {"seed": 4}
    one = records.read(tmp_path / "chat" / "00-sample.jsonl.partial")
    assert list(one["id"]) == ["d"] and one.attrs["settings"] == {"seed": 4}


def test_a_run_that_has_no_rows_yet(tmp_path):
    put(tmp_path / "settings.json", [{"seed": 4}])
    assert records.read(tmp_path).empty
    with pytest.raises(ValueError, match=f"{tmp_path}/sql: no settings.json: give a run's folder"):
        (tmp_path / "sql").mkdir()
        records.read(tmp_path / "sql")


def test_a_partial_file_ends_with_its_last_whole_row(tmp_path):
    file = put(tmp_path / "out.jsonl.partial", ROWS, end=HALF)
    put(tmp_path / "out.jsonl.partial.settings.json", [{"seed": 5}])
    frame = records.read(file)
    assert list(frame["id"]) == ["a", "b"] and frame.attrs["settings"] == {"seed": 5}


def test_a_file_without_settings(tmp_path):
    put(tmp_path / "settings.json", ["of something else"])
    frame = records.read(put(tmp_path / "a" / "b.jsonl", ROWS))
    assert frame.attrs["settings"] is None and len(frame) == 2


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (HALF, "line 3: not valid JSON"),
        ("[1]\n", "line 3: holds a list, not a JSON object"),
        ("\n{}\nnull\n", "line 5: holds a NoneType"),
        ('{"a": 1, "a": 2}\n', "line 3: not valid JSON: key 'a' appears twice"),
        ("[" * 100_000 + "\n", "line 3: not valid JSON"),
    ],
)
def test_malformed_rows(end, message, tmp_path):
    file = put(tmp_path / "out.jsonl", ROWS, end)
    with pytest.raises(ValueError, match=f"^{file} {message}"):
        records.read(file)


def test_bytes_that_are_no_text(tmp_path):
    file = put(tmp_path / "out.jsonl.partial", ROWS)
    file.write_bytes(file.read_bytes() + b"\xff\n" + HALF.encode())
    with pytest.raises(ValueError, match=f"^{file} line 3: not valid JSON: 'utf-8'"):
        records.read(file)


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.jsonl"):
        records.read(tmp_path / "nowhere.jsonl")


def test_without_pandas(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ValueError, match=r"needs pandas: pip install '\.\[records\]'") as caught:
        records.read(tmp_path)
    assert "\n" not in str(caught.value)
