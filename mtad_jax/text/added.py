"""Tokens that are looked for in a text before it is split: special ones, and added ones.

Which they are, with what flags, and which file goes before which, is as in transformers 5
(`PreTrainedTokenizerBase._from_pretrained` and `TokenizersBackend.__init__`), so that ids are the
same.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

ROLES = (
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
)  # fmt: skip
_MORE = ("additional_special_tokens", "extra_special_tokens")
_FLAGS = ("lstrip", "rstrip", "single_word", "normalized")


class AddedToken(NamedTuple):
    """A token beyond the trained vocabulary, or a special one within it.

    Attributes:
      text: how it is spelt.
      special: whether decoding leaves it out.
      lstrip, rstrip: whether it takes in the white space before and after it.
      single_word: whether it is found only where no letter or digit touches it.
      normalized: whether it is looked for in the normalised text.
      id: its id; -1: that of the vocabulary.
    """

    text: str
    special: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False
    id: int = -1


def content_of(value: Any) -> str | None:
    """A token written as a string or as Hugging Face's {"content": ...}."""
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _token(value: Any, *, special: bool, index: int = -1) -> AddedToken:
    """Reads a token; by default a special one is looked for in the text as it is.

    Raises:
      ValueError: no token, or a flag is no boolean.
    """
    text, given = content_of(value), value if isinstance(value, Mapping) else {}
    flags = {name: given[name] for name in _FLAGS if name in given}
    if not text or any(type(flag) is not bool for flag in flags.values()) or index < -1:
        raise ValueError(f"{value} is no token")
    return AddedToken(text, special, id=index, **{"normalized": not special} | flags)


def named_tokens(config: Mapping[str, Any]) -> list[AddedToken]:
    """Special tokens that a configuration names, each once; those it leaves null are none.

    Raises:
      ValueError: one has a flag that is no boolean.
    """
    found: dict[str, AddedToken] = {}
    for value in [*(config.get(role) for role in ROLES), *_further(config)]:
        if content_of(value):
            token = _token(value, special=True)
            found.setdefault(token.text, token)
    return list(found.values())


def _further(config: Mapping[str, Any]) -> list[Any]:
    found = []
    for name in _MORE:
        value = config.get(name) or []
        values = value.values() if isinstance(value, Mapping) else value
        found += list(values) if isinstance(values, Iterable) else []
    return found


def tokens_by_id(config: Mapping[str, Any]) -> list[AddedToken]:
    """Tokens of `added_tokens_decoder`, by id.

    Raises:
      ValueError, TypeError, KeyError, AttributeError: it is no table of tokens.
    """
    table = config["added_tokens_decoder"] or {}
    found = {
        int(i): _token(entry, special=entry.get("special") is True, index=int(i))
        for i, entry in table.items()
    }
    if min(found, default=0) < 0:
        raise ValueError("negative id")
    return [found[index] for index in sorted(found)]


def older_tokens(plain: Mapping[str, Any], config: Mapping[str, Any]) -> list[AddedToken]:
    """Tokens of `added_tokens.json`, by id; special are those that the configuration names.

    Raises:
      ValueError, TypeError: it is no table of ids.
    """
    special = {token.text for token in named_tokens(config)}
    # In transformers the older list of special tokens comes too late to change this.
    raw = {content_of(config.get(role)) for role in ROLES}
    raw |= {content_of(value) for value in config.get("extra_special_tokens") or []}
    found = [
        AddedToken(text, text in special, normalized=text not in raw, id=int(index))
        for text, index in plain.items()
    ]
    if any(token.id < 0 for token in found):
        raise ValueError("negative id")
    return sorted(found, key=lambda token: token.id)
