"""JSON files that hold one value, as data sets that are not JSON lines come."""

import json
from pathlib import Path
from typing import Any


def read_json(path: str | Path, kind: type) -> Any:
    """Return what a JSON file holds.

    Args:
      path: of the file, in UTF-8.
      kind: `list` or `dict`, what it must hold.

    Raises:
      ValueError: it is no JSON, or holds something else or nothing.
      OSError: the file cannot be read.
    """
    try:
        value = json.loads(Path(path).expanduser().read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    if not isinstance(value, kind) or not value:
        wanted = "a list with entries" if kind is list else "an object with keys"
        raise ValueError(f"{path}: {str(value)[:40]!r} is not {wanted}")
    return value


def read_entries(path: str | Path) -> list[tuple[str, dict[str, Any]]]:
    """Read a JSON list of objects, with what errors call each; entries count from 1.

    Raises:
      ValueError: it is something else; names file and entry.
      OSError: the file cannot be read.
    """
    entries = []
    for number, entry in enumerate(read_json(path, list), start=1):
        source = f"{path} entry {number}"
        if not isinstance(entry, dict):
            raise ValueError(f"{source}: {str(entry)[:40]!r} is not an object")
        entries.append((source, entry))
    return entries
