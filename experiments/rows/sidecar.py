"""What the rows of a file were made with, beside them: `FILE.settings.json` of docs/records.md.

The rows of a run that is not done are in `FILE.partial`, and their settings beside that, by the
same rule. A run that goes on after them must have the same.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from mtad_jax.checkpoints.atomic import new_file
from mtad_jax.json_file import read_object
from mtad_jax.records import partial_of, settings_of


class Sidecar:
    """The settings of one file of rows.

    Attributes:
      partial: where they are until the file is complete.
      final: where they are then.
    """

    def __init__(self, path: Path, config: Mapping[str, Any], free: Collection[str], anew: str):
        """Says what the rows of `path` are made with; nothing is written yet.

        Args:
          path: the final file of rows.
          config: all that the rows depend on, as JSON can hold it.
          free: names of it that a run which goes on may have otherwise.
          anew: what an error advises where a run cannot go on.
        """
        self.partial, self.final = settings_of(partial_of(path)), settings_of(path)
        self._record = _as_read({"config": config})
        self._free, self._anew, self._described = frozenset(free), anew, False
        self._before: dict[str, Any] | None = None

    def describe(self, facts: Mapping[str, Any]) -> None:
        """Say what there is to know of the run; then its settings stay beside its rows."""
        self._record = _as_read({**self._record, **facts})
        self._described = True

    def check_same(self) -> None:
        """Check that the rows which are there were made with the same.

        Raises:
          ValueError: they were not, naming the first difference, or nobody knows.
        """
        try:
            record = read_object(self.partial)
        except (OSError, ValueError):
            record = None
        if record is None or not isinstance(record.get("config"), dict):
            raise ValueError(
                f"{self.partial}: cannot be read, so nobody can tell what the rows were made with: "
                f"{self._anew}"
            )
        before, now = record["config"], self._record["config"]
        if self._described:  # before, the models are not known
            before, now = before | _of_models(record), now | _of_models(self._record)
        for name in {**before, **now}:
            if before.get(name) != now.get(name) and name not in self._free:
                raise ValueError(
                    f"{self.partial}: the rows were made with {name}={before.get(name)}, not "
                    f"{now.get(name)}: give the same flags to --resume, or --overwrite to start "
                    "again"
                )
        self._before = record

    def begin(self) -> None:
        """Write what the rows are made with from now on.

        Raises:
          OSError: it cannot be written.
        """
        record = self._record
        if self._before is not None:
            old, record = self._before, dict(self._before)
            new = {k: v for k, v in self._record.items() if k != "config" and old.get(k) != v}
            if new:
                record["resumed"] = [*old.get("resumed", []), new]
        with new_file(self.partial, overwrite=True) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

    def keep(self) -> None:
        """Put the settings where they belong once the rows are complete, if they are to stay.

        Those of the partial file stay, so that a run which is killed before the rows have their
        name can still be gone on from.

        Raises:
          OSError: they cannot be written.
        """
        if self._described:
            with new_file(self.final, overwrite=True) as temporary:
                temporary.write_bytes(self.partial.read_bytes())
        else:  # those of a run that is replaced
            self.final.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the settings of the partial file, which is there no more."""
        self.partial.unlink(missing_ok=True)


def _as_read(record: dict[str, Any]) -> dict[str, Any]:
    """Return what JSON makes of a record: tuples are lists."""
    return json.loads(json.dumps(record, allow_nan=False))


def _of_models(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what rows depend on of the models; they may lie in other folders."""
    return {
        f"{name}'s {what}": (model or {}).get(what)
        for name, model in (record.get("models") or {}).items()
        for what in ("digest", "dtype")
    }
