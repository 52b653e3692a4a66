"""Draft and target of one tokenizer, whose embeddings have other numbers of rows."""

import shutil
from pathlib import Path

import pytest
from hf_folders import GEMMA3, LLAMA, QWEN2, random_tensors, write_folder
from tiny_tokenizers import json_byte_level_folder
from tokenizers import AddedToken
from tokenizers import Tokenizer as LibraryTokenizer

from mtad_jax import Pipeline, load, load_tokenizer, recipes
from mtad_jax.decode.warp import Warp

PROMPT = "The cat sat on the mat.  The dog"
FAR = {"max_position_embeddings": 256}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    """Its last token is a special one, the last but one a word."""
    path = json_byte_level_folder(tmp_path_factory.mktemp("tokenizer") / "files")
    library = LibraryTokenizer.from_file(str(path / "tokenizer.json"))
    library.add_special_tokens([AddedToken("<image>", normalized=False)])
    library.save(str(path / "tokenizer.json"))
    return path


@pytest.fixture(scope="module")
def tokens(tokenizer) -> int:
    return load_tokenizer(tokenizer).vocab_size


def folder(path: Path, config: dict, rows: int, tokenizer: Path | None) -> Path:
    """A random model with so many rows; of padding ones each would win if it were looked at."""
    config = config | FAR | {"vocab_size": rows}
    tensors = random_tensors(config)
    if tokenizer is None:
        return write_folder(path, config, tensors)
    real = load_tokenizer(tokenizer).vocab_size
    for name, tensor in tensors.items():
        if name in ("lm_head.weight", "model.embed_tokens.weight"):
            tensor[real:] *= 30
    shutil.copytree(tokenizer, path)
    return write_folder(path, config, tensors)


def texts(pipe: Pipeline, *rules) -> list[list[int]]:
    call = {"max_new_tokens": 16, "warp": Warp(temperature=0.0), "eos_id": ()}
    return [pipe([PROMPT], strategy=rule, **call)[0].tokens for rule in rules]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "draft", "more"),
    [
        ((QWEN2, 64), (QWEN2, 16), ""),  # Qwen2.5-7B and 0.5B: 152,064 and 151,936 rows
        pytest.param(  # of two families
            (QWEN2, 16), (LLAMA, 64), "", marks=pytest.mark.heavy
        ),
        pytest.param((GEMMA3, 64), (GEMMA3, 0), "no tokenizer", marks=pytest.mark.heavy),
    ],
    ids=["one family", "two families", "a draft without a tokenizer"],
)
def test_padding_of_either_size_changes_nothing(target, draft, more, tmp_path, tokenizer, tokens):
    (kind, rows), (small, less) = target, draft
    large = folder(tmp_path / "target", kind, tokens + rows, tokenizer)
    other = folder(tmp_path / "draft", small, tokens + less, None if more else tokenizer)
    pipe = Pipeline.load(large, other)
    assert pipe.draft is not None
    assert pipe.target.lm.vocab_size == pipe.draft.lm.vocab_size == tokens
    want, *drafted = texts(pipe, recipes.greedy(), recipes.speculative(3), recipes.mmtad(2, 2))
    assert drafted == [want, want] and max(want) < tokens


def test_rows_that_one_model_lacks(tmp_path, tokenizer, tokens):
    """Those of special tokens at the end may be missing in one of the two; words' must not."""
    whole = load(folder(tmp_path / "whole", QWEN2, tokens + 8, tokenizer))
    text_only = load(folder(tmp_path / "text", GEMMA3, tokens - 1, tokenizer))
    for pair in ((whole, text_only), (text_only, whole)):
        pipe = Pipeline(*pair)
        assert pipe.draft is not None
        assert pipe.target.lm.vocab_size == pipe.draft.lm.vocab_size == tokens - 1
        pipe.check([PROMPT], strategy=recipes.speculative(2), max_new_tokens=4)
    wordless = load(folder(tmp_path / "wordless", GEMMA3, tokens - 2, tokenizer))
    pipe = Pipeline(whole, wordless)
    with pytest.raises(ValueError, match=f"draft vocabulary {tokens - 2} != target vocabulary"):
        pipe.check([PROMPT], strategy=recipes.speculative(2), max_new_tokens=4)
    assert whole.lm.vocab_size == tokens  # a pipeline changes its own models alone
