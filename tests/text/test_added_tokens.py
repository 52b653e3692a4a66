"""Added tokens of folders made on the spot: ids, and where they are found, are transformers'."""

import itertools
import json
import re

import pytest
import tiny_tokenizers as tiny
from transformers import AutoTokenizer

from mtad_jax.text.tokenizer import load_tokenizer

CONFIGS = {
    "sentencepiece": {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "add_bos_token": True,
        "legacy": False,
    },
    "byte_level": {
        "tokenizer_class": "GPT2Tokenizer",
        "bos_token": "</s>",
        "eos_token": "</s>",
        "unk_token": "</s>",
        "pad_token": "<pad>",
        "add_bos_token": True,
    },
    "json_byte_level": {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|end_of_text|>",
    },
    "json_byte_fallback": {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
    },
}
TEXTS = [
    "a <T> b", "a<T>b", "<T>", "the<T><T> cat", "xx<T>yy the", "<T> <T>", "a<T>\nb", "cat _<T> the",
    "T>the", "<T", "a<T> the</s> cat", "the cat  <T>  sat", "a <T>,<T>é", "a<U>b",
]  # fmt: skip
# Not begun with spaces: there transformers' conversion of sentencepiece differs from it.


def folder_of(kind, path, **files):
    """A folder of this kind with more JSON files, which may be functions of the next free id."""
    folder = tiny.FOLDERS[kind](path)
    free = load_tokenizer(folder).vocab_size
    files = {name: make(free) for name, make in files.items()}
    files["tokenizer_config"] = CONFIGS[kind] | files.get("tokenizer_config", {})
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def check_ids(folder):
    ours, theirs = load_tokenizer(folder), AutoTokenizer.from_pretrained(str(folder))
    assert ours.vocabulary() == theirs.get_vocab()
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text), text
    return ours, theirs


FLAGS = ["lstrip", "rstrip", "single_word"]
CHOICES = [set(c) for n in range(4) for c in itertools.combinations(FLAGS, n)]


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("special", [False, True])
def test_flags_of_added_tokens(kind, special, tmp_path):
    for number, chosen in enumerate(CHOICES):
        token = {"content": "<T>", "special": special, "normalized": False}
        token |= {flag: flag in chosen for flag in FLAGS}
        folder = folder_of(
            kind,
            tmp_path / str(number),
            tokenizer_config=lambda free, t=token: {"added_tokens_decoder": {str(free): t}},
        )
        ours, theirs = check_ids(folder)
        for text, skip in itertools.product(TEXTS, (True, False)):
            ids = theirs.encode(text)
            assert ours.decode(ids, skip) == theirs.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("kind", CONFIGS)
def test_which_file_goes_before_which(kind, tmp_path):
    """`added_tokens_decoder` alone where it is there; else the two older files."""
    older = {"added_tokens": lambda free: {"<T>": free, "<U>": free + 1}}
    check_ids(folder_of(kind, tmp_path / "older", **older))
    named = {"special_tokens_map": lambda free: {"additional_special_tokens": ["<T>"]}}
    ours, _ = check_ids(folder_of(kind, tmp_path / "named", **older, **named))
    assert "<T>" not in ours.decode(ours.encode("<T>"))
    newer = {"tokenizer_config": lambda free: {"added_tokens_decoder": {free: {"content": "<U>"}}}}
    ours, _ = check_ids(folder_of(kind, tmp_path / "newer", **older, **newer))
    assert "<T>" not in ours.vocabulary()
    default = {
        "tokenizer_config": lambda free: {"added_tokens_decoder": {free: {"content": "<T>"}}}
    }
    check_ids(folder_of(kind, tmp_path / "normalized", **default))


@pytest.mark.parametrize("kind", CONFIGS)
def test_an_end_token_takes_its_spaces(kind, tmp_path):
    """Flags of a special token that `special_tokens_map.json` writes out."""
    end = "<|eot_id|>" if kind == "json_byte_level" else "</s>"
    token = {"content": end, "lstrip": True, "rstrip": True, "normalized": False}
    names = {"eos_token": token}
    if kind == "byte_level":  # where one token has all three parts
        names |= {"bos_token": token, "unk_token": token}
    folder = folder_of(kind, tmp_path / "m", special_tokens_map=lambda free: names)
    ours, theirs = load_tokenizer(folder), AutoTokenizer.from_pretrained(str(folder))
    assert ours.eos_id == theirs.eos_token_id == ours.vocabulary()[end]
    text = f"a {end} the cat"
    assert ours.encode(text) == theirs.encode(text)


@pytest.mark.parametrize("kind", CONFIGS)
def test_ids_that_transformers_would_change_are_refused(kind, tmp_path):
    for name, shift in ("gap", 5), ("taken", -1):
        config = {"tokenizer_config": lambda free, s=shift: {
            "added_tokens_decoder": {free + s: {"content": "<T>"}}
        }}  # fmt: skip
        folder = folder_of(kind, tmp_path / name, **config)
        with pytest.raises(ValueError, match=re.escape("added token '<T>' cannot have id")):
            load_tokenizer(folder)


def test_a_flag_must_be_a_boolean(tmp_path):
    token = {"content": "<T>", "lstrip": "yes"}
    config = {"tokenizer_config": lambda free: {"added_tokens_decoder": {free: token}}}
    with pytest.raises(ValueError, match="malformed added tokens"):
        load_tokenizer(folder_of("byte_level", tmp_path / "m", **config))
