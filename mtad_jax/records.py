"""Rows of runs as a flat pandas frame; docs/records.md says what is in them.

from mtad_jax import records

frame = records.read("runs/evaluate")
frame.groupby(["task", "strategy"])["stats.rounds"].mean()
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtad_jax.errors import install_hint
from mtad_jax.json_file import parse_object, read_object

if TYPE_CHECKING:
    import pandas

SETTINGS = "settings.json"
_PARTIAL = ".partial"
_ROWS = "*/[0-9][0-9]*-*.jsonl"


def partial_of(path: str | Path) -> Path:
    """Return where the rows of a file are until it is complete."""
    path = Path(path)
    return path.with_name(path.name + _PARTIAL)


def settings_of(path: str | Path) -> Path:
    """Return the file that says what the rows of a file, partial or not, were made with."""
    path = Path(path)
    return path.with_name(f"{path.name}.{SETTINGS}")


def read(path: str | Path) -> pandas.DataFrame:
    """Read a run's rows, a line a row.

    What is nested has dotted names (`stats.rounds`, `scores.correct`); lists stay lists. What a row
    lacks is missing there (NaN). `frame.attrs["settings"]` is what the rows were made with, None
    where no file says so.

    Args:
      path: a folder of `experiments.evaluate`, or one file of rows of this project. Of a run that
        is not complete the rows that are there: its `.partial` file may be given too, and the last
        line of one, if only half written, is left out.

    Raises:
      ValueError: a malformed row, naming file and line; a folder of something else; pandas is not
        installed.
      OSError: a file cannot be read.
    """
    try:
        import pandas
    except ImportError as error:
        raise ValueError(
            f"mtad_jax.records.read needs pandas: {install_hint('records')}"
        ) from error
    path = Path(path).expanduser()
    if path.is_dir():
        settings = read_object(path / SETTINGS)
        if settings is None:
            raise ValueError(f"{path}: no {SETTINGS}: give a run's folder or a file of rows")
        files = _row_files(path)
    else:
        files, settings = [path], read_object(settings_of(path))
        if settings is None and _whole_of(path).match(_ROWS):  # one file of a run's folder
            settings = read_object(path.absolute().parent.parent / SETTINGS)
    frame = pandas.json_normalize([row for file in files for row in _read_rows(file)])
    frame.attrs["settings"] = settings
    return frame


def _row_files(folder: Path) -> list[Path]:
    """Return a run's files of rows in order, partial ones where they are not complete."""
    whole = set(folder.glob(_ROWS))
    begun = whole | {_whole_of(file) for file in folder.glob(_ROWS + _PARTIAL)}
    rows = sorted(file for file in begun if not file.name.endswith(".answers.jsonl"))
    return [file if file in whole else partial_of(file) for file in rows]


def _whole_of(file: Path) -> Path:
    """Return the file that a partial one becomes; a whole one is itself."""
    return file.with_name(file.name.removesuffix(_PARTIAL))


def _read_rows(file: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON-lines file.

    Raises:
      ValueError: a line is none, naming file and line.
      OSError: it cannot be read.
    """
    *lines, rest = file.read_bytes().split(b"\n")
    if not file.name.endswith(_PARTIAL):
        lines.append(rest)
    return [
        parse_object(f"{file} line {number}", line)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
