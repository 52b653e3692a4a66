"""The tokenizer of a GGUF file, as the files that Hugging Face folders hold.

Byte-level BPE ("gpt2") becomes a `tokenizer.json`. What sentencepiece made ("llama") becomes a
`tokenizer.model` again, since only its own library encodes by scores exactly.

Source: llama.cpp's `llama-vocab.cpp`, and the published `tokenizer.json` of the models named.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tokenizers as hf

from checkpoints_convert.gguf_file import GGUFFile
from checkpoints_convert.gguf_splits import SPLITS, Split
from checkpoints_convert.sentencepiece_file import CONTROL, UNKNOWN, USER_DEFINED, model_proto
from mtad_jax.errors import one_line
from mtad_jax.json_file import REQUIRED, Field, choice, read_fields, switch, whole
from mtad_jax.text.added import ROLES

_GGML = "tokenizer.ggml."
_ROLE_IDS = {
    "bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding",
}  # fmt: skip
"""What GGUF calls those of `ROLES` that a Llama has."""
_ENDS = ("eos", "eot", "eom")  # any of them ends a text


def tokenizer_files(file: GGUFFile, rows: int) -> dict[str, bytes]:
    """Return the tokenizer's files by name; none where the file says that it has no tokenizer.

    Args:
      file: the opened file.
      rows: of the embedding, at least as many as there are tokens.

    Raises:
      ValueError: a kind of tokenizer that is not supported, or one that contradicts itself.
    """
    kind = _one(file, "model", choice((*_MAKERS, *_NO_TOKENIZER), "none"))
    if kind in _NO_TOKENIZER:
        return {}
    vocabulary = _read_vocabulary(file, rows, kind)
    name, data = _MAKERS[kind](file, vocabulary)
    return {
        name: data,
        "tokenizer_config.json": _json(_config(file, vocabulary, sentencepiece=kind == "llama")),
        "generation_config.json": _json(special_ids(file, rows)),
    }


def special_ids(file: GGUFFile, rows: int) -> dict[str, Any]:
    """Return the start token's id and those of the end tokens, as `config.json` names them.

    Raises:
      ValueError: one is no row of the embedding.
    """
    bos, *ends = _ids(file, ("bos", *_ENDS), rows)
    ends = list(dict.fromkeys(index for index in ends if index is not None))
    return {"bos_token_id": bos, "eos_token_id": ends[0] if len(ends) == 1 else ends or None}


def _one(file: GGUFFile, name: str, field: Field) -> Any:
    """Return one setting of the tokenizer, checked."""
    return read_fields(str(file.path), file.metadata, {f"{_GGML}{name}": field})[f"{_GGML}{name}"]


def _ids(file: GGUFFile, names: Sequence[str], count: int) -> list[int | None]:
    fields = {f"{_GGML}{name}_token_id": whole(0, count - 1, None) for name in names}
    return list(read_fields(str(file.path), file.metadata, fields).values())


class _Vocabulary(NamedTuple):
    """What all kinds of tokenizers have.

    Attributes:
      tokens: by id.
      types: of each, by the numbers of sentencepiece.
      roles: token by role, of those that the file names.
      adds_bos, adds_eos: whether a text gets a start and an end token.
      adds_space: whether sentencepiece puts a space in front of a text.
      pre: how a byte-level one splits a text.
    """

    tokens: list[str]
    types: list[int]
    roles: dict[str, str]
    adds_bos: bool
    adds_eos: bool
    adds_space: bool
    pre: Split


def _list_of(kind: type, wanted: str, default: Any = REQUIRED) -> Field:
    def fits(value: Any) -> bool:
        return isinstance(value, list) and all(type(item) is kind for item in value)

    return Field(f"a list of {wanted}", fits, default)


def _read_vocabulary(file: GGUFFile, rows: int, kind: str) -> _Vocabulary:
    where, pre = str(file.path), Split(starts=True)  # as llama.cpp where the file does not say
    if kind == "gpt2":
        pre = SPLITS[_one(file, "pre", choice(tuple(SPLITS)))]
    found = read_fields(
        where,
        file.metadata,
        {
            f"{_GGML}tokens": _list_of(str, "texts"),
            f"{_GGML}token_type": _list_of(int, "types"),
            f"{_GGML}add_bos_token": switch(pre.starts),
            f"{_GGML}add_eos_token": switch(False),
            f"{_GGML}add_space_prefix": switch(True),
        },
    )
    tokens, types, adds_bos, adds_eos, adds_space = found.values()
    if len(types) != len(tokens):
        raise ValueError(f"{where}: {len(types)} types of {len(tokens)} tokens")
    if not 0 < len(tokens) <= rows:
        raise ValueError(f"{where}: {len(tokens)} tokens, but the embedding has {rows} rows")
    ids = {token: index for index, token in enumerate(tokens)}
    if len(ids) < len(tokens):
        twice = next(token for index, token in enumerate(tokens) if ids[token] != index)
        raise ValueError(f"{where}: token {twice!r} is there twice")
    by_role = zip(_ROLE_IDS, _ids(file, list(_ROLE_IDS.values()), len(tokens)), strict=True)
    roles = {role: tokens[index] for role, index in by_role if index is not None}
    adds_bos, adds_eos = adds_bos and "bos_token" in roles, adds_eos and "eos_token" in roles
    return _Vocabulary(tokens, types, roles, adds_bos, adds_eos, adds_space, pre)


def _byte_level(file: GGUFFile, vocabulary: _Vocabulary) -> tuple[str, bytes]:
    """Return a `tokenizer.json` of a byte-level BPE."""
    where, pre = f"{file.path}: {_GGML}merges", vocabulary.pre
    merges = [tuple(each.split(" ")) for each in _one(file, "merges", _list_of(str, "texts"))]
    for merge in merges:
        if len(merge) != 2:
            raise ValueError(f"{where}: {' '.join(merge)!r} is no pair of tokens")
    ids = {token: index for index, token in enumerate(vocabulary.tokens)}
    try:
        tokenizer = hf.Tokenizer(hf.models.BPE(ids, merges, ignore_merges=pre.whole))
        tokenizer.post_processor = _template(vocabulary, ids)
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"{where}: {one_line(error)}") from error
    tokenizer.pre_tokenizer = hf.pre_tokenizers.Sequence(pre.splitters())
    tokenizer.decoder = hf.decoders.ByteLevel()
    tokenizer.add_tokens(_whole_tokens(vocabulary))
    return "tokenizer.json", tokenizer.to_str(pretty=True).encode()


def _whole_tokens(vocabulary: _Vocabulary) -> list[hf.AddedToken]:
    """Return the tokens that are found in a text before it is split."""
    special = set(vocabulary.roles.values())
    return [
        hf.AddedToken(token, special=kind != USER_DEFINED or token in special, normalized=False)
        for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True)
        if kind in (UNKNOWN, CONTROL, USER_DEFINED) or token in special
    ]


def _template(vocabulary: _Vocabulary, ids: Mapping[str, int]) -> Any:
    """Return what puts the start and the end token at a text, where the file asks for them."""
    start = [vocabulary.roles["bos_token"]] if vocabulary.adds_bos else []
    end = [vocabulary.roles["eos_token"]] if vocabulary.adds_eos else []
    single = " ".join([*start, "$A", *end])
    used = sorted({(token, ids[token]) for token in start + end})
    return hf.processors.TemplateProcessing(single=single, special_tokens=used)


def _sentencepiece(file: GGUFFile, vocabulary: _Vocabulary) -> tuple[str, bytes]:
    """Return a `tokenizer.model` of sentencepiece."""
    charsmap = f"{_GGML}precompiled_charsmap"
    if file.metadata.get(charsmap):
        raise ValueError(f"{file.path}: {charsmap} is not supported: texts are taken as they are")
    scores = _one(file, "scores", _list_of(float, "numbers"))
    if len(scores) != len(vocabulary.tokens):
        raise ValueError(f"{file.path}: {len(scores)} scores of {len(vocabulary.tokens)} tokens")
    pieces: Sequence[tuple[str, float, int]] = list(
        zip(vocabulary.tokens, scores, vocabulary.types, strict=True)
    )
    try:
        data = model_proto(pieces, vocabulary.roles, adds_space=vocabulary.adds_space)
    except ValueError as error:
        raise ValueError(f"{file.path}: {error}") from error
    return "tokenizer.model", data


_NO_TOKENIZER = ("none", "no_vocab")
_MAKERS = {"gpt2": _byte_level, "llama": _sentencepiece}


def _config(file: GGUFFile, vocabulary: _Vocabulary, *, sentencepiece: bool) -> dict[str, Any]:
    """Return the `tokenizer_config.json`, with the chat templates."""
    config: dict[str, Any] = {
        "tokenizer_class": "LlamaTokenizer" if sentencepiece else "PreTrainedTokenizerFast",
        "add_bos_token": vocabulary.adds_bos,
        "add_eos_token": vocabulary.adds_eos,
        "clean_up_tokenization_spaces": False,
        **{role: vocabulary.roles.get(role) for role in ROLES},
    }
    if sentencepiece:
        config["legacy"] = True  # as llama.cpp: a space after every special token
    return config | _chat_templates(file)


def _chat_templates(file: GGUFFile) -> dict[str, Any]:
    key, text = "tokenizer.chat_template", Field("a text", lambda x: isinstance(x, str), None)
    names = {f"{key}s": _list_of(str, "names", [])}
    others = read_fields(str(file.path), file.metadata, names)[f"{key}s"]
    fields = {key: text, **{f"{key}.{name}": text for name in others if name != "default"}}
    found = read_fields(str(file.path), file.metadata, fields)
    default = found.pop(key)
    named = {name.removeprefix(f"{key}."): each for name, each in found.items() if each is not None}
    if default is None or not named:
        return {} if default is None else {"chat_template": default}
    every = {"default": default} | named
    return {"chat_template": [{"name": n, "template": each} for n, each in every.items()]}


def _json(data: Mapping[str, Any]) -> bytes:
    return (json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
