"""Folders that `experiments.evaluate` has written, read back and checked."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.bench.summary import Answer, Facts, Problems, Row, by_problem, summarize
from experiments.reporting.schema import FACTS, check_row
from experiments.tasks.base import read_rows
from mtad_jax.errors import one_line
from mtad_jax.json_file import read_fields, read_object

PARTIAL = ".partial"


@dataclasses.dataclass(frozen=True)
class Entry:
    """What one strategy did on one task of one run.

    Attributes:
      run: name of the run.
      rows: in the order of the file.
      problems: what is counted of them.
      complete: False for the rows of a run that was cut short, or goes on.
      summary: its entry of `summary.json`, made anew from the rows.
    """

    run: str
    rows: Sequence[Row]
    problems: Problems
    complete: bool
    summary: Mapping[str, Any]

    @property
    def task(self) -> str:
        """Name of the task."""
        return self.summary["task"]

    @property
    def strategy(self) -> str:
        """Label of the strategy."""
        return self.summary["strategy"]


@dataclasses.dataclass(frozen=True)
class Run:
    """A run's folder.

    Attributes:
      name: of the folder; as it was given where two have one name.
      settings: its `settings.json`.
      entries: by task, in the order of the strategies.
      complete: whether it has come to its end.
    """

    name: str
    settings: Mapping[str, Any]
    entries: Sequence[Entry]
    complete: bool


def read_runs(paths: Sequence[str]) -> list[Run]:
    """Read the folders of some runs.

    Raises:
      ValueError: one is no run's folder, has no rows, or a row that cannot be used.
      OSError: one cannot be read.
    """
    folders = [Path(path).expanduser().resolve() for path in paths]
    names = [folder.name for folder in folders]
    for i, folder in enumerate(folders):
        if folder in folders[:i]:
            raise ValueError(f"{paths[i]}: given twice: leave one out")
    return [
        read_run(path, name if names.count(name) == 1 else path)
        for path, name in zip(paths, names, strict=True)
    ]


def read_run(path: str, name: str) -> Run:
    """Read a run's folder.

    Raises:
      ValueError: it is none, has no rows, or a row that cannot be used.
      OSError: it cannot be read.
    """
    folder = Path(path).expanduser()
    if not folder.exists():
        raise FileNotFoundError(f"{path}: no such folder: give one that evaluate has written")
    settings = read_object(folder / "settings.json") if folder.is_dir() else None
    if settings is None:
        raise ValueError(f"{path}: no settings.json in it: give a folder that evaluate has written")
    summary = folder / "summary.json"
    facts, entries = _facts(summary), []
    for task in sorted(item for item in folder.iterdir() if item.is_dir()):
        entries += _read_task(name, task, facts, _energy_source(settings))
    if not entries:
        raise ValueError(f"{path}: no rows in it: let experiments.evaluate write some first")
    complete = summary.is_file() and all(entry.complete for entry in entries)
    return Run(name, settings, entries, complete)


def _energy_source(settings: Mapping[str, Any]) -> str | None:
    """Return what the run's energy was read from, or why it was not."""
    energy = settings.get("energy")
    found = (energy.get("source") or energy.get("reason")) if isinstance(energy, dict) else None
    return None if found is None else str(found)


def _read_task(
    run: str, folder: Path, facts: Mapping[tuple[str, str], Facts], energy: str | None
) -> list[Entry]:
    """Return what the strategies did on one task."""
    found = _read_files(folder)
    rows = {label: rows for label, (rows, _) in found.items()}
    known = {
        label: facts.get((rows[0]["task"], label), Facts(joules_source=energy))
        for label, (rows, _) in found.items()
    }
    return [
        Entry(
            run=run,
            rows=rows[label],
            problems=by_problem([Answer.of(row) for row in rows[label]]),
            complete=found[label][1],
            summary=summary,
        )
        for label, summary in zip(found, summarize(rows, known), strict=True)
    ]


def _read_files(folder: Path) -> dict[str, tuple[list[Row], bool]]:
    """Return the rows of each strategy, with whether they are all."""
    found: dict[str, tuple[list[Row], bool]] = {}
    files = sorted([*folder.glob("*.jsonl"), *folder.glob("*.jsonl" + PARTIAL)])
    for file in files:
        complete = file.suffix != PARTIAL
        stem = file.name.removesuffix(PARTIAL).removesuffix(".jsonl")
        if stem.endswith(".answers") or (not complete and file.with_suffix("") in files):
            continue
        if not complete and b"\n" not in file.read_bytes():
            continue  # killed before its first row
        rows = [check_row(source, row) for source, row in read_rows(file, whole=complete)]
        _check_together(file, rows, found)
        found[rows[0]["strategy"]] = rows, complete
    return found


def _check_together(file: Path, rows: Sequence[Row], found: Mapping[str, Any]) -> None:
    """Check that a file's rows are one strategy's answers to one task, each once."""
    seen = set()
    for row in rows:
        for key in ("task", "strategy"):
            if row[key] != rows[0][key]:
                raise ValueError(f"{file}: rows of {key} {rows[0][key]!r} and of {row[key]!r}")
        answer = tuple(str(row[key]) for key in ("id", "turn", "sample"))
        if answer in seen:
            raise ValueError(f"{file}: two rows of id, turn and sample {', '.join(answer)}")
        seen.add(answer)
    if rows[0]["strategy"] in found:
        raise ValueError(f"{file}: another file there is of strategy {rows[0]['strategy']!r} too")


def _facts(file: Path) -> dict[tuple[str, str], Facts]:
    """Return what `summary.json` has that rows have not, by task and strategy; {} without one."""
    try:
        entries = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not JSON: {one_line(error)}") from error
    if not (isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)):
        raise ValueError(f"{file}: not a list of objects, so no summary of a run")
    found = {}
    for i, entry in enumerate(entries):
        known = read_fields(f"{file}: entry {i}", entry, FACTS)
        of = known.pop("task"), known.pop("strategy")
        found[of] = Facts(**known)
    return found
