"""Reads tokenizer files into one plain form: an encode function and the bytes of every token.

Every kind of tokenizer that Llama and OPT folders hold turns tokens into text by joining bytes, so
a table from id to bytes is all that decoding needs; `mtad_jax.tokenizers` builds on that.
"""

import dataclasses
import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers as hf

_SPACE = "\u2581"  # how sentencepiece spells a space inside a piece
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
# Appended to a model, this protobuf message is merged into it: normalizer_spec (field 3) with
# add_dummy_prefix (field 3) false. The library has no setting for it.
_NO_DUMMY_PREFIX = b"\x1a\x02\x18\x00"
_ROLES = ("bos_token", "eos_token", "unk_token", "pad_token")
_BOS_GUESSES = ("<s>", "<|begin_of_text|>", "<|endoftext|>")
_EOS_GUESSES = ("</s>", "<|end_of_text|>", "<|endoftext|>")


@dataclasses.dataclass(frozen=True)
class Backend:
    """What one set of tokenizer files says.

    Attributes:
      encode: text to ids, literal special tokens recognised, no start token added.
      vocabulary: token to id, added tokens included.
      table: bytes of every id; empty where the id names no token.
      special: ids which `skip_special` leaves out of decoded text.
      strip: leading spaces that decoding drops at the start of a text (sentencepiece's dummy
        prefix).
      roles: `bos_token` and `eos_token` as far as these files, without the configuration, tell.
      adds_bos: whether these files ask for a start token in front of every text.
    """

    encode: Callable[[str], list[int]]
    vocabulary: dict[str, int]
    table: list[bytes]
    special: frozenset[int]
    strip: int
    roles: dict[str, str | None]
    adds_bos: bool


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the JSON files beside the tokenizer say.

    Attributes:
      roles: special tokens by role (`bos_token` and so on); absent and null are different things.
      flags: the rest of `tokenizer_config.json`.
      added: (id, token, special) of tokens added to the vocabulary.
      extra: further special tokens.
      model: `config.json`, overlaid with `generation_config.json`.
    """

    roles: dict[str, str | None]
    flags: dict[str, Any]
    added: list[tuple[int, str, bool]]
    extra: list[str]
    model: dict[str, Any]


def one_line(error: BaseException) -> str:
    """An exception's message on one line, without its trailing punctuation."""
    return " ".join(str(error).split()) or type(error).__name__


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object; an absent file is an empty one.

    Raises:
      ValueError: the file is not JSON, or not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
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


def read_settings(folder: Path) -> Settings:
    """Reads the configuration files of `folder`, each of which may be absent.

    Raises:
      ValueError: one of them is not a JSON object, or has entries of the wrong kind.
    """
    config_path = folder / "tokenizer_config.json"
    config = read_json(config_path)
    merged = read_json(folder / "special_tokens_map.json") | config
    roles = {role: _content(merged[role]) for role in _ROLES if role in merged}
    extra = _contents(merged.get("additional_special_tokens"))
    extra += _contents(merged.get("extra_special_tokens"))
    added = {}
    try:
        for token, index in read_json(folder / "added_tokens.json").items():
            added[int(index)] = (int(index), token, token in [*roles.values(), *extra])
        for index, entry in (config.get("added_tokens_decoder") or {}).items():
            added[int(index)] = (int(index), str(entry["content"]), bool(entry.get("special")))
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ValueError(f"{config_path}: malformed list of added tokens") from None
    model = read_json(folder / "config.json") | read_json(folder / "generation_config.json")
    return Settings(roles, config, [added[index] for index in sorted(added)], extra, model)


def _table(vocabulary: Mapping[str, int], to_bytes: Callable[[str], bytes]) -> list[bytes]:
    table = [b""] * (max(vocabulary.values()) + 1)
    for token, index in vocabulary.items():
        table[index] = to_bytes(token)
    return table


def _special_ids(vocabulary: Mapping[str, int], settings: Settings) -> set[int]:
    named = [*settings.roles.values(), *settings.extra]
    ids = {vocabulary[token] for token in named if token in vocabulary}
    return ids | {index for index, token, special in settings.added if special}


def read_sentencepiece(path: Path, settings: Settings) -> Backend:
    """Reads a sentencepiece `tokenizer.model`.

    Raises:
      ValueError: the file is no sentencepiece model, or an added token's id is taken.
    """
    proto = path.read_bytes()
    try:
        if not proto:
            raise ValueError("the file is empty")
        model = sentencepiece.SentencePieceProcessor(model_proto=proto)
        bare = sentencepiece.SentencePieceProcessor(model_proto=proto + _NO_DUMMY_PREFIX)
    except Exception as error:  # the library raises several kinds, RuntimeError among them
        hint = " (Llama 3's file of this name is another format: use its tokenizer.json)"
        raise ValueError(f"{path}: not a sentencepiece model: {one_line(error)}{hint}") from None
    pieces = [model.id_to_piece(index) for index in range(model.vocab_size())]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    marked = {i for i in range(len(pieces)) if model.is_control(i) or model.is_unknown(i)}
    literal = {pieces[index] for index in marked}
    for index, token, _ in settings.added:
        if vocabulary.setdefault(token, index) != index or pieces[index : index + 1] not in (
            [],
            [token],
        ):
            raise ValueError(f"{path}: added token {token!r} cannot have id {index}")
        literal.add(token)
    table = _table(vocabulary, lambda piece: _piece_bytes(piece))
    for index in range(len(pieces)):
        if not model.is_byte(index) and _BYTE.fullmatch(pieces[index]):
            table[index] = pieces[index].encode()
    prefixed = [p for p in pieces if p[:1] == _SPACE and p[1:2] not in ("", _SPACE)]
    strips = any(not model.decode([vocabulary[p]]).startswith(" ") for p in prefixed[:1])
    return Backend(
        encode=_sentencepiece_encode(model, bare, vocabulary, literal, settings),
        vocabulary=vocabulary,
        table=table,
        special=frozenset(marked | _special_ids(vocabulary, settings)),
        strip=int(strips),
        roles={
            "bos_token": pieces[model.bos_id()] if model.bos_id() >= 0 else None,
            "eos_token": pieces[model.eos_id()] if model.eos_id() >= 0 else None,
        },
        adds_bos=model.bos_id() >= 0,
    )


def _piece_bytes(piece: str) -> bytes:
    byte = _BYTE.fullmatch(piece)
    return bytes([int(byte[1], 16)]) if byte else piece.replace(_SPACE, " ").encode()


def _sentencepiece_encode(
    model: Any,
    bare: Any,
    vocabulary: Mapping[str, int],
    literal: set[str],
    settings: Settings,
) -> Callable[[str], list[int]]:
    """Sentencepiece's encoding with literal special tokens recognised, as Hugging Face does.

    A chat prompt of Llama 2 spells `</s><s>[INST]`; plain sentencepiece would spell it out.
    """
    split = re.compile("|".join(map(re.escape, sorted(literal, key=len, reverse=True))) or "(?!)")
    # Hugging Face's `legacy` puts a dummy prefix after every special token, not only at the start.
    after_special = model if settings.flags.get("legacy") is not False else bare

    def encode(text: str) -> list[int]:
        ids: list[int] = []
        start, segment = 0, model
        for match in split.finditer(text):
            ids += segment.encode(text[start : match.start()])
            ids.append(vocabulary[match[0]])
            start, segment = match.end(), after_special
        return ids + segment.encode(text[start:])

    return encode


def read_tokenizer_json(path: Path, settings: Settings) -> Backend:
    """Reads a Hugging Face `tokenizer.json`.

    Raises:
      ValueError: the library refuses the file, or its decoder does not join bytes.
    """
    spec = read_json(path)
    try:
        tokenizer = hf.Tokenizer.from_str(json.dumps(spec))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"{path}: not a tokenizer: {one_line(error)}") from None
    # A prompt longer than the length saved in the file would lose its end without a word.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    added = [(t["id"], t["content"], t["special"]) for t in spec.get("added_tokens") or []]
    started = _template_start(spec.get("post_processor"))
    backend = _from_library(path, tokenizer, added, spec.get("decoder"), settings)
    guesses = {
        "bos_token": started or _first(_BOS_GUESSES, backend.vocabulary),
        "eos_token": _first(_EOS_GUESSES, backend.vocabulary),
    }
    return dataclasses.replace(backend, roles=guesses, adds_bos=started is not None)


def read_vocab_and_merges(vocab: Path, merges: Path, settings: Settings) -> Backend:
    """Reads the byte-level BPE files of GPT-2 and OPT.

    Raises:
      ValueError: a file is missing or malformed, or an added token's id is taken.
    """
    for path in (vocab, merges):
        if not path.is_file():
            raise ValueError(f"{path}: missing; vocab.json and merges.txt go together")
    words = read_json(vocab)
    if not all(type(index) is int and index >= 0 for index in words.values()):
        raise ValueError(f"{vocab}: every value must be a token id")
    try:
        tokenizer = hf.Tokenizer(hf.models.BPE.from_file(str(vocab), str(merges)))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"{merges}: does not fit {vocab.name}: {one_line(error)}") from None
    prefix = settings.flags.get("add_prefix_space") is True
    tokenizer.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    # OPT starts every text with </s>, which is its end token as well; metaseq's folder has no
    # configuration to say so, but ids 1 and 2 are its mark.
    opt = settings.model.get("model_type") == "opt" or (
        words.get("<pad>") == 1 and words.get("</s>") == 2
    )
    both = "</s>" if opt else _first(_EOS_GUESSES, words)
    guesses = {"bos_token": both, "eos_token": both}
    roles: dict[str, str | None] = {**guesses, "pad_token": "<pad>"} | settings.roles
    settings = dataclasses.replace(settings, roles=roles)
    fresh = {token for _, token, _ in settings.added}
    special = [t for t in [*roles.values(), *settings.extra] if t in words and t not in fresh]
    added = [(words[token], token, True) for token in dict.fromkeys(special) if token is not None]
    for index, token, is_special in [*added, *settings.added]:
        entry = hf.AddedToken(token, normalized=False, special=is_special)
        tokenizer.add_special_tokens([entry]) if is_special else tokenizer.add_tokens([entry])
        if tokenizer.token_to_id(token) != index:
            raise ValueError(f"{vocab}: added token {token!r} cannot have id {index}")
    decoder = {"type": "ByteLevel"}
    backend = _from_library(vocab, tokenizer, [*added, *settings.added], decoder, settings)
    return dataclasses.replace(backend, roles=guesses, adds_bos=opt)


def _first(names: Iterable[str], vocabulary: Mapping[str, int]) -> str | None:
    return next((name for name in names if name in vocabulary), None)


def _from_library(
    path: Path,
    tokenizer: hf.Tokenizer,
    added: list[tuple[int, str, bool]],
    decoder: Mapping[str, Any] | None,
    settings: Settings,
) -> Backend:
    """Checks a tokenizer of the `tokenizers` library and fills in its table of bytes."""
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    if not vocabulary:
        raise ValueError(f"{path}: the vocabulary is empty")
    for index, token, _ in added:
        if vocabulary.get(token) != index:
            # The library renumbers such a token without a word, and the model would never see it.
            raise ValueError(f"{path}: added token {token!r} cannot have id {index}")
    to_bytes, strip = _decoder_bytes(path, decoder)
    table = _table(vocabulary, to_bytes)
    for index, token, _ in added:
        table[index] = token.encode()
    special = {index for index, _, is_special in added if is_special}
    return Backend(
        encode=lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
        vocabulary=vocabulary,
        table=table,
        special=frozenset(special | _special_ids(vocabulary, settings)),
        strip=strip,
        roles={},
        adds_bos=False,
    )


@functools.cache
def _byte_letters() -> dict[str, int]:
    """GPT-2's alphabet: a printable letter for each of the 256 bytes."""
    kept = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in kept]
    return {chr(b): b for b in kept} | {chr(256 + i): b for i, b in enumerate(others)}


def _letters_to_bytes(token: str) -> bytes:
    letters = _byte_letters()
    try:
        return bytes(letters[letter] for letter in token)
    except KeyError:
        return token.encode()


def _decoder_bytes(
    path: Path, decoder: Mapping[str, Any] | None
) -> tuple[Callable[[str], bytes], int]:
    """Reads a decoder as token to bytes, and how many leading spaces it drops."""
    if decoder is None:  # the library then joins tokens with spaces
        return (lambda token: b" " + token.encode()), 1
    steps = decoder.get("decoders", []) if decoder.get("type") == "Sequence" else [decoder]
    replaced: list[tuple[str, str]] = []
    kinds = [step.get("type") for step in steps]
    strip = 0
    for step, kind in zip(steps, kinds, strict=True):
        pattern = (step.get("pattern") or {}).get("String")
        if kind == "Replace" and pattern:
            replaced.append((pattern, str(step.get("content", ""))))
        elif kind == "Metaspace":
            replaced.append((step.get("replacement", _SPACE), " "))
            strip += step.get("prepend_scheme", "always") != "never"
        elif kind == "Strip" and step.get("content") == " " and not step.get("stop"):
            strip += int(step.get("start", 0))
        elif kind not in ("ByteLevel", "ByteFallback", "Fuse"):
            raise ValueError(f"{path}: decoder {kind} is not supported: it does not join bytes")
    if "ByteLevel" in kinds:
        return _letters_to_bytes, strip

    def to_bytes(token: str) -> bytes:
        byte = _BYTE.fullmatch(token) if "ByteFallback" in kinds else None
        if byte:
            return bytes([int(byte[1], 16)])
        for old, new in replaced:
            token = token.replace(old, new)
        return token.encode()

    return to_bytes, strip


def _template_start(processor: Mapping[str, Any] | None) -> str | None:
    """The special token that a post-processor puts in front of a text, if it does."""
    if not processor:
        return None
    for step in processor.get("processors", [processor]):
        for item in step.get("single") or []:
            if "SpecialToken" not in item:
                break
            return item["SpecialToken"]["id"]
    return None
