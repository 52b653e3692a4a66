"""Prompts of a run, checked whole before anything is compiled."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any

from mtad_jax.decode.checks import check_positions
from mtad_jax.decode.protocols import Strategy
from mtad_jax.pipeline import Pipeline

ID_KEYS = ("id", "question_id", "task_id")
"""Keys of a prompt row that its output row repeats, for joining the two."""


@dataclass(frozen=True)
class Prompt:
    """One prompt and where it came from.

    Attributes:
      value: text, or token ids.
      source: what error messages call it, e.g. "prompts.jsonl line 3".
      keys: those of `ID_KEYS` that its row has.
      seed: its own, whatever stands beside it; None: the run's.
    """

    value: str | list[int]
    source: str
    keys: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None


def read_prompts(path: str | Path) -> list[Prompt]:
    """Read a JSON-lines file of rows with `prompt` (text) or `prompt_ids`; blank lines are skipped.

    A row may have its own `seed`, and those of `ID_KEYS`.

    Raises:
      ValueError: a row cannot be used, naming its line; no rows.
      OSError: the file cannot be read.
    """
    prompts = []
    # By bytes, so that a line that is not UTF-8 has a number.
    for number, line in enumerate(Path(path).read_bytes().split(b"\n"), start=1):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line.strip():
            prompts.append(_parse_row(line, f"{path} line {number}"))
    if not prompts:
        raise ValueError(f"{path}: no prompts: give rows such as " + '{"prompt": "Once upon"}')
    return prompts


def _parse_row(line: bytes, source: str) -> Prompt:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{source}: not UTF-8: {error.reason}") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{source}: not JSON: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"{source}: {line[:40].decode(errors='replace')!r} is not an object")
    present = [key for key in ("prompt", "prompt_ids") if key in row]
    if len(present) != 1:
        found = "both prompt and prompt_ids" if present else "neither prompt nor prompt_ids"
        raise ValueError(f"{source}: {found}: give one of them")
    value = row[present[0]]
    if present == ["prompt"]:
        if not isinstance(value, str):
            raise ValueError(f"{source}: prompt={str(value)[:40]!r} is not a string")
    elif not isinstance(value, list) or any(type(item) is not int for item in value):
        raise ValueError(f"{source}: prompt_ids must be a list of integers")
    seed = row.get("seed")
    if type(seed) not in (int, NoneType):
        raise ValueError(f"{source}: seed={str(seed)[:40]} must be an integer")
    return Prompt(value, source, {key: row[key] for key in ID_KEYS if key in row}, seed)


def encode_prompts(
    pipe: Pipeline, prompts: list[Prompt], *, strategy: Strategy, max_new_tokens: int
) -> list[list[int]]:
    """Return every prompt's token ids.

    Raises:
      ValueError: a prompt is empty, too long for either model, or has ids out of range; names it.
    """
    draft = pipe.draft.lm if pipe.draft and strategy.needs_draft else None
    encoded = []
    for prompt in prompts:
        try:
            ids = _encode(pipe, prompt.value)
            check_positions(pipe.target.lm, draft, len(ids), max_new_tokens, strategy.lookahead)
        except ValueError as error:
            raise ValueError(f"{prompt.source}: {error}") from error
        encoded.append(ids)
    return encoded


def _encode(pipe: Pipeline, value: str | list[int]) -> list[int]:
    if not value:
        start = pipe.target.bos_id
        alone = "" if start is None else f", or prompt_ids {start} for the start token alone"
        raise ValueError(f"the prompt is empty: give text{alone}")
    ids = pipe.encode(value)
    vocab = pipe.target.lm.vocab_size
    bad = next((i for i in ids if not 0 <= i < vocab), None)
    if bad is not None:
        raise ValueError(f"the prompt holds id {bad}, outside [0, {vocab - 1}]")
    return ids
