"""Tokenizer files in the shapes of Qwen's, Gemma's and Mistral's folders."""

import json
from pathlib import Path

import pytest
from tiny_tokenizers import CORPUS
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    processors,
    trainers,
)
from tokenizers import pre_tokenizers as pre

from mtad_jax import load_tokenizer
from mtad_jax.text.stream import StreamDecoder

TEXTS = [
    *CORPUS[:4], " leading", "two  spaces", "e\u0301 é", "<|im_start|>user\nhi<|im_end|>", "",
    "def f(x):\n  if x:\n    return  x\n", "   three", "four    \n", "▁▁",
]  # fmt: skip
# Numbers one digit at a time, as Qwen's; the rest only has to split somewhere.
SPLIT = Regex(r"\p{N}| ?[^\s\p{N}]+|\s+")


def qwen(folder: Path) -> Path:
    """Byte level after a regex of its own and NFC; no start token, chat marks as special tokens."""
    library = Tokenizer(models.BPE())
    library.normalizer = normalizers.NFC()
    split = pre.Split(SPLIT, "isolated")
    level = pre.ByteLevel(add_prefix_space=False, use_regex=False)
    library.pre_tokenizer = pre.Sequence([split, level])
    trainer = trainers.BpeTrainer(
        vocab_size=350, initial_alphabet=pre.ByteLevel.alphabet(), show_progress=False
    )
    library.train_from_iterator(CORPUS, trainer)
    library.post_processor = processors.ByteLevel(trim_offsets=False)
    library.decoder = decoders.ByteLevel()
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    library.add_special_tokens([AddedToken(name, normalized=False) for name in names])
    return _write(folder, library, bos_token=None, eos_token="<|im_end|>", add_bos_token=False)


def gemma(folder: Path) -> Path:
    """Pieces with `▁` for spaces, none put in front, and bytes; a start token.

    Runs of spaces are ordinary added tokens as well, as in Gemma 2's and 3's files.
    """
    library = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    library.normalizer = normalizers.Replace(" ", "▁")
    library.pre_tokenizer = pre.Split(" ", "merged_with_previous")
    names = ["<pad>", "<eos>", "<bos>", "<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=500, limit_alphabet=60, special_tokens=names, show_progress=False
    )
    library.train_from_iterator(CORPUS, trainer)
    spec = json.loads(library.to_str())
    first = 1 + max(spec["model"]["vocab"].values())
    spec["model"]["vocab"] |= {f"<0x{byte:02X}>": first + byte for byte in range(256)}
    library = Tokenizer.from_str(json.dumps(spec))
    library.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    library.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 2)]
    )
    library.add_tokens([AddedToken("▁" * run, normalized=False) for run in (2, 3, 4)])
    return _write(folder, library, bos_token="<bos>", eos_token="<eos>", add_bos_token=True)


def mistral(folder: Path) -> Path:
    """Pieces by Metaspace, which puts a space in front of a text; a start token."""
    library = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    library.pre_tokenizer = pre.Metaspace(prepend_scheme="first", split=False)
    names = ["<unk>", "<s>", "</s>", "[INST]"]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=names, show_progress=False)
    library.train_from_iterator(CORPUS, trainer)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    library.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    library.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return _write(folder, library, bos_token="<s>", eos_token="</s>", add_bos_token=True)


def _write(folder: Path, library: Tokenizer, **config) -> Path:
    folder.mkdir()
    library.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("make", "bos", "eos"),
    [(qwen, None, "<|im_end|>"), (gemma, "<bos>", "<eos>"), (mistral, "<s>", "</s>")],
    ids=["qwen", "gemma", "mistral"],
)
def test_ids_and_texts_are_the_librarys(make, bos, eos, tmp_path):
    ours = load_tokenizer(make(tmp_path / "m"))
    library = Tokenizer.from_file(str(tmp_path / "m" / "tokenizer.json"))
    assert ours is not None and ours.adds_bos == (bos is not None)
    assert (ours.bos_id, ours.eos_id) == (
        None if bos is None else library.token_to_id(bos), library.token_to_id(eos)
    )  # fmt: skip
    for text in TEXTS:
        ids = library.encode(text).ids
        assert ours.encode(text) == ids, text
        assert ours.decode(ids) == library.decode(ids), text


@pytest.mark.parametrize("make", [qwen, gemma, mistral])
def test_texts_are_those_of_transformers_at_once_and_streamed(make, tmp_path):
    ours = load_tokenizer(make(tmp_path / "m"))
    file = str(tmp_path / "m" / "tokenizer.json")
    theirs = pytest.importorskip("transformers").PreTrainedTokenizerFast(tokenizer_file=file)
    for text in TEXTS:
        ids = theirs.encode(text)
        assert ours.encode(text) == ids, text
        assert ours.decode(ids, False) == theirs.decode(ids), text
        stream = StreamDecoder(ours, continuation=False, skip_special=False)
        pieces = [stream.push([index]) for index in ids]
        assert "".join(pieces) + stream.flush() == theirs.decode(ids), text
