"""A stop string may be a special token, or begin or end in one: as Hugging Face stops."""

import json

import pytest
import tiny_tokenizers as tiny
import torch
from transformers import AutoTokenizer, StopStringCriteria

from mtad_jax.text.stream import StopTrimmer, trim_at_stop
from mtad_jax.text.tokenizer import load_tokenizer

NAMES = {
    "json_byte_level": ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"),
    "json_byte_fallback": ("<s>", "</s>", "<unk>"),
}


@pytest.fixture(scope="module", params=NAMES)
def both(request, tmp_path_factory):
    """Our tokenizer, transformers', and the names of three special tokens."""
    folder = tiny.FOLDERS[request.param](tmp_path_factory.mktemp(request.param) / "model")
    start, end, turn = NAMES[request.param]
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": start,
        "eos_token": end,
        "additional_special_tokens": [turn],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return load_tokenizer(folder), AutoTokenizer.from_pretrained(str(folder)), NAMES[request.param]


def steps_until_stop(tokenizer, ids, stop):
    """How many ids come one by one until the trimmer stops, and what it showed."""
    trimmer, text = StopTrimmer(tokenizer, [stop], continuation=False), ""
    for count, index in enumerate(ids, start=1):
        text += trimmer.push([index])
        if trimmer.stopped:
            return count, text, trimmer.kept_tokens
    return None, text + trimmer.flush(), trimmer.kept_tokens


def test_stops_where_hugging_face_does(both):
    tokenizer, theirs, (_, end, turn) = both
    text = f"the cat{turn} sat{end}the mat"
    ids = tokenizer.encode(text, add_bos=False)
    for stop in (turn, end, turn[:-1], f"cat{turn}", f"{turn} sat", "cat sat", "mat", "at", ">the"):
        criteria = StopStringCriteria(theirs, stop)
        counts = range(1, len(ids) + 1)
        want = next((n for n in counts if criteria(torch.tensor([ids[:n]]), None).item()), None)
        found, shown, kept = steps_until_stop(tokenizer, ids, stop)
        assert found == want, stop
        if found:
            before = tokenizer.decode(ids[:found], False).split(stop)[0]
            # Of a special token that holds a stop string nothing is shown, as of any other.
            assert shown == before.replace(turn, "").replace(end, "").replace(end[:-1], "")
            assert tokenizer.decode(ids[:kept], False).startswith(before)
        else:
            assert (shown, kept) == (tokenizer.decode(ids), len(ids))


def test_special_tokens_are_not_shown(both):
    tokenizer, _, (_, end, turn) = both
    ids = tokenizer.encode(f"a{turn}b{end}c STOP d", add_bos=False)
    upto = tokenizer.decode(ids).split(" STOP")[0]
    text, kept, stop = trim_at_stop(tokenizer, ids, [" STOP"])
    assert (text.strip(), stop) == (upto, " STOP") and "abc" in text.replace(" ", "")
    assert tokenizer.decode(ids[:kept]).startswith(upto)
    whole, kept, stop = trim_at_stop(tokenizer, ids, [turn])
    assert (whole.strip(), stop) == ("a", turn)
    assert ids[kept] == tokenizer.vocabulary()[turn]


def test_half_a_character_before_a_special_token(both):
    tokenizer, _, (_, _, turn) = both
    ids = [*tokenizer.encode("x🇯", add_bos=False)[:-1], tokenizer.vocabulary()[turn]]
    shown = tokenizer.decode(ids[:-1], continuation=True)
    assert shown.endswith("\ufffd")
    text, kept, stop = trim_at_stop(tokenizer, ids, [turn])
    assert (text, stop) == (shown, turn)
    assert tokenizer.decode(ids[:kept], continuation=True) == shown
