"""The folder of a run: settings once, a file of rows a task and rule, and a summary.

A run that was stopped at any moment goes on by the same command: what is complete stays, the file
in work goes on after its last whole batch.
"""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtad_jax.checkpoints.atomic import new_file

SETTINGS, SUMMARY = "settings.json", "summary.json"
_COMPARED = ("config", "problems", "rules", "models", "device")
"""Keys of the settings on which rows depend: a run goes on only where they are the same."""
_ON_DEVICE = ("platform", "kind", "count")
"""Of the device; a machine that comes back may have another processor and other cores."""
_NOTED = ("command", "versions", "git", "device")
"""What a run that goes on may have otherwise, and then writes down."""


class RunFolder:
    """A run's folder; nothing is written before `begin`.

    Attributes:
      path: the folder.
      settings: as `settings.json` holds them; of a run that goes on those that it began with, and
        what was otherwise each time, in `resumed`.
      overwrite: whether an earlier run in it is dropped.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any], *, overwrite: bool = False):
        """Says what the run is.

        Args:
          path: the folder.
          settings: as `settings.json` holds them.
          overwrite: drop an earlier run in it.
        """
        self.path = Path(path)
        self.settings = json.loads(json.dumps(settings))  # as it reads back
        self.overwrite = overwrite

    def check(self) -> bool:
        """Return whether an earlier run's rows are there to go on from.

        Raises:
          ValueError: the folder holds something else, or a run of other settings; says what
            differs.
        """
        if not self.path.exists():
            return False
        if not self.path.is_dir():
            raise ValueError(f"{self.path}: --output is a file: give a folder")
        if self.overwrite or not self._items():
            self._check_ours()
            return False
        before = self._before()
        for key in _COMPARED:
            old_and_new = (_compared(settings, key) for settings in (before, self.settings))
            for name, old, new in _differences(key, *old_and_new):
                raise ValueError(
                    f"{self.path}: a run with {name}={old}, not {new}: give another --output, or "
                    "--overwrite to start again"
                )
        news = {k: self.settings.get(k) for k in _NOTED if before.get(k) != self.settings.get(k)}
        if news:
            before = {**before, "resumed": [*before.get("resumed", []), news]}
        self.settings = before
        return True

    def begin(self) -> None:
        """Make the folder and its settings, or leave those of a run that goes on.

        Raises:
          ValueError: as `check`.
          OSError: it cannot be written.
        """
        if not self.check() and self.path.exists():
            # The settings last: without them nobody would know that this is a run.
            for item in sorted(self.path.iterdir(), key=lambda item: item.name == SETTINGS):
                shutil.rmtree(item) if item.is_dir() and not item.is_symlink() else item.unlink()
        self.path.mkdir(parents=True, exist_ok=True)
        self._write(SETTINGS, self.settings)

    def rows(self, task: str, number: int, label: str) -> Path:
        """Return the file of one task and rule."""
        name = re.sub(r"[^A-Za-z0-9.=,_-]+", "-", label).strip("-")[:100]
        return self.path / task / f"{number:02d}-{name}.jsonl"

    def write_summary(self, summary: list[dict[str, Any]]) -> None:
        """Write what the rows say, in place of what was there."""
        self._write(SUMMARY, summary)

    def _write(self, name: str, value: Any) -> None:
        with new_file(self.path / name, overwrite=True) as path:
            path.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")

    def _before(self) -> dict[str, Any]:
        file = self.path / SETTINGS
        try:
            return json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{self.path}: not empty, and no run in it: {SETTINGS} cannot be read: give "
                "another --output"
            ) from error

    def _check_ours(self) -> None:
        """Refuse to drop a folder that no run has written."""
        if self._items():
            self._before()

    def _items(self) -> list[Path]:
        """Return what is in the folder but settings that were cut short while they were written."""
        return [x for x in self.path.iterdir() if not x.match(f".{SETTINGS}.*.partial")]


def _compared(settings: Mapping[str, Any], key: str) -> Any:
    """Return what must be the same of a key."""
    value = settings.get(key)
    if key == "device" and value:
        return {k: value.get(k) for k in _ON_DEVICE}
    if key == "models" and value:  # how a folder was called is in `config`, what it holds a digest
        return {k: model and model | {"path": None} for k, model in value.items()}
    return value


def _differences(name: str, old: Any, new: Any) -> list[tuple[str, Any, Any]]:
    """Return what differs, by its full name."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for key in sorted({*old, *new}):
            found += _differences(f"{name}.{key}", old.get(key), new.get(key))
        return found
    return [] if old == new else [(name, old, new)]
