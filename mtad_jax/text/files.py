"""Reads tokenizer files into one plain form: an encode function and the bytes of every token.

Every kind of tokenizer that Llama and OPT folders hold turns tokens into text by joining bytes, so
a table from id to bytes is all that decoding needs; `mtad_jax.text.tokenizer` builds on that.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers as hf

from mtad_jax.errors import one_line
from mtad_jax.json_file import parse_object, read_object
from mtad_jax.text.added import AddedToken
from mtad_jax.text.settings import TokenizerSettings
from mtad_jax.text.token_bytes import SPACE, byte_piece, decoder_bytes

# Appended to a model, this protobuf message is merged into it: normalizer_spec (field 3) with
# add_dummy_prefix (field 3) false. The library has no setting for it.
_NO_DUMMY_PREFIX = b"\x1a\x02\x18\x00"
_ENTRY = ("content", *AddedToken._fields[1:-1])
# Names for a folder whose files name no start or end token.
_BOS_GUESSES = ("<s>", "<|begin_of_text|>", "<|endoftext|>")
_EOS_GUESSES = ("</s>", "<|end_of_text|>", "<|endoftext|>")
# How transformers' Qwen2Tokenizer, which Qwen 3 has as well, splits a text (`PRETOKENIZE_REGEX`).
_QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN_END = "<|endoftext|>"


@dataclasses.dataclass(frozen=True)
class Backend:
    """What one set of tokenizer files says.

    Attributes:
      encode: text to ids, literal special tokens recognised, no start token added.
      vocabulary: token to id, added tokens included.
      table: id to the bytes of its token.
      special: ids which `skip_special` leaves out of decoded text.
      strip: leading spaces that decoding drops at the start of a text (sentencepiece's dummy
        prefix).
      roles: `bos_token` and `eos_token` as far as these files, without the configuration, tell.
      adds_bos: whether these files ask for a start token in front of every text.
    """

    encode: Callable[[str], list[int]]
    vocabulary: dict[str, int]
    table: dict[int, bytes]
    special: frozenset[int]
    strip: int
    roles: dict[str, str | None]
    adds_bos: bool


def _named_ids(vocabulary: Mapping[str, int], settings: TokenizerSettings) -> set[int]:
    """Ids of every token that the configuration calls special."""
    ids = {vocabulary[token.text] for token in settings.named if token.text in vocabulary}
    return ids | {token.id for token in settings.added if token.special}


def read_sentencepiece(path: Path, settings: TokenizerSettings) -> Backend:
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
    vocabulary = _with_added(path, pieces, settings.added)
    table = {index: token.encode() for token, index in vocabulary.items()}
    for index, piece in enumerate(pieces):
        byte = byte_piece(piece) if model.is_byte(index) else None
        table[index] = byte or piece.replace(SPACE, " ").encode()
    marked = {i for i in range(len(pieces)) if model.is_control(i) or model.is_unknown(i)}
    literal = [AddedToken(pieces[index], special=True) for index in sorted(marked)]
    prefixed = [p for p in pieces if p[:1] == SPACE and p[1:2] not in ("", SPACE)]
    strips = any(not model.decode([vocabulary[p]]).startswith(" ") for p in prefixed[:1])
    bos, eos = model.bos_id(), model.eos_id()
    return Backend(
        encode=_sentencepiece_encode(model, bare, vocabulary, literal, settings),
        vocabulary=vocabulary,
        table=table,
        special=frozenset(marked | _named_ids(vocabulary, settings)),
        strip=int(strips),
        roles={
            "bos_token": pieces[bos] if bos >= 0 else None,
            "eos_token": pieces[eos] if eos >= 0 else None,
        },
        adds_bos=bos >= 0,
    )


def _with_added(path: Path, pieces: list[str], added: Iterable[AddedToken]) -> dict[str, int]:
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    for token in added:  # by id; a new one comes next, as the libraries number them
        if vocabulary.setdefault(token.text, len(vocabulary)) != token.id:
            raise ValueError(f"{path}: {_cannot_have(token)}")
    return vocabulary


def _cannot_have(token: AddedToken) -> str:
    """Says that a token's id is not the next one, or another's."""
    return (
        f"added token {token.text!r} cannot have id {token.id}: transformers numbers added tokens "
        "from the end of the vocabulary on: number them so, all in one file"
    )


def _sentencepiece_encode(
    model: Any,
    bare: Any,
    vocabulary: Mapping[str, int],
    literal: list[AddedToken],
    settings: TokenizerSettings,
) -> Callable[[str], list[int]]:
    """Sentencepiece's encoding with literal special tokens recognised, as Hugging Face does.

    A chat prompt of Llama 2 spells `</s><s>[INST]`; plain sentencepiece would spell it out.
    """
    # The library finds the tokens; all text between two of them is one unknown word to it.
    finder = hf.Tokenizer(hf.models.WordLevel({"": 0}, unk_token=""))
    finder.add_tokens([*map(_entry, _looked_for(settings, vocabulary, literal))])
    # Hugging Face's `legacy` puts a dummy prefix after every special token, not only at the start.
    after_special = bare if settings.flags.get("legacy") is False else model

    def encode(text: str) -> list[int]:
        found = finder.encode(text, add_special_tokens=False)
        ids: list[int] = []
        for index, (start, end) in zip(found.ids, found.offsets, strict=True):
            if index:
                ids.append(vocabulary[str(finder.id_to_token(index))])
            else:
                ids += (after_special if start else model).encode(text[start:end])
        return ids

    return encode


def _looked_for(
    settings: TokenizerSettings, vocabulary: Mapping[str, int], model: Iterable[AddedToken] = ()
) -> list[AddedToken]:
    """Tokens to look for in a text, each as the first says that has it: as in transformers.

    `model` are special tokens of the model file itself; a configuration's names do not change their
    flags. A special token that no id belongs to stays text: transformers would give it one that the
    model has no row for.
    """
    found: dict[str, AddedToken] = {}
    for token in [*settings.added, *model, *settings.named]:
        if token.id >= 0 or token.text in vocabulary:
            found.setdefault(token.text, token)
    return list(found.values())


def _entry(token: AddedToken) -> hf.AddedToken:
    given: dict[str, Any] = dict(zip(_ENTRY, token[:-1], strict=True))
    return hf.AddedToken(**given)


def read_tokenizer_json(path: Path, settings: TokenizerSettings) -> Backend:
    """Reads a Hugging Face `tokenizer.json`.

    Raises:
      ValueError: the library refuses the file, or its decoder does not join bytes.
    """
    text = path.read_bytes()
    spec = parse_object(path, text)
    try:
        tokenizer = hf.Tokenizer.from_buffer(text)
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"{path}: not a tokenizer: {one_line(error)}") from None
    # A prompt longer than the length saved in the file would lose its end without a word.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    entries = spec.get("added_tokens") or []
    own = [AddedToken(t["content"], t.get("special", False), id=t["id"]) for t in entries]
    taken = {token.id for token in own}
    if "added_tokens_decoder" not in settings.flags:  # an older file's token yields to this one's
        later = [token for token in settings.added if token.id not in taken]
        settings = dataclasses.replace(settings, added=later)
    added = own + _add_tokens(tokenizer, settings)
    backend = _from_library(path, tokenizer, added, spec.get("decoder"), settings)
    started = _template_start(spec.get("post_processor"))
    guesses = {
        "bos_token": started or _first(_BOS_GUESSES, backend.vocabulary),
        "eos_token": _first(_EOS_GUESSES, backend.vocabulary),
    }
    return dataclasses.replace(backend, roles=guesses, adds_bos=started is not None)


def read_vocab_and_merges(vocab: Path, merges: Path, settings: TokenizerSettings) -> Backend:
    """Reads the byte-level BPE files of GPT-2, OPT and Qwen, which do not say how text is split.

    Raises:
      ValueError: a file is missing or malformed, an added token's id is taken, or the tokenizer's
        class is none of theirs.
    """
    for path in (vocab, merges):
        if not path.is_file():
            raise ValueError(f"{path}: missing; vocab.json and merges.txt go together")
    words = read_object(vocab) or {}
    if not all(type(index) is int and index >= 0 for index in words.values()):
        raise ValueError(f"{vocab}: every value must be a token id")
    try:
        tokenizer = hf.Tokenizer(hf.models.BPE.from_file(str(vocab), str(merges)))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"{merges}: does not fit {vocab.name}: {one_line(error)}") from None
    qwen = _is_qwen(vocab, settings)
    prefix = settings.flags.get("add_prefix_space") is True
    letters = hf.pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=not qwen)
    if qwen:
        split = hf.pre_tokenizers.Split(hf.Regex(_QWEN_SPLIT), "isolated")
        tokenizer.normalizer = hf.normalizers.NFC()
        tokenizer.pre_tokenizer = hf.pre_tokenizers.Sequence([split, letters])
    else:
        tokenizer.pre_tokenizer = letters
    # OPT starts every text with </s>, which is its end token as well; metaseq's folder has no
    # configuration to say so, but ids 1 and 2 are its mark.
    marked = words.get("<pad>") == 1 and words.get("</s>") == 2
    opt = marked or settings.model.get("model_type") == "opt"
    bos_guesses = ("</s>",) if opt else _BOS_GUESSES
    guesses = {"bos_token": _first(bos_guesses, words), "eos_token": _first(_EOS_GUESSES, words)}
    roles = {**guesses, "pad_token": "<pad>"}
    if qwen:
        guesses = {"bos_token": None, "eos_token": _QWEN_END}
        roles = dict.fromkeys(("eos_token", "pad_token", "unk_token"), _QWEN_END)
    guessed = [
        AddedToken(t, special=True) for r, t in roles.items() if t and r not in settings.roles
    ]
    settings = dataclasses.replace(settings, named=settings.named + guessed)
    added = _add_tokens(tokenizer, settings)
    backend = _from_library(vocab, tokenizer, added, {"type": "ByteLevel"}, settings)
    return dataclasses.replace(backend, roles=guesses, adds_bos=opt)


def _is_qwen(path: Path, settings: TokenizerSettings) -> bool:
    """Whether transformers reads `vocab.json` and `merges.txt` as Qwen's, not as GPT-2's.

    Raises:
      ValueError: it reads them as neither's.
    """
    model = settings.model.get("model_type")
    named = settings.flags.get("tokenizer_class") or settings.model.get("tokenizer_class")
    kind = str(named).removesuffix("Fast") if named else None
    if model == "qwen2" or kind == "Qwen2Tokenizer":  # for Qwen 2 whatever class is named
        return True
    if kind not in (None, "GPT2Tokenizer"):
        raise ValueError(
            f"{path}: tokenizer_class={named!r} must be GPT2Tokenizer or Qwen2Tokenizer where "
            "there is no tokenizer.json: save tokenizer.json with the model's own library"
        )
    return kind is None and model == "qwen3"


def _add_tokens(tokenizer: hf.Tokenizer, settings: TokenizerSettings) -> list[AddedToken]:
    """Has the library recognise every special or added token spelled out in a text."""
    words = tokenizer.get_vocab(with_added_tokens=True)
    there = {repr(token) for token in tokenizer.get_added_tokens_decoder().values()}
    spelt = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    found = _looked_for(settings, words)
    tokenizer.add_tokens(
        [
            entry
            for token, entry in ((token, _entry(token)) for token in found)
            if repr(entry) not in there and (token.id >= 0 or token.text not in spelt)
        ]
    )
    return [t if t.id >= 0 else t._replace(id=words[t.text]) for t in found]


def _from_library(
    path: Path,
    tokenizer: hf.Tokenizer,
    added: list[AddedToken],
    decoder: Mapping[str, Any] | None,
    settings: TokenizerSettings,
) -> Backend:
    """Checks a tokenizer of the `tokenizers` library and fills in its table of bytes."""
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    if not vocabulary:
        raise ValueError(f"{path}: the vocabulary is empty")
    for token in added:
        if vocabulary.get(token.text) != token.id:
            # The library renumbers such a token without a word: no row of the model is its own.
            raise ValueError(f"{path}: {_cannot_have(token)}")
    to_bytes, strip, as_they_are = decoder_bytes(path, decoder)
    table = {index: to_bytes(token) for token, index in vocabulary.items()}
    if as_they_are:
        table |= {token.id: token.text.encode() for token in added}
    special = {token.id for token in added if token.special}
    return Backend(
        encode=lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
        vocabulary=vocabulary,
        table=table,
        special=frozenset(special | _named_ids(vocabulary, settings)),
        strip=strip,
        roles={},
        adds_bos=False,
    )


def _first(names: Iterable[str], vocabulary: Mapping[str, int]) -> str | None:
    return next((name for name in names if name in vocabulary), None)


def _template_start(processor: Mapping[str, Any] | None) -> str | None:
    """The special token that a post-processor puts in front of a text, if it does."""
    for step in (processor or {}).get("processors", [processor or {}]):
        first = next(iter(step.get("single") or []), {})
        if "SpecialToken" in first:
            return first["SpecialToken"]["id"]
    return None
