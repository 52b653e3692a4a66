"""However a continuation is split into pushes, the text and the tokens kept are the same."""

import pytest
import tiny_tokenizers as tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtad_jax.text.stream import (
    StopTrimmer,
    StreamDecoder,
    find_stop,
    tokens_covering,
    trim_at_stop,
)
from mtad_jax.text.tokenizer import load_tokenizer

check = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
texts = st.text(st.sampled_from("abc  \n.éß日😀\u200d🇯🇵\ufffdSTOP"), max_size=30)
stop_lists = st.lists(st.text("abc STé😀\ufffd", min_size=1, max_size=4), max_size=4)


@pytest.fixture(scope="module", params=tiny.FOLDERS)
def tokenizer(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "model"
    return load_tokenizer(tiny.FOLDERS[request.param](folder))


@st.composite
def ids_of(draw, tokenizer):
    """Ids of a text, or any ids at all: broken UTF-8, special ids, ids past the vocabulary."""
    if draw(st.booleans()):
        return tokenizer.encode(draw(texts), add_bos=draw(st.booleans()))
    return draw(st.lists(st.integers(0, tokenizer.vocab_size + 2), max_size=20))


@st.composite
def split(draw, ids):
    cuts = sorted(draw(st.lists(st.integers(0, len(ids)), max_size=8)))
    bounds = [0, *cuts, len(ids)]
    return [ids[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]


@check
@given(data=st.data(), continuation=st.booleans(), skip_special=st.booleans())
def test_pushes_join_to_the_decoded_text(tokenizer, data, continuation, skip_special):
    ids = data.draw(ids_of(tokenizer))
    options = {"continuation": continuation, "skip_special": skip_special}
    whole = tokenizer.decode(ids, **options)
    stream = StreamDecoder(tokenizer, **options)
    text = ""
    for part in data.draw(split(ids)):
        text += stream.push(part)
        assert whole.startswith(text)
    assert whole.startswith(text + stream.pending())
    assert text + stream.flush() == whole


@check
@given(text=texts)
def test_no_replacement_character_before_the_flush(tokenizer, text):
    text = text.replace("\ufffd", "")
    stream = StreamDecoder(tokenizer, continuation=False)
    for index in tokenizer.encode(text)[:-1]:
        assert "\ufffd" not in stream.push([index])


@check
@given(data=st.data())
def test_prompt_and_continuation_join(tokenizer, data):
    ids = tokenizer.encode(data.draw(texts).replace("\ufffd", ""))
    cut = data.draw(st.integers(0, len(ids)))
    head, whole = tokenizer.decode(ids[:cut]), tokenizer.decode(ids)
    if head and "\ufffd" not in head:  # not cut inside a character
        assert head + tokenizer.decode(ids[cut:], continuation=True) == whole


@check
@given(data=st.data())
def test_tokens_covering_is_the_smallest_number(tokenizer, data):
    ids = data.draw(ids_of(tokenizer))
    text = tokenizer.decode(ids, continuation=True)
    wanted = text[: data.draw(st.integers(0, len(text)))]
    covers = [
        n
        for n in range(len(ids) + 1)
        if tokenizer.decode(ids[:n], continuation=True).startswith(wanted)
    ]
    assert tokens_covering(tokenizer, ids, len(wanted)) == covers[0]


def text_before(tokenizer, ids, at):
    """Text without special tokens of ids whose text with them is cut at `at`; and the ids kept."""
    kept = tokens_covering(tokenizer, ids, at, skip_special=False)
    text = tokenizer.decode(ids[:kept], continuation=True)
    if not kept or ids[kept - 1] in tokenizer.special_ids:
        return text, kept
    past = len(tokenizer.decode(ids[:kept], False, continuation=True)) - at
    whole_tokens = len(StreamDecoder(tokenizer).push(ids[: kept - 1]))
    return text[: max(len(text) - past, whole_tokens)], kept


@check
@given(data=st.data(), stops=stop_lists)
def test_stop_does_not_depend_on_the_split(tokenizer, data, stops):
    special = [tokenizer.decode([i], False) for i in tokenizer.special_ids]
    stops = stops + data.draw(st.lists(st.sampled_from([*special, "/s", ">", ">a"]), max_size=1))
    ids = data.draw(ids_of(tokenizer))
    at = find_stop(tokenizer.decode(ids, False, continuation=True), stops)
    expected, kept = tokenizer.decode(ids, continuation=True), len(ids)
    if at is not None:
        expected, kept = text_before(tokenizer, ids, at)
    trimmer = StopTrimmer(tokenizer, stops)
    released = ""
    for part in data.draw(split(ids)):
        released += trimmer.push(part)
        assert expected.startswith(released)
    released += trimmer.flush()
    assert (released, trimmer.kept_tokens, trimmer.stopped) == (expected, kept, at is not None)
    assert trim_at_stop(tokenizer, ids, stops) == (expected, kept, trimmer.stop)


@check
@given(text=st.text("abc", max_size=12), stops=st.lists(st.text("abc", min_size=1), max_size=4))
def test_find_stop_reads_letter_by_letter(text, stops):
    prefixes = (text[:n] for n in range(len(text) + 1))
    first = next((p for p in prefixes if p.endswith(tuple(stops))), None) if stops else None
    starts = [] if first is None else [len(first) - len(s) for s in stops if first.endswith(s)]
    assert find_stop(text, stops) == min(starts, default=None)
