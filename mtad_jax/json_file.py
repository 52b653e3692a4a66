"""JSON files of unknown origin: read as one object, whose settings a table checks."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtad_jax.errors import one_line


def read_object(file: Path) -> dict[str, Any] | None:
    """Return the JSON object that a file holds, None if there is no such file.

    Raises:
      ValueError: not JSON, not an object, or a key twice.
    """
    try:
        return parse_object(file, file.read_bytes())
    except FileNotFoundError:
        return None


def parse_object(file: Path | str, text: bytes) -> dict[str, Any]:
    """Return the JSON object of a file's text, or of a line of it; errors call it `file`.

    Raises:
      ValueError: as `read_object`.
    """
    try:
        data = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not valid JSON: {one_line(error)}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{file}: holds a {type(data).__name__}, not a JSON object")
    return data


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {twice!r} appears twice")
    return out


@dataclass(frozen=True)
class Required:
    """The default of a setting that must be there."""


REQUIRED = Required()


@dataclass(frozen=True)
class Field:
    """What one setting may be.

    Attributes:
      wanted: that, in words.
      fits: says whether a value is such.
      default: where the setting is absent; `REQUIRED`: it must be there.
      null: null is as good as absent.
    """

    wanted: str
    fits: Callable[[Any], bool]
    default: Any = REQUIRED
    null: bool = False


def whole(low: int, high: int, default: Any = REQUIRED, *, null: bool = False) -> Field:
    """A whole number; true and false are none."""
    return Field(
        f"a whole number from {low} to {high}",
        lambda value: type(value) is int and low <= value <= high,
        default,
        null,
    )


def number(low: float, high: float, default: Any = REQUIRED, *, null: bool = False) -> Field:
    """A finite number."""
    return Field(
        f"a number from {low:g} to {high:g}",
        lambda value: type(value) in (int, float) and low <= value <= high and math.isfinite(value),
        default,
        null,
    )


def switch(default: Any = REQUIRED, *, null: bool = False) -> Field:
    """True or false."""
    return Field("true or false", lambda value: isinstance(value, bool), default, null)


def choice(names: Sequence[str], default: Any = REQUIRED) -> Field:
    """One of some names."""
    wanted = f"one of {', '.join(names)}"
    return Field(wanted, lambda value: isinstance(value, str) and value in names, default)


def token_ids() -> Field:
    """A token id, or a list of them; absent or null: none."""

    def fits(value: Any) -> bool:
        ids = value if isinstance(value, list) else [value]
        return all(type(i) is int and 0 <= i < 1 << 31 for i in ids)

    return Field("a token id or a list of them", fits, None, null=True)


def read_fields(where: str, data: Mapping[str, Any], fields: Mapping[str, Field]) -> dict[str, Any]:
    """Return the settings of a table, each checked, with defaults where they are absent.

    Args:
      where: the file, for messages.
      data: the object; what the table lacks is left alone.
      fields: by name.

    Raises:
      ValueError: a setting is missing, of another type, or out of range.
    """
    out = {}
    for name, field in fields.items():
        value = data.get(name, field.default)
        if value is REQUIRED:
            raise ValueError(f"{where}: setting {name!r} is missing: it must be {field.wanted}")
        absent = name not in data or (value is None and field.null)
        if not absent and not field.fits(value):
            null = " or null" if field.null else ""
            raise ValueError(f"{where}: {name}={shown(value)} must be {field.wanted}{null}")
        out[name] = field.default if absent else value
    return out


def shown(value: Any) -> str:
    """Return a value as messages name it: as JSON has it, on one line, not too long."""
    try:
        text = json.dumps(value)
    except ValueError:  # a number of thousands of digits
        return f"a huge {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."
