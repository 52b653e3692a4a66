"""Reads the JSON files beside a tokenizer: special tokens, added tokens and switches."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mtad_jax.json_file import Field, read_fields, read_object, switch

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


def _content(value: Any) -> str | None:
    """A token written as a string or as Hugging Face's {"content": ...}."""
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _contents(value: Any) -> list[str]:
    values = value.values() if isinstance(value, Mapping) else value or []
    found = [_content(item) for item in values] if isinstance(values, Iterable) else []
    return [token for token in found if token is not None]


def _is_token(value: Any) -> bool:
    return isinstance(value.get("content") if isinstance(value, Mapping) else value, str)


def _are_tokens(value: Any) -> bool:
    values = value.values() if isinstance(value, Mapping) else value
    return isinstance(value, list | Mapping) and all(map(_is_token, values))


def _is_decoder(value: Any) -> bool:
    if not isinstance(value, Mapping) or not all(map(str.isdecimal, value)):
        return False
    return all(isinstance(entry, Mapping) and _is_token(entry) for entry in value.values())


_TOKEN = Field('a token, as a string or as {"content": ...},', _is_token, None, null=True)
_TOKENS = Field("a list of tokens", _are_tokens, None, null=True)
_MAYBE = switch(None, null=True)

SPECIAL_FIELDS: Mapping[str, Field] = {
    **dict.fromkeys(_ROLES, _TOKEN),
    "additional_special_tokens": _TOKENS,
    "extra_special_tokens": _TOKENS,
}
"""Settings of `special_tokens_map.json`."""

TOKENIZER_FIELDS: Mapping[str, Field] = {
    **SPECIAL_FIELDS,
    **dict.fromkeys(("add_bos_token", "add_prefix_space", "legacy"), _MAYBE),
    "added_tokens_decoder": Field('{id: {"content": token}, ...}', _is_decoder, None, null=True),
}
"""Settings of `tokenizer_config.json`."""


def _read(path: Path, fields: Mapping[str, Field]) -> dict[str, Any]:
    """Reads a JSON object with checked settings; an absent file is an empty one."""
    data = read_object(path) or {}
    read_fields(str(path), data, fields)
    return data


def read_settings(folder: Path) -> TokenizerSettings:
    """Reads the configuration files of `folder`, each of which may be absent.

    Raises:
      ValueError: one of them is not a JSON object, or has entries of the wrong kind.
    """
    config = _read(folder / "tokenizer_config.json", TOKENIZER_FIELDS)
    merged = _read(folder / "special_tokens_map.json", SPECIAL_FIELDS) | config
    roles = {role: _content(merged[role]) for role in _ROLES if role in merged}
    extra = _contents(merged.get("additional_special_tokens"))
    extra += _contents(merged.get("extra_special_tokens"))
    plain = _read(folder / "added_tokens.json", {})
    try:
        added = _added_tokens(plain, config, {*roles.values(), *extra})
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ValueError(f"{folder}: malformed added tokens in its JSON files") from None
    model = _read(folder / "config.json", {}) | _read(folder / "generation_config.json", {})
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
