"""Reads the JSON files beside a tokenizer: special tokens, added tokens and switches."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mtad_jax.errors import one_line

_ROLES = ("bos_token", "eos_token", "unk_token", "pad_token")


class AddedToken(NamedTuple):
    """A token beyond the trained vocabulary, or a special one within it."""

    id: int
    text: str
    special: bool


@dataclasses.dataclass(frozen=True)
class TokenizerSettings:
    """What the JSON files beside the tokenizer say.

    Attributes:
      roles: special tokens by role (`bos_token` and so on); absent and null are different things.
      flags: the rest of `tokenizer_config.json`.
      added: tokens added to the vocabulary, by id.
      extra: further special tokens.
      model: `config.json`, overlaid with `generation_config.json`.
    """

    roles: dict[str, str | None]
    flags: dict[str, Any]
    added: list[AddedToken]
    extra: list[str]
    model: dict[str, Any]


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object; an absent file is an empty one.

    Raises:
      ValueError: the file is not JSON, or not an object.
    """
    try:
        return parse_json(path, path.read_bytes())
    except FileNotFoundError:
        return {}


def parse_json(path: Path, text: bytes) -> dict[str, Any]:
    """Parses the JSON object that `path` holds.

    Raises:
      ValueError: the text is not JSON, or not an object.
    """
    try:
        value = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON: {one_line(error)}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def _content(value: Any) -> str | None:
    """A token written as a string or as Hugging Face's {"content": ...}."""
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _contents(value: Any) -> list[str]:
    values = value.values() if isinstance(value, Mapping) else value or []
    found = [_content(item) for item in values] if isinstance(values, Iterable) else []
    return [token for token in found if token is not None]


def read_settings(folder: Path) -> TokenizerSettings:
    """Reads the configuration files of `folder`, each of which may be absent.

    Raises:
      ValueError: one of them is not a JSON object, or has entries of the wrong kind.
    """
    config = read_json(folder / "tokenizer_config.json")
    merged = read_json(folder / "special_tokens_map.json") | config
    roles = {role: _content(merged[role]) for role in _ROLES if role in merged}
    extra = _contents(merged.get("additional_special_tokens"))
    extra += _contents(merged.get("extra_special_tokens"))
    plain = read_json(folder / "added_tokens.json")
    try:
        added = _added_tokens(plain, config, {*roles.values(), *extra})
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ValueError(f"{folder}: malformed added tokens in its JSON files") from None
    model = read_json(folder / "config.json") | read_json(folder / "generation_config.json")
    return TokenizerSettings(roles, config, added, extra, model)


def _added_tokens(
    plain: Mapping[str, Any], config: Mapping[str, Any], special: set[str | None]
) -> list[AddedToken]:
    """Tokens of `added_tokens.json`, overlaid with those of the newer `added_tokens_decoder`."""
    added = {int(i): AddedToken(int(i), text, text in special) for text, i in plain.items()}
    for index, entry in (config.get("added_tokens_decoder") or {}).items():
        token = AddedToken(int(index), str(entry["content"]), entry.get("special") is True)
        added[token.id] = token
    if min(added, default=0) < 0:
        raise ValueError("negative id")
    return [added[index] for index in sorted(added)]
