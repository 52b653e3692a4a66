"""Tokenizers of GGUF files: against those they were made of, and transformers' reading."""

import json
from pathlib import Path

import pytest

pytest.importorskip("gguf")

import gguf_files as files  # noqa: E402
import tiny_tokenizers as tiny  # noqa: E402
from tokenizers import Tokenizer as Library  # noqa: E402
from tokenizers import pre_tokenizers  # noqa: E402

from checkpoints_convert import engine  # noqa: E402
from mtad_jax.checkpoints import load as checkpoint  # noqa: E402
from mtad_jax.text.tokenizer import load_tokenizer  # noqa: E402

TEXTS = [
    "",
    "Hello world, it's two  spaces and   three",
    " leading and trailing \n\n",
    "def f(x):\n    return x + 12345\n\n\tprint('done')",
    "naïve café — 日本語 😀 e\u0301 \u200b",
    "<|begin_of_text|>Hello<|eot_id|> <think> a</think>",
    "<s>Hello</s> world",
    "can't WON'T I'll 1st 3.14 \u00bd",
    "control \x01 and \ufffd",
]
DIGITS = ["x =   1", "a  12", "1  2\n 3"]
TEMPLATE = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}"


def small(**changes) -> tuple[dict, dict]:
    """Return Hugging Face's settings of a model with room for a tokenizer, and its weights."""
    hf = files.HF | {"num_hidden_layers": 1, "vocab_size": 700} | changes
    return hf, files.tensors(hf, files.small_weights(hf))


def convert(folder: Path, tokenizer: dict, **changes) -> Path:
    """Write a file with that tokenizer into the folder, convert it, and return the result."""
    hf, weights = small()
    metadata = files.settings(hf) | tokenizer | changes
    source = files.write(folder / "a.gguf", metadata, weights)
    engine.from_gguf(source, folder / "own")
    return folder / "own"


def byte_level(folder: Path, pre: str, **more) -> tuple[dict, Path]:
    """Return the metadata of a tiny byte-level tokenizer, and its `tokenizer.json`."""
    path = tiny.json_byte_level_folder(folder / "made") / "tokenizer.json"
    spec = json.loads(path.read_text())
    ids = {token["content"]: token["id"] for token in spec["added_tokens"]}
    return files.byte_level(
        spec,
        pre,
        bos_token_id=ids["<|begin_of_text|>"],
        eos_token_id=ids["<|end_of_text|>"],
        **more,
    ), path


@pytest.mark.slow
@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "llama-bpe", "tekken"])
def test_byte_level_ids_are_those_of_the_tokenizer_it_was_made_of(tmp_path, pre):
    metadata, path = byte_level(tmp_path, pre)
    made = Library.from_file(str(path))
    made.no_truncation()
    if pre != "gpt-2":
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [*published(pre), pre_tokenizers.ByteLevel(False, use_regex=pre == "smollm")]
        )
    made.model.ignore_merges = pre in ("llama-bpe", "tekken")
    ours = load_tokenizer(convert(tmp_path, metadata))
    assert ours is not None and ours.adds_bos == (pre in ("llama-bpe", "tekken"))
    for text in TEXTS + DIGITS:
        assert ours.encode(text, add_bos=False) == made.encode(text, add_special_tokens=False).ids
    assert ours.vocabulary() == made.get_vocab()
    special = ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>")
    assert ours.special_ids == {made.token_to_id(name) for name in special}


def published(pre: str) -> list:
    """How the `tokenizer.json` of SmolLM2, Llama 3 and Mistral Nemo split a text."""
    import tokenizers

    llama3 = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    nemo = (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    if pre == "smollm":
        return [pre_tokenizers.Digits(individual_digits=True)]
    regex = {"llama-bpe": llama3, "tekken": nemo}[pre]
    return [pre_tokenizers.Split(tokenizers.Regex(regex), "isolated")]


@pytest.mark.slow
@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "llama-bpe", "tekken"])
@pytest.mark.parametrize("adds_bos", [True, False])
def test_transformers_reads_the_file_and_our_folder_alike(tmp_path, pre, adds_bos):
    transformers = pytest.importorskip("transformers")
    metadata, _ = byte_level(tmp_path, pre, add_bos_token=adds_bos)
    own = convert(tmp_path, metadata, **{"tokenizer.chat_template": TEMPLATE})
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="a.gguf")
    again = transformers.AutoTokenizer.from_pretrained(own)
    ours = load_tokenizer(own)
    texts = TEXTS + DIGITS
    if pre == "smollm":  # transformers does not split digits off, as the published tokenizer does
        texts = [text for text in texts if not any(map(str.isnumeric, text))]
    for text in texts:
        ids = theirs.encode(text)
        assert again.encode(text) == ids, text
        assert ours.encode(text) == ids or text.startswith("<|begin"), text  # never two of ours
        assert ours.decode(ids, skip_special=False) == again.decode(ids), text
    assert again.chat_template == theirs.chat_template == TEMPLATE
    assert (ours.bos_id, ours.eos_id) == (again.bos_token_id, again.eos_token_id)
    assert checkpoint.load(own).eos_ids == (theirs.eos_token_id,)


@pytest.mark.slow
@pytest.mark.parametrize("adds_space", [True, False])
def test_sentencepiece_ids_are_those_of_the_model_it_was_made_of(tmp_path, adds_space):
    import sentencepiece

    path = tiny.sentencepiece_folder(tmp_path / "made") / "tokenizer.model"
    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    metadata = files.scored(model, add_space_prefix=adds_space)
    ours = load_tokenizer(convert(tmp_path, metadata))
    made = load_tokenizer(path.parent)
    assert ours is not None and made is not None
    assert ours.vocabulary() == made.vocabulary() and ours.special_ids == made.special_ids
    assert (ours.bos_id, ours.eos_id, ours.adds_bos) == (1, 2, True)
    for text in TEXTS + DIGITS:
        if adds_space:
            assert ours.encode(text) == made.encode(text), text
        plain = text.replace("<s>", "").replace("</s>", "")
        assert ours.decode(ours.encode(plain)) == plain


@pytest.mark.slow
def test_transformers_reads_a_sentencepiece_folder(tmp_path):
    transformers = pytest.importorskip("transformers")
    import sentencepiece

    path = tiny.sentencepiece_folder(tmp_path / "made") / "tokenizer.model"
    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    own = convert(tmp_path, files.scored(model))
    again, ours = transformers.AutoTokenizer.from_pretrained(own), load_tokenizer(own)
    assert ours is not None
    for text in ("Hello world", "naïve café — two", "日本語 😀 12345"):
        assert again.encode(text) == ours.encode(text)
    assert again.bos_token_id == 1 and again.eos_token_id == 2


@pytest.mark.slow
def test_ends_templates_and_padded_rows(tmp_path):
    metadata, _ = byte_level(tmp_path, "llama-bpe", eot_token_id=402)
    metadata["tokenizer.ggml.eom_token_id"] = metadata["tokenizer.ggml.eos_token_id"]
    tokens = metadata["tokenizer.ggml.tokens"]
    templates = {"tokenizer.chat_template": TEMPLATE, "tokenizer.chat_templates": ["tool_use"]}
    templates["tokenizer.chat_template.tool_use"] = "tools"
    loaded = checkpoint.load(convert(tmp_path, metadata | templates))
    assert loaded.eos_ids == (tokens.index("<|end_of_text|>"), 402)
    assert loaded.bos_id == tokens.index("<|begin_of_text|>")
    assert loaded.lm.model.vocab_size == 700 and loaded.lm.vocab_size == len(tokens)
    config = json.loads((tmp_path / "own" / "tokenizer_config.json").read_text())
    assert config["chat_template"] == [
        {"name": "default", "template": TEMPLATE},
        {"name": "tool_use", "template": "tools"},
    ]


@pytest.mark.slow
def test_a_file_without_a_tokenizer_is_one_of_ids(tmp_path):
    loaded = checkpoint.load(convert(tmp_path, {"tokenizer.ggml.model": "no_vocab"}))
    assert loaded.tokenizer is None and loaded.lm.vocab_size == 700


BAD = {
    'tokenizer.ggml.pre="qwen2" must be one of gpt-2, smollm': {"pre": "qwen2"},
    "setting 'tokenizer.ggml.pre' is missing: it must be one of gpt-2": {"pre": None},
    "is no pair of tokens": {"merges": ["a b c"]},
    "Token `zz` out of vocabulary": {"merges": ["z z"]},
    "types of": {"token_type": [1, 1]},
    "setting 'tokenizer.ggml.token_type' is missing": {"token_type": None},
    "eos_token_id=5000 must be a whole number": {"eos_token_id": 5000},
    "tokens, but the embedding has 700 rows": {"tokens": [f"t{i}" for i in range(701)]},
    "is there twice": {"tokens": ["a", "a"], "token_type": [1, 1]},
    "tokenizer.ggml.add_bos_token=1 must be true or false": {"add_bos_token": 1},
}


@pytest.mark.parametrize(("message", "change"), BAD.items(), ids=BAD)
def test_contradictions_are_one_line(tmp_path, message, change):
    metadata, _ = byte_level(tmp_path, "gpt-2")
    if "tokens" in change and "token_type" not in change:
        change = change | {"token_type": [1] * len(change["tokens"])}
    changes = {f"tokenizer.ggml.{key}": value for key, value in change.items()}
    with pytest.raises(ValueError) as error:
        convert(tmp_path, metadata, **changes)
    text = str(error.value)
    assert message in text and "\n" not in text and "a.gguf" in text
    assert not (tmp_path / "own").exists()


@pytest.mark.parametrize(
    ("message", "change"),
    [
        ("no sentencepiece model", {"token_type": [1] * 400}),  # no unknown piece
        ("3 scores of 400 tokens", {"scores": [0.0, 1.0, 2.0]}),
        ("precompiled_charsmap is not supported", {"precompiled_charsmap": [1, 2]}),
    ],
)
def test_bad_sentencepiece_vocabularies(tmp_path, message, change):
    import sentencepiece

    path = tiny.sentencepiece_folder(tmp_path / "made") / "tokenizer.model"
    metadata = files.scored(sentencepiece.SentencePieceProcessor(model_file=str(path)), **change)
    with pytest.raises(ValueError, match=message):
        convert(tmp_path, metadata)
