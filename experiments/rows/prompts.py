"""Prompts of a run, checked whole before anything is compiled."""

import json
import math
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any, cast

from experiments.flags.models import INT8_FLAGS
from experiments.flags.settings import setting_flags
from mtad_jax.decode.checks import check_positions
from mtad_jax.decode.protocols import Strategy
from mtad_jax.pipeline import Pipeline
from mtad_jax.text.chat import ChatTemplate, check_messages

Messages = list[dict[str, Any]]
"""A conversation: `{"role": ..., "content": ...}` each."""

_MODEL_FLAGS = ("target", "draft", *INT8_FLAGS)  # as keys of a row these are its own business
# What other programs call such settings.
_FOREIGN = (
    "max_tokens", "max_length", "min_tokens", "min_length", "stop_strings", "stop_sequences",
    "do_sample", "num_beams", "num_return_sequences", "eos_token_id", "bad_words_ids",
    "presence_penalty", "frequency_penalty", "logit_bias",
)  # fmt: skip


@dataclass(frozen=True)
class Prompt:
    """One prompt and where it came from.

    Attributes:
      value: text, or token ids, or a conversation.
      source: what error messages call it, e.g. "prompts.jsonl line 3".
      keys: what else its row has; its output row repeats them, for joining the two.
      seed: its own, whatever stands beside it; None: the run's.
    """

    value: str | list[int] | Messages
    source: str
    keys: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None


def read_prompts(path: str | Path, *, chat: bool = False) -> list[Prompt]:
    """Read a JSON-lines file of rows with `prompt` (text) or `prompt_ids`; blank lines are skipped.

    With `chat` a row has `prompt`, what a user says, or `messages`, a conversation.

    A row may have its own `seed`, and keys of its user's. A key that names another setting of a run
    is refused: nothing would honour it.

    Raises:
      ValueError: a row cannot be used, naming its line; no rows.
      OSError: the file cannot be read.
    """
    prompts, refused = [], _setting_keys()
    # By bytes, so that a line that is not UTF-8 has a number.
    for number, line in enumerate(Path(path).read_bytes().split(b"\n"), start=1):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line.strip():
            prompts.append(_parse_row(line, f"{path} line {number}", refused, chat))
    if not prompts:
        raise ValueError(f"{path}: no prompts: give rows such as " + '{"prompt": "Once upon"}')
    return prompts


def read_unseeded(path: str | Path, why: str) -> list[Prompt]:
    """Read a file of prompts whose rows may have no seed; `why` ends the error of one that has.

    Raises:
      ValueError: as `read_prompts`; a row has a seed.
      OSError: the file cannot be read.
    """
    prompts = read_prompts(path)
    for prompt in prompts:
        if prompt.seed is not None:
            raise ValueError(f"{prompt.source}: seed={prompt.seed}: {why}: leave it out")
    return prompts


def _setting_keys() -> frozenset[str]:
    """Return the keys that name a setting of the whole run."""
    return frozenset([*setting_flags(), *_FOREIGN]) - {"seed", *_MODEL_FLAGS}


def _parse_row(line: bytes, source: str, refused: Collection[str], chat: bool) -> Prompt:
    row = _parse_json(line, source)
    value = _pop_value(row, source, chat)
    seed = row.pop("seed", None)
    if type(seed) not in (int, NoneType):
        raise ValueError(f"{source}: seed={str(seed)[:40]} must be an integer")
    for key in row:
        if key in refused:
            raise ValueError(
                f"{source}: {key}={str(row[key])[:40]} is a setting of the whole run, not of a "
                "row (a row may have its own seed): give it as a flag, or rename the key"
            )
    return Prompt(value, source, row, seed)


def _pop_value(row: dict[str, Any], source: str, chat: bool) -> str | list[int] | Messages:
    """Take the prompt out of a row.

    Raises:
      ValueError: none or several, or not of its kind.
    """
    kinds = ("prompt", "messages") if chat else ("prompt", "prompt_ids")
    present = [key for key in ("prompt", "prompt_ids", "messages") if key in row]
    if len(present) != 1:
        found = f"both {' and '.join(present)}" if present else f"neither {' nor '.join(kinds)}"
        raise ValueError(f"{source}: {found}: give one of them")
    [kind] = present
    value = row.pop(kind)
    if kind not in kinds:
        cure = (
            "--chat makes token ids of text: give prompt or messages, or leave --chat out"
            if chat
            else "a conversation is for --chat of experiments.generate: give that, or prompt or "
            "prompt_ids"
        )
        raise ValueError(f"{source}: {kind}: {cure}")
    if kind == "messages":
        try:
            return check_messages(value)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from None
    if kind == "prompt":
        if not isinstance(value, str):
            raise ValueError(f"{source}: prompt={str(value)[:40]!r} is not a string")
    elif not isinstance(value, list) or any(type(item) is not int for item in value):
        raise ValueError(f"{source}: prompt_ids must be a list of integers")
    return value


def _parse_json(line: bytes, source: str) -> dict[str, Any]:
    """Return the object on a line, with nothing in it that an output row could not repeat.

    Raises:
      ValueError: no JSON, no object, or a number that is not finite or too long.
    """
    try:
        row = json.loads(line.decode("utf-8"), parse_constant=_finite, parse_float=_finite)
    except UnicodeDecodeError as error:
        raise ValueError(f"{source}: not UTF-8: {error.reason}") from error
    except (ValueError, RecursionError) as error:  # of a long integer Python says how long
        raise ValueError(f"{source}: not JSON: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"{source}: {line[:40].decode(errors='replace')!r} is not an object")
    return row


def _finite(text: str) -> float:
    """Return a number of a row.

    Raises:
      ValueError: it is not finite, and JSON has no other numbers.
    """
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is not a finite number: give null or a string")
    return value


def encode_prompts(
    pipe: Pipeline,
    prompts: list[Prompt],
    *,
    strategy: Strategy,
    max_new_tokens: int,
    chat_template: ChatTemplate | None = None,
) -> list[list[int]]:
    """Return every prompt's token ids; of conversations by this template or the target's own.

    Raises:
      ValueError: a prompt is empty, too long for either model, or has ids out of range, or a
        template refuses it; names it.
    """
    draft = pipe.draft.lm if pipe.draft and strategy.needs_draft else None
    encoded = []
    for prompt in prompts:
        try:
            ids = _encode(pipe, prompt.value, chat_template)
            check_positions(pipe.target.lm, draft, len(ids), max_new_tokens, strategy.lookahead)
        except ValueError as error:
            raise ValueError(f"{prompt.source}: {error}") from error
        encoded.append(ids)
    return encoded


def prompt_text(
    pipe: Pipeline, prompt: Prompt, chat_template: ChatTemplate | None = None
) -> str | None:
    """Return the text that is continued, a conversation by its template; None of token ids."""
    if isinstance(prompt.value, str):
        return prompt.value
    if prompt.value and isinstance(prompt.value[0], dict):
        return pipe.render(cast(Messages, prompt.value), chat_template=chat_template)
    return None


def _encode(
    pipe: Pipeline, value: str | list[int] | Messages, chat_template: ChatTemplate | None
) -> list[int]:
    if not value:
        start = pipe.target.bos_id
        alone = "" if start is None else f", or prompt_ids {start} for the start token alone"
        raise ValueError(f"the prompt is empty: give text{alone}")
    if isinstance(value[0], dict):
        return pipe.encode_chat(cast(Messages, value), chat_template=chat_template)
    return pipe.encode(cast(str | list[int], value))
