"""What a report needs of a run's rows, and that they have it; `docs/records.md` has all keys."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from experiments.bench.summary import Row
from mtad_jax.json_file import Field, number, read_fields, whole

_MOST = 1 << 53


def _lists(what: str, fits: Callable[[Any], bool], **absent: Any) -> Field:
    return Field(
        f"a list of {what}",
        lambda value: isinstance(value, list) and all(map(fits, value)),
        **absent,
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MOST


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_block(value: Any) -> bool:
    whole_numbers = isinstance(value, list) and all(map(_is_count, value))
    return whole_numbers and len(value) in (3, 4) and value[2] <= value[1]


_TEXT = Field("a text", _is_text)
_SECONDS = number(0, math.inf)
_ROW = {
    "task": _TEXT,
    "strategy": _TEXT,
    "id": Field("a text or a whole number", lambda value: isinstance(value, str | int)),
    "turn": whole(0, _MOST),
    "sample": whole(0, _MOST),
    "prompt": _TEXT,
    "text": _TEXT,
    "tokens": _lists("token ids", _is_count),
    "logp_raw": _lists("numbers or null", lambda value: value is None or _is_number(value)),
    "stats": Field("an object", lambda value: isinstance(value, dict)),
    "blocks": _lists("[start, tokens, accepted, drafted]", _is_block),
    "scores": Field(
        "an object of numbers",
        lambda value: (
            isinstance(value, dict) and all(x is None or _is_number(x) for x in value.values())
        ),
    ),
    "batch": whole(0, _MOST, None, null=True),
    "prefill_seconds": _SECONDS,
    "decode_seconds": _SECONDS,
    "joules": number(0, math.inf, None, null=True),
    "pieces": _lists("texts, one a token", _is_text, default=None, null=True),
}
"""What a report needs of a row; the others are not kept."""
FACTS = {
    "task": _TEXT,
    "strategy": _TEXT,
    "compile_seconds": number(0, math.inf, None, null=True),
    "peak_memory_bytes": number(0, math.inf, None, null=True),
    "joules_source": Field("a text", _is_text, None, null=True),
}
"""What it needs of an entry of `summary.json`: what rows cannot say."""
_STATS = {
    **{name: whole(0, _MOST) for name in ("rounds", "accepted", "drafted")},
    "accepted_at": _lists("counts", _is_count),
}


def check_row(source: str, row: Mapping[str, Any]) -> Row:
    """Return what the report needs of a row.

    Raises:
      ValueError: something is missing or of another kind; names file and line.
    """
    checked = read_fields(source, row, _ROW)
    checked["stats"] = read_fields(f"{source}: stats", checked["stats"], _STATS)
    count = len(checked["tokens"])
    if len(checked["logp_raw"]) != count:
        raise ValueError(f"{source}: {len(checked['logp_raw'])} logp_raw of {count} tokens")
    if sum(block[1] for block in checked["blocks"]) != count:
        raise ValueError(f"{source}: blocks do not add up to its {count} tokens")
    return checked
