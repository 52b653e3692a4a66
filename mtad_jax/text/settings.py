"""Reads the JSON files beside a tokenizer: special tokens, added tokens and switches."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtad_jax.json_file import Field, read_fields, read_object, switch
from mtad_jax.text.added import (
    ROLES,
    AddedToken,
    content_of,
    named_tokens,
    older_tokens,
    tokens_by_id,
)
from mtad_jax.text.chat import is_template


@dataclasses.dataclass(frozen=True)
class TokenizerSettings:
    """What the JSON files beside the tokenizer say.

    Attributes:
      roles: special tokens by role (`bos_token` and so on); absent and null are different things.
      flags: the rest of `tokenizer_config.json`.
      added: tokens added to the vocabulary, by id.
      named: the special tokens of `roles` and further ones, as they are looked for in a text.
      model: `config.json`, overlaid with `generation_config.json`.
    """

    roles: dict[str, str | None]
    flags: dict[str, Any]
    added: list[AddedToken]
    named: list[AddedToken]
    model: dict[str, Any]


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
_TEMPLATE = Field(
    'a text, or a list of {"name": ..., "template": ...},', is_template, None, null=True
)

SPECIAL_FIELDS: Mapping[str, Field] = {
    **dict.fromkeys(ROLES, _TOKEN),
    "additional_special_tokens": _TOKENS,
    "extra_special_tokens": _TOKENS,
}
"""Settings of `special_tokens_map.json`."""

TOKENIZER_FIELDS: Mapping[str, Field] = {
    **SPECIAL_FIELDS,
    **dict.fromkeys(("add_bos_token", "add_prefix_space", "legacy"), _MAYBE),
    "chat_template": _TEMPLATE,
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
    # As transformers: `added_tokens_decoder` goes before the two older files, which then say
    # nothing.
    special = _read(folder / "special_tokens_map.json", SPECIAL_FIELDS)
    newer = "added_tokens_decoder" in config
    merged = config if newer else config | special
    roles = {role: content_of(merged[role]) for role in ROLES if role in merged}
    older = _read(folder / "added_tokens.json", {})
    try:
        added = tokens_by_id(config) if newer else older_tokens(older, merged)
        named = named_tokens(merged)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ValueError(f"{folder}: malformed added tokens in its JSON files") from None
    model = _read(folder / "config.json", {}) | _read(folder / "generation_config.json", {})
    return TokenizerSettings(roles, config, added, named, model)
