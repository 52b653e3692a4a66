import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import tiny_tokenizers as tiny
from tokenizers import Tokenizer as LibraryTokenizer
from tokenizers import models

from mtad_jax.text.stream import (
    StopTrimmer,
    StreamDecoder,
    find_stop,
    tokens_covering,
    trim_at_stop,
)
from mtad_jax.text.tokenizer import load_tokenizer, same_vocabulary

DATA_DIR = Path(os.environ.get("MTAD_DATA", Path(__file__).parents[3] / "shared" / "data"))
REAL = DATA_DIR / "tokenizers"
needs_data = pytest.mark.skipif(not REAL.is_dir(), reason="no shared tokenizers")

TEXTS = [
    "",
    "Hello world",
    "Once upon a time, there was a naïve café.",
    "tabs\tand\r\nnewlines\n\n\nat the end\n",
    "日本語のテキスト und Größe, ¿qué? привет мир",
    "😀 👩‍👩‍👧 🇯🇵 e\u0301 \u200b\ufeff",
    "12345 3.14159 1,000,000",
    "a</s>b",
    "<s", "<0x0A> Ġ â",
    "SELECT name FROM t WHERE x >= 'é';",
    "control \x00\x01\x7f and \ufffd",
]  # fmt: skip
SPACES = ["  two leading", "a  b   c", "def f():\n    return  1", "trailing  ", " ", "   "]
OPT_CONFIG = {
    "unk_token": "</s>",
    "bos_token": "</s>",
    "eos_token": {"__type": "AddedToken", "content": "</s>"},
    "pad_token": "<pad>",
    "add_bos_token": True,
    "tokenizer_class": "GPT2Tokenizer",
}
LLAMA_CONFIG = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "add_bos_token": True,
    "tokenizer_class": "LlamaTokenizer",
}


def write(path, value):
    path.write_text(json.dumps(value), encoding="utf-8")


def auto_tokenizer(folder):
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(str(folder))


def check_parity(ours, theirs, texts):
    for text in texts:
        ids = theirs.encode(text)
        assert ours.encode(text) == ids, text
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True), text
        assert ours.decode(ids, skip_special=False) == theirs.decode(ids), text
        stream = StreamDecoder(ours, continuation=False)
        assert "".join(stream.push([index]) for index in ids) == ours.decode(ids)
    assert ours.vocabulary() == theirs.get_vocab()
    assert ours.vocab_size == max(theirs.get_vocab().values()) + 1
    assert (ours.bos_id, ours.eos_id) == (theirs.bos_token_id, theirs.eos_token_id)


@pytest.fixture(scope="module", params=tiny.FOLDERS)
def tokenizer(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "model"
    loaded = load_tokenizer(tiny.FOLDERS[request.param](folder))
    assert loaded is not None
    return loaded


# Real tokenizers.


@needs_data
def test_llama2_agrees_with_hugging_face_and_sentencepiece(tmp_path):
    source = REAL / "llama2-spm" / "tokenizer.model"
    shutil.copyfile(source, tmp_path / "tokenizer.model")
    model = sentencepiece.SentencePieceProcessor(model_file=str(source))
    for legacy in (True, False):
        write(tmp_path / "tokenizer_config.json", LLAMA_CONFIG | {"legacy": legacy})
        ours = load_tokenizer(tmp_path)
        check_parity(ours, auto_tokenizer(tmp_path), TEXTS)
    # Only sentencepiece is right on runs of spaces: transformers 5's conversion merges the two
    # spaces of "▁▁" first, which the model's scores put last.
    for text in SPACES:
        assert ours.encode(text) == [1, *model.encode(text)]
        assert ours.decode(ours.encode(text)) == text == model.decode(model.encode(text))


@needs_data
def test_llama2_without_configuration():
    ours = load_tokenizer(REAL / "llama2-spm")
    assert (ours.vocab_size, ours.bos_id, ours.eos_id) == (32000, 1, 2)
    assert ours.encode("[INST] a [/INST] b </s><s>[INST]").count(1) == 2
    assert ours.encode("<s>Hello") == ours.encode("Hello") == [1, 15043]


@needs_data
@pytest.mark.parametrize("config", [None, OPT_CONFIG])
def test_opt_agrees_with_hugging_face(tmp_path, config):
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(REAL / "opt-metaseq" / name, tmp_path / name)
    if config:
        write(tmp_path / "tokenizer_config.json", config)
    ours = load_tokenizer(tmp_path)
    write(tmp_path / "tokenizer_config.json", OPT_CONFIG)
    check_parity(ours, auto_tokenizer(tmp_path), TEXTS + SPACES)
    assert ours.vocab_size == 50265
    assert ours.encode("Hello") == ours.encode("</s>Hello") == [2, 31414]


@needs_data
def test_deepseek_agrees_with_hugging_face(tmp_path):
    source = REAL / "deepseek-r1-hf"
    (tmp_path / "tokenizer.json").write_bytes(
        gzip.decompress((source / "tokenizer.json.gz").read_bytes())
    )
    theirs = auto_tokenizer(tmp_path)
    shutil.copyfile(source / "tokenizer_config.json", tmp_path / "tokenizer_config.json")
    ours = load_tokenizer(tmp_path)
    assert ours.vocab_size == 128815
    for text in TEXTS + SPACES + ["<think>x</think><｜User｜>y"]:
        ids = theirs.encode(text)
        # transformers 5 passes over this file's add_bos_token, which its authors set.
        assert ours.encode(text) == [0, *ids]
        assert ours.encode(text, add_bos=False) == ids
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    assert ours.decode(ours.encode("<think>"), skip_special=False).endswith("▁sentence｜><think>")


# Small tokenizers, so that the rest runs without data.


@pytest.mark.parametrize("text", TEXTS + SPACES)
def test_round_trip(tokenizer, text):
    lossy = {tokenizer.vocabulary()["</s>"]} if "</s>" in tokenizer.vocabulary() else set()
    ids = tokenizer.encode(text, add_bos=False)
    if not lossy & set(ids):
        assert tokenizer.decode(ids) == text
    assert tokenizer.encode(text) == [tokenizer.bos_id, *ids]
    assert all(type(index) is int for index in ids)


def test_small_sentencepiece_agrees_with_the_library(tmp_path):
    folder = tiny.sentencepiece_folder(tmp_path / "m")
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    ours = load_tokenizer(folder)
    for text in TEXTS + SPACES:
        if "</s>" not in text:
            assert ours.encode(text, add_bos=False) == model.encode(text)
            assert ours.decode(model.encode(text)) == model.decode(model.encode(text))


@pytest.mark.parametrize("kind", ["byte_level", "json_byte_level", "json_byte_fallback"])
def test_small_tokenizers_agree_with_hugging_face(tmp_path, kind):
    folder = tiny.FOLDERS[kind](tmp_path / "m")
    config = {"tokenizer_class": "PreTrainedTokenizerFast"}
    if kind == "byte_level":
        config = OPT_CONFIG
    elif kind == "json_byte_level":
        config |= {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}
    else:
        config |= {"bos_token": "<s>", "eos_token": "</s>"}
    write(folder / "tokenizer_config.json", config)
    check_parity(load_tokenizer(folder), auto_tokenizer(folder), TEXTS + SPACES)


def test_broken_utf8_decodes_as_in_the_library(tmp_path):
    folder = tiny.json_byte_level_folder(tmp_path / "m")
    ours = load_tokenizer(folder)
    library = LibraryTokenizer.from_file(str(folder / "tokenizer.json"))
    for row in np.random.default_rng(0).integers(0, ours.vocab_size, (200, 12)).tolist():
        assert ours.decode(row) == library.decode(row)


def test_at_most_one_start_token(tokenizer):
    literal = tokenizer.decode([tokenizer.bos_id], skip_special=False).strip()
    ids = tokenizer.encode("hi")
    assert ids[0] == tokenizer.bos_id and ids.count(tokenizer.bos_id) == 1
    for text in (f"{literal}hi", f"{literal}{literal}hi"):
        for add_bos in (True, False):
            assert tokenizer.encode(text, add_bos=add_bos) == ids
    assert tokenizer.encode("hi", add_bos=False) == ids[1:]


def test_continuation_keeps_its_space(tokenizer):
    ids = tokenizer.encode("hello the world")
    for cut in range(2, len(ids)):
        prompt, rest = ids[:cut], ids[cut:]
        joined = tokenizer.decode(prompt) + tokenizer.decode(rest, continuation=True)
        assert joined == "hello the world"
    assert tokenizer.decode(np.asarray(ids)) == "hello the world"


def test_ids_past_the_vocabulary_have_no_text(tokenizer):
    ids = tokenizer.encode("hello")
    padded = [*ids, tokenizer.vocab_size, tokenizer.vocab_size + 50, -1]
    assert tokenizer.decode(padded) == "hello"


def test_half_a_surrogate_pair_is_an_error(tokenizer):
    with pytest.raises(ValueError, match="surrogates"):
        tokenizer.encode("a\ud83d")


def test_saved_truncation_does_not_shorten_prompts(tmp_path):
    ours = load_tokenizer(tiny.json_byte_level_folder(tmp_path / "m"))
    assert (
        ours.decode(ours.encode("the cat sat on the mat " * 20)) == "the cat sat on the mat " * 20
    )


def test_legacy_prefix_after_special_tokens(tmp_path):
    folder = tiny.sentencepiece_folder(tmp_path / "m")
    write(folder / "tokenizer_config.json", LLAMA_CONFIG | {"legacy": False})
    modern = load_tokenizer(folder)
    write(folder / "tokenizer_config.json", LLAMA_CONFIG | {"legacy": True})
    legacy = load_tokenizer(folder)
    assert modern.decode(modern.encode("a</s>the")) == "athe"
    assert legacy.decode(legacy.encode("a</s>the")) == "a the"


def test_configuration_names_special_tokens(tmp_path):
    folder = tiny.json_byte_level_folder(tmp_path / "m")
    plain = load_tokenizer(folder)
    start, end, turn = (plain.vocabulary()[f"<|{n}|>"] for n in
                        ("begin_of_text", "end_of_text", "eot_id"))  # fmt: skip
    assert (plain.bos_id, plain.eos_id, plain.adds_bos) == (start, end, True)
    write(folder / "generation_config.json", {"eos_token_id": [turn], "bos_token_id": 10**6})
    loaded = load_tokenizer(folder)  # ends are the tokenizer's own; that start is beyond it
    assert (loaded.bos_id, loaded.eos_id) == (start, end)
    write(folder / "generation_config.json", {"bos_token_id": turn})
    assert load_tokenizer(folder).bos_id == turn
    write(folder / "special_tokens_map.json", {"eos_token": {"content": "<|eot_id|>"}})
    assert load_tokenizer(folder).eos_id == turn
    write(folder / "tokenizer_config.json", {"bos_token": None, "add_bos_token": True})
    loaded = load_tokenizer(folder)
    assert loaded.bos_id is None and loaded.encode("hi") == plain.encode("hi", add_bos=False)
    write(folder / "tokenizer_config.json", {"add_bos_token": False})
    assert load_tokenizer(folder).encode("hi") == plain.encode("hi", add_bos=False)
    (folder / "special_tokens_map.json").unlink()
    write(folder / "tokenizer_config.json", {"eos_token": "<nowhere>"})
    with pytest.raises(ValueError, match="eos_token '<nowhere>' is not in the vocabulary"):
        load_tokenizer(folder)


def test_gpt2_style_folder_adds_no_start_token(tmp_path):
    folder = tiny.byte_level_folder(tmp_path / "m", tokens=("<|endoftext|>",))
    ours = load_tokenizer(folder)
    assert (ours.bos_id, ours.eos_id, ours.adds_bos) == (0, 0, False)
    assert 0 not in ours.encode("hi") and ours.encode("hi<|endoftext|>")[-1] == 0


QWEN = {"tokenizer_class": "Qwen2Tokenizer"}
GPT2 = {"tokenizer_class": "GPT2Tokenizer"}


@pytest.mark.parametrize(
    ("model", "config"),
    [
        ({"model_type": "qwen2"}, {}), ({"model_type": "qwen3"}, {}),
        ({"model_type": "qwen2"}, GPT2), ({"model_type": "qwen3"}, GPT2),
        ({"model_type": "qwen3"} | QWEN, {}), ({"model_type": "gpt2"}, QWEN),
        ({}, {"tokenizer_class": "Qwen2TokenizerFast", "eos_token": "<|im_end|>"}),
        ({}, QWEN | {"add_prefix_space": True}), ({"model_type": "gpt2"}, {}),
        ({}, {"tokenizer_class": "GPT2TokenizerFast"}),
    ],
)  # fmt: skip
def test_vocab_and_merges_are_split_as_their_class_or_model_says(model, config, tmp_path):
    names = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    folder = tiny.byte_level_folder(tmp_path / "m", tokens=names)
    write(folder / "config.json", model)
    write(folder / "tokenizer_config.json", config)
    lines = ["a\n\n\n  b\r\n", "IT'S 12345 café e\u0301\n", "<|im_start|>user\nhi<|im_end|>\n"]
    texts = [*TEXTS, *SPACES, *tiny.CORPUS[:4], *lines]
    check_parity(load_tokenizer(folder), auto_tokenizer(folder), texts)


def test_qwens_special_tokens_may_stand_in_its_configuration_alone(tmp_path):
    folder = tiny.byte_level_folder(tmp_path / "m", tokens=())
    first = load_tokenizer(folder).vocab_size
    names = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    entries = ({"content": n, "special": True, "normalized": False} for n in names)
    added = {str(first + i): entry for i, entry in enumerate(entries)}
    write(folder / "tokenizer_config.json", QWEN | {"added_tokens_decoder": added})
    texts = ["<|im_start|>user\n\n12 é<|im_end|>\n<|endoftext|>"]
    check_parity(load_tokenizer(folder), auto_tokenizer(folder), texts)


@pytest.mark.parametrize("name", ["RobertaTokenizer", "PreTrainedTokenizerFast"])
def test_vocab_and_merges_of_another_class_are_refused(name, tmp_path):
    folder = tiny.byte_level_folder(tmp_path / "m", tokenizer_class=name)
    cure = "save tokenizer.json with the model's own library"
    with pytest.raises(ValueError, match=f"tokenizer_class='{name}' must be GPT2.*: {cure}"):
        load_tokenizer(folder)


@pytest.mark.parametrize("kind", ["sentencepiece", "byte_level"])
def test_added_tokens(tmp_path, kind):
    folder = tiny.FOLDERS[kind](tmp_path / "m")
    size = load_tokenizer(folder).vocab_size
    end, pad = {"content": "<|im_end|>"}, {"content": "[PAD]", "special": True}
    both = {str(size): end, str(size + 1): pad}
    write(folder / "tokenizer_config.json", {"added_tokens_decoder": both})
    ours = load_tokenizer(folder)
    assert ours.vocab_size == size + 2
    ids = ours.encode("a<|im_end|>[PAD]")
    assert ids[-2:] == [size, size + 1]
    assert ours.decode(ids) == "a<|im_end|>"
    (folder / "tokenizer_config.json").unlink()
    write(folder / "added_tokens.json", {"<|im_end|>": 5})
    with pytest.raises(ValueError, match="'<|im_end|>' cannot have id 5"):
        load_tokenizer(folder)


def test_tokenizer_json_comes_first(tmp_path):
    folder = tiny.json_byte_fallback_folder(tmp_path / "m")
    expected = load_tokenizer(folder).vocabulary()
    (folder / "tokenizer.model").write_bytes(b"not read")
    assert load_tokenizer(folder).vocabulary() == expected


def test_no_tokenizer_files(tmp_path):
    write(tmp_path / "config.json", {"model_type": "llama"})
    assert load_tokenizer(tmp_path) is None
    assert load_tokenizer(str(tmp_path / "absent")) is None


def added(index):
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [{"id": index, "content": "<s>", "special": True, **flags}]


MODEL = {"type": "BPE", "vocab": {"a": 0}, "merges": []}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", b""),
        ("tokenizer.json", b"[]"),
        ("tokenizer.json", b"\xff\xfe{"),
        ("tokenizer.json", b"{}"),
        ("tokenizer.json", json.dumps({"model": MODEL | {"merges": ["a b"]}}).encode()),
        ("tokenizer.json", json.dumps({"model": MODEL | {"vocab": {}}}).encode()),
        ("tokenizer.json", json.dumps({"model": MODEL, "added_tokens": added(9)}).encode()),
        ("tokenizer.json", json.dumps({"model": MODEL, "decoder": {"type": "CTC"}}).encode()),
        ("tokenizer.model", b""),
        ("tokenizer.model", b"garbage"),
        ("tokenizer.model", b"IQ== 0\nIg== 1\n"),
        ("vocab.json", b'{"a": 0}'),
        ("merges.txt", b"#version: 0.2\n"),
        ("tokenizer_config.json", b"{"),
        ("special_tokens_map.json", b"3"),
        ("config.json", b"nonsense"),
    ],
)
def test_corrupt_files_are_named_on_one_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    missing = {"vocab.json": "merges.txt", "merges.txt": "vocab.json"}
    with pytest.raises(ValueError, match=re.escape(missing.get(name, name))) as error:
        load_tokenizer(tmp_path)
    message = str(error.value)
    assert message.startswith(str(tmp_path)) and "\n" not in message


@pytest.mark.parametrize(
    ("vocab", "merges"),
    [({"a": "x"}, ""), ({"a": -1}, ""), ({"a": 0}, "#version\na b\n"), ({}, "")],
)
def test_corrupt_vocab_and_merges(tmp_path, vocab, merges):
    write(tmp_path / "vocab.json", vocab)
    (tmp_path / "merges.txt").write_text(merges)
    with pytest.raises(ValueError, match=r"vocab\.json|merges\.txt"):
        load_tokenizer(tmp_path)


def test_malformed_added_tokens(tmp_path):
    tiny.byte_level_folder(tmp_path / "m", added_tokens_decoder={"x": 3})
    with pytest.raises(ValueError, match="added_tokens_decoder=.* must be"):
        load_tokenizer(tmp_path / "m")


def test_tokenizer_without_decoder_joins_with_spaces(tmp_path):
    library = LibraryTokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    library.save(str(tmp_path / "tokenizer.json"))
    ours = load_tokenizer(tmp_path)
    assert ours.decode([0, 1, 0]) == library.decode([0, 1, 0]) == "a b a"
    assert ours.bos_id is None and ours.eos_id is None


def test_same_vocabulary(tmp_path):
    opt = load_tokenizer(tiny.byte_level_folder(tmp_path / "a"))
    again = load_tokenizer(tiny.byte_level_folder(tmp_path / "b"))
    same_vocabulary(opt, again)
    vocab = json.loads((tmp_path / "b" / "vocab.json").read_text())
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    write(tmp_path / "b" / "vocab.json", vocab)
    swapped = load_tokenizer(tmp_path / "b")
    ids = opt.vocabulary()["a"], opt.vocabulary()["b"]
    with pytest.raises(ValueError, match=f"'a' has id {ids[0]} in one and {ids[1]} in") as error:
        same_vocabulary(opt, swapped)
    assert "\n" not in str(error.value)
    other = load_tokenizer(tiny.json_byte_level_folder(tmp_path / "c"))
    with pytest.raises(ValueError, match=r"token '!' has id \d+ in one and 0 in"):
        same_vocabulary(opt, other)


@pytest.mark.slow
def test_loading_needs_neither_torch_nor_transformers(tmp_path):
    folder = tiny.byte_level_folder(tmp_path / "m")
    code = (
        "import sys; from mtad_jax.text import stream, tokenizer;"
        f"tokenizer.load_tokenizer({str(folder)!r}).encode('a');"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Streaming and stop strings; test_stream_decoder covers random splits.


def test_stream_holds_back_half_a_character(tokenizer):
    stream = StreamDecoder(tokenizer, continuation=False)
    pieces = [stream.push([index]) for index in tokenizer.encode("a 🇯🇵 é")]
    assert "".join(pieces) == "a 🇯🇵 é" and "\ufffd" not in "".join(pieces)
    assert "" in pieces and stream.flush() == ""
    ids = tokenizer.encode("x🇯")[:-1]
    stream = StreamDecoder(tokenizer, continuation=False)
    assert stream.push(ids) == "x"
    assert stream.pending() == stream.flush() == "\ufffd"


def test_find_stop():
    assert find_stop("a STOP b END", ["END", "STOP"]) == 2
    assert find_stop("nothing", ["END"]) is None
    assert find_stop("nothing", []) is None
    assert find_stop("xaab", ["ab", "aab"]) == 1  # the longer of two that end together
    assert find_stop("abc", ["abc", "b"]) == 1  # read letter by letter, "b" is there first
    with pytest.raises(ValueError, match="empty"):
        find_stop("text", [""])


def test_stop_cuts_text_and_tokens_together(tokenizer):
    prompt, full = tokenizer.encode("the"), tokenizer.encode("the cat sat STOP END more")
    ids = full[len(prompt) :]
    text, kept, stop = trim_at_stop(tokenizer, ids, ["END", "STOP"])
    assert (text, stop) == (" cat sat ", "STOP")
    covered = tokenizer.decode(ids[:kept], continuation=True)
    assert covered.startswith(text)
    assert not tokenizer.decode(ids[: kept - 1], continuation=True).startswith(text)
    whole = trim_at_stop(tokenizer, ids, ["nowhere"])
    assert whole == (" cat sat STOP END more", len(ids), None)


def test_trimmer_holds_back_what_may_begin_a_stop(tokenizer):
    trimmer = StopTrimmer(tokenizer, ["STOP!"], continuation=False)
    assert trimmer.push(tokenizer.encode("ab ST")) == "ab "
    assert not trimmer.stopped and trimmer.kept_tokens == len(tokenizer.encode("ab ST"))
    assert trimmer.flush() == "ST"
    trimmer = StopTrimmer(tokenizer, ["STOP!"], continuation=False)
    ids = tokenizer.encode("ab STOP! and more")
    assert trimmer.push(ids) == "ab " and trimmer.stop == "STOP!"
    assert trimmer.push(ids) == trimmer.flush() == ""
    assert trimmer.kept_tokens < len(ids)


def test_stop_at_the_very_start_keeps_nothing(tokenizer):
    ids = tokenizer.encode("END of it", add_bos=False)
    trimmer = StopTrimmer(tokenizer, ["END"], continuation=False)
    assert (trimmer.push(ids), trimmer.stop, trimmer.kept_tokens) == ("", "END", 0)


def test_tokens_covering_bounds(tokenizer):
    ids = tokenizer.encode("the cat")
    assert tokens_covering(tokenizer, ids, 0, continuation=False) == 0
    assert tokens_covering(tokenizer, ids, 7, continuation=False) == len(ids)
    with pytest.raises(ValueError, match="hold 7 characters, not 8"):
        tokens_covering(tokenizer, ids, 8, continuation=False)


def test_empty_stop_string_is_refused(tokenizer):
    with pytest.raises(ValueError, match="empty"):
        StopTrimmer(tokenizer, ["a", ""])
