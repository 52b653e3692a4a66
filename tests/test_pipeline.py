"""The shipped pair, and text that is cut: text, ids, log-probabilities and counters together."""

import json
import tracemalloc
import types
from importlib import resources

import jax
import numpy as np
import pytest
import torch
from tiny_pair import write_pair
from transformers import LlamaForCausalLM

from experiments.tasks.shipped import make_tasks
from mtad_jax import Pipeline, Warp, generate, recipes
from mtad_jax.batches import even_size
from mtad_jax.completions import Piece
from mtad_jax.decode.drafters import recycling
from mtad_jax.decode.loop import run_rounds
from mtad_jax.text.stream import StreamDecoder

WARP = Warp(temperature=1.0, top_p=0.9, top_k=10)
PROMPT = "Once upon a time there was a king who had"
RULES = {
    "sample": recipes.sample(),
    "beam": recipes.beam(2),
    "speculative": recipes.speculative(3),
    "mtad": recipes.mtad(3, 2),
    "mmtad": recipes.mmtad(3, 2),
}


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return Pipeline.shipped()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Pipeline:
    """A random pair, for what has nothing to do with the models."""
    return Pipeline.load(*write_pair(tmp_path_factory.mktemp("pair")))


def test_shipped_pair_is_small_and_bound(pipe):
    folder = resources.files("mtad_jax") / "assets"
    sizes = [f.stat().st_size for part in ("target", "draft") for f in (folder / part).iterdir()]
    assert sum(sizes) <= 25e6
    assert json.loads((folder / "target" / "config.json").read_text())["vocab_size"] == 2048
    assert pipe.draft is not None and pipe.target.eos_ids == (2,)


@pytest.mark.slow
def test_shipped_target_is_what_transformers_makes_of_it(pipe):
    path = resources.files("mtad_jax") / "assets" / "target"
    model = LlamaForCausalLM.from_pretrained(str(path), dtype=torch.float32).eval()
    ids = pipe.encode(PROMPT)
    with torch.no_grad():
        want = model.generate(
            torch.tensor([ids]), do_sample=False, max_new_tokens=24, pad_token_id=0
        )[0, len(ids) :]
    for rule in (recipes.greedy(), recipes.mmtad(3, 2)):
        row = pipe([PROMPT], strategy=rule, warp=Warp(temperature=0.0), max_new_tokens=24)[0]
        assert row.tokens == want.tolist()


@pytest.mark.parametrize("name", RULES)
@pytest.mark.slow
def test_a_stop_string_cuts_everything_together(pipe, name):
    call = {"strategy": RULES[name], "warp": WARP, "max_new_tokens": 24, "eos_id": ()}
    tokenizer = pipe.target.tokenizer
    [whole] = pipe([PROMPT], **call)
    assert whole.text == tokenizer.decode(whole.tokens, continuation=True)
    [untouched] = pipe([PROMPT], stop=["zqzqz"], **call)
    assert untouched == whole
    stop = whole.text[len(whole.text) // 2 :][:4]
    [cut] = pipe([PROMPT], stop=[stop], **call)
    assert cut.finish_reason == "stop" and cut.text == whole.text[: whole.text.index(stop)]
    count = len(cut.tokens)
    assert cut.tokens == whole.tokens[:count]
    assert cut.logp == whole.logp[:count] and len(cut.logp_raw) == count
    assert tokenizer.decode(cut.tokens, continuation=True).startswith(cut.text)
    assert cut.stats.accepted <= count and cut.stats.rounds <= whole.stats.rounds
    if name != "beam":  # which commits everything in its last round
        assert count <= cut.stats.accepted + cut.stats.rounds

    stream = pipe.stream(PROMPT, stop=[stop], **call)
    pieces = list(stream)
    assert "".join(pieces) == cut.text
    assert stream.completion == cut
    spans = [span for piece in pieces for span in piece.spans]
    assert "".join(text for text, _ in spans) == cut.text
    assert any(drafted for _, drafted in spans) == (cut.stats.accepted > 0)


@pytest.mark.slow
def test_a_stop_string_may_be_a_special_token(pipe):
    """`</s>` comes at the end of a query, and nothing else ends the text where it is no end."""
    prompt = make_tasks(0, 1, 1)[0].prompt
    call = {"strategy": recipes.mmtad(3, 2), "warp": WARP, "max_new_tokens": 64}
    [whole] = pipe([prompt], eos_id=(), **call)
    at = whole.tokens.index(2)
    assert pipe.target.tokenizer.decode([2], False) == "</s>" and "</s>" not in whole.text
    for ends in ((), (2,)):
        [cut] = pipe([prompt], stop=["</s>"], eos_id=ends, **call)
        assert cut.finish_reason == "stop" and cut.tokens == whole.tokens[:at]
        assert cut.text == pipe.target.tokenizer.decode(cut.tokens, continuation=True)
        assert cut.logp == whole.logp[:at] and cut.logp_raw == whole.logp_raw[:at]
        assert sum(cut.stats.endings.values()) == cut.stats.rounds <= whole.stats.rounds
        assert at <= cut.stats.accepted + cut.stats.rounds and cut.stats.accepted <= at
        stream = pipe.stream(prompt, stop=["</s>"], eos_id=ends, **call)
        assert "".join(stream) == cut.text and stream.completion == cut


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sample", "mmtad"])
def test_a_piece_says_which_tokens_were_drafted(pipe, name):
    """As the trace does, token by token."""
    call = {"strategy": RULES[name], "warp": WARP, "max_new_tokens": 24}
    result = list(pipe.results([PROMPT], rounds=99, **call))[-1]
    ids = np.asarray(result.tokens)[0, : int(result.length[0])].tolist()
    drafted = (np.asarray(result.trace.place)[0] > 0).tolist()
    decoder = StreamDecoder(pipe.target.tokenizer)
    wanted = Piece.of((decoder.push([i]), own) for i, own in zip(ids, drafted, strict=False))
    got = Piece.of(span for piece in pipe.stream(PROMPT, **call) for span in piece.spans)
    assert got == wanted and got.spans == wanted.spans
    assert {own for _, own in got.spans} == ({False, True} if name == "mmtad" else {False})


@pytest.mark.slow
def test_samples_seeds_and_controls(pipe):
    """One program, both ways: prompt-major samples, each cut at its own stop string."""
    call = {"strategy": RULES["sample"], "warp": WARP, "max_new_tokens": 16, "samples": 3}
    banned = pipe.encode("the")[-1]
    call |= {"banned_ids": [banned], "repetition_penalty": 1.2, "min_new_tokens": 16}
    first, second = pipe.encode(PROMPT), pipe.encode("A fox and a")
    got = pipe([PROMPT, second], seed=[4, 9], **call)
    assert [row.prompt_ids for row in got] == [first] * 3 + [second] * 3
    assert len({row.text for row in got}) == 6
    turned = pipe([second, PROMPT], seed=[9, 4], **call)
    assert [row.tokens for row in turned] == [row.tokens for row in got[3:] + got[:3]]
    for row in got:
        assert banned not in row.tokens and not set(row.tokens[:-1]) & set(pipe.target.eos_ids)
        assert len(row.tokens) == 16  # no end before the minimum
    stop = got[1].text[8:11]
    cut = pipe([PROMPT, second], seed=[4, 9], stop=[stop], **call)
    for row, whole in zip(cut, got, strict=True):
        assert row.text == whole.text.split(stop)[0]
        assert row.finish_reason == ("stop" if stop in whole.text else whole.finish_reason)
    assert len(cut[1].tokens) < 16  # a stop string may come before the minimum


def test_what_the_pipeline_refuses(pipe):
    good = {"strategy": recipes.lookup(2, 3), "max_new_tokens": 8}
    pipe.check([PROMPT], **good)
    for prompts, change, message in (
        ([PROMPT], {"samples": 2, "warp": Warp(0.0)}, "samples=2 at temperature 0"),
        ([PROMPT], {"stop": ""}, "stop='' must be a list"),
        ([PROMPT], {"stop": None}, r"stop=None must be a list of strings: write \(\) for none"),
        ([PROMPT], {"stop": [5]}, r"stop=\[5\] must be a list of strings"),
        ([PROMPT], {"stop": ["x", ""]}, "stop holds an empty string"),
        ([], {}, "prompts is empty"),
        ([PROMPT, [5, 6]], {}, "ngram=3 > 2"),
        ([[5, 6, 5000]], {}, "holds id 5000, outside"),
        ([[5, 2**63]], {}, f"holds id {2**63}, outside"),
        ([[5], [-(2**70)]], {}, f"holds id -{2**70}, outside"),
        ([PROMPT], {"eos_id": 5000}, "eos_id=5000 is outside"),
        ([PROMPT], {"draft_warp": Warp()}, "draft_warp is given"),
    ):
        for call in (pipe, pipe.check):
            with pytest.raises(ValueError, match=message):
                call(prompts, **good | change)
    with pytest.raises(ValueError, match="samples=2: a stream is one text"):
        pipe.stream(PROMPT, samples=2, **good)
    with pytest.raises(TypeError, match="no setting is called top_k"):
        pipe([PROMPT], top_k=3, **good)


MISTAKES = {
    "ids of one prompt": ([5, 6], r"prompts\[0\]=5 is a number: one prompt of token ids is \[\[5"),
    "bytes": ([b"Once"], r"prompts\[0\] is bytes: give text: prompt\.decode\(\)"),
    "all bytes": (b"Once", r"prompts=b'Once' is a bytes: give a list of texts"),
    "nothing": (None, r"prompts=None is a NoneType: give a list of texts"),
    "row": ({"prompt": "Once"}, r"prompts=\{.* is a dict: give a list of texts"),
    "set": ({"Once"}, r"prompts=\{'Once'\} is a set: give a list"),
    "message": (
        [{"role": "user", "content": "hi"}],
        r"prompts\[0\] is a dict, as chats have: give",
    ),
    "chat": (
        [[{"role": "user", "content": "hi"}]],
        r"prompts\[0\] holds \{'role': 'user'.* is a dict",
    ),
    "none inside": (["a", None], r"prompts\[1\] is a NoneType: give text"),
    "texts inside": ([["a", "b"]], r"prompts\[0\]=\['a', 'b'\] is a list that holds text"),
    "real ids": ([[5.0, 6.5]], r"prompts\[0\] holds 5\.0, which is a float"),
    "truth": ([[True]], r"prompts\[0\] holds True, which is a bool"),
    "huge id": (["a", [2**63]], r"prompts\[1\] holds id 9223372036854775808, outside \[0, 2047\]"),
    "negative id": ([[-1]], r"prompts\[0\] holds id -1, outside"),
    "no ids": ([[]], r"prompts\[0\] is empty"),
}


@pytest.mark.parametrize(("prompts", "message"), MISTAKES.values(), ids=MISTAKES)
def test_what_is_no_prompt(pipe, prompts, message):
    call = {"strategy": RULES["sample"], "max_new_tokens": 4}
    for ask in (pipe, pipe.check, lambda *x, **y: pipe.results(*x, rounds=1, **y)):
        with pytest.raises((TypeError, ValueError), match=message) as error:
            ask(prompts, **call)
        assert "\n" not in str(error.value) and error.value.__cause__ is None


def test_other_mistakes(pipe):
    call = {"strategy": RULES["mtad"], "max_new_tokens": 4}
    for ask, change, message in (
        (lambda **x: pipe.stream(["a"], **x), {}, r"prompt=\['a'\] is a list that holds text, not"),
        (lambda **x: pipe.stream("a", **x), {"rounds": 1.5}, r"rounds=1\.5 must be a whole number"),
        (lambda **x: pipe("a", **x), {"strategy": "mtad"}, r"strategy='mtad' .* recipes\.mtad\(\)"),
        (
            lambda **x: pipe("a", **x),
            {"draft": pipe.draft},
            "no setting is called draft: .*Pipeline",
        ),
        (lambda **x: pipe("a", **x), {"seed": jax.random.key(0)}, "seed is a random key of JAX"),
        (lambda **x: pipe("a", **x), {"batch_size": 0}, "batch_size=0 must be a whole number >= 1"),
        (lambda **x: pipe(["a", "b"], **x), {"seed": [1], "batch_size": 1}, "seed has 1 items"),
        (
            lambda **x: generate(pipe, [[1]], [1], **x),
            {},
            r"target is a Pipeline.*: call it, pipe\(",
        ),
        (lambda **x: generate(pipe.target, [[1]], [1], **x), {}, r"give its model: target=<Loade"),
    ):
        with pytest.raises((TypeError, ValueError), match=message) as error:
            ask(**call | change)
        assert "\n" not in str(error.value)
    with pytest.raises(TypeError, match="path is a LoadedModel: give the name of a checkpoint's"):
        Pipeline.load(pipe.target)


@pytest.mark.slow
def test_a_text_is_one_prompt_and_ids_may_be_arrays(tiny):
    call = {"strategy": RULES["sample"], "warp": WARP, "max_new_tokens": 4}
    want = tiny([PROMPT], **call)
    ids = tiny.encode(PROMPT)
    assert len(want) == 1
    for same in (PROMPT, (PROMPT,), iter([PROMPT]), [ids], [tuple(ids)], np.array([ids])):
        assert tiny(same, **call) == want
    assert "".join(tiny.stream(np.array(ids), **call)) == want[0].text


@pytest.mark.slow
def test_prompts_are_encoded_once(tiny, monkeypatch):
    seen, encode = [], type(tiny.target.tokenizer).encode
    monkeypatch.setattr(
        type(tiny.target.tokenizer),
        "encode",
        lambda self, text: seen.append(text) or encode(self, text),
    )
    call = {"strategy": RULES["sample"], "warp": WARP, "max_new_tokens": 4}
    tiny([PROMPT, "A fox"], **call)
    assert seen == [PROMPT, "A fox"]
    tiny([PROMPT, "A fox"], batch_size=1, **call)
    tiny.check(["A fox"], **call)
    list(tiny.stream("A fox", **call))
    assert seen == [PROMPT, "A fox"] * 2 + ["A fox"] * 2


@pytest.mark.slow
def test_batches_give_the_texts_of_one_batch(tiny, monkeypatch, capsys):
    prompts = ["The cat", "A", "Once", "hello", "It was"]
    call = {"strategy": RULES["sample"], "warp": WARP, "max_new_tokens": 8, "samples": 2}
    for streams in ({"seed": 3}, {"seed": [4, 9, 4, 1, 2]}, {"row_ids": range(20, 30)}):
        want = [row.tokens for row in tiny(prompts, **call | streams)]
        assert len(want) == 10
        got = tiny(prompts, batch_size=2, **call | streams)
        assert [row.tokens for row in got] == want
    assert not capsys.readouterr().err  # no terminal
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    tiny(prompts[:2], batch_size=2, **call)
    assert not capsys.readouterr().err  # one batch
    tiny(prompts[:3], batch_size=2, **call)
    assert "/6" in capsys.readouterr().err
    before = run_rounds._cache_size()
    with pytest.raises(ValueError, match="ngram=3 > 2 = the shortest prompt"):
        tiny([[5, 6, 7]] * 2 + [[5, 6]], batch_size=1, **call | {"strategy": recipes.lookup(2, 3)})
    assert run_rounds._cache_size() == before


def test_rows_are_counted_of_one_batch(tiny, monkeypatch):
    vocab = tiny.target.lm.vocab_size
    monkeypatch.setattr(recycling, "MOST_BYTES", 4 * vocab * 2 * 4)  # the tables of four rows
    prompts = [[5], [5, 6], [7], [8], [9, 5]]
    call = {"strategy": recipes.recycle(2, 2), "warp": WARP, "max_new_tokens": 2}
    tiny.check(prompts, batch_size=4, **call)
    assert len(tiny(prompts, batch_size=1, samples=2, **call)) == 10
    for size, samples, rows in ((None, 1, 5), (5, 1, 5), (3, 2, 6), (7, 1, 7)):
        with pytest.raises(ValueError, match=f"for each of {rows} rows"):
            tiny.check(prompts, batch_size=size, samples=samples, **call)
    with pytest.raises(ValueError, match="batch_size=0 must be a whole number >= 1"):
        tiny.check(prompts, batch_size=0, **call)


def test_a_check_holds_no_padded_prompts(tiny):
    prompts = [[5]] * 50_000 + [[5] * 200]
    tracemalloc.start()
    try:
        tiny.check(prompts, strategy=recipes.greedy(), max_new_tokens=2, batch_size=1)
        assert tracemalloc.get_traced_memory()[1] < 8 * 50_000 * 200 / 2
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("size", "samples", "split", "want"),
    [(1, 1, 4, 4), (5, 1, 4, 8), (8, 1, 4, 8), (1, 2, 4, 2), (3, 4, 4, 3), (3, 1, 1, 3)],
)
def test_batches_are_what_a_mesh_splits_evenly(size, samples, split, want):
    mesh = types.SimpleNamespace(shape={"data": split})
    assert even_size(size, samples, mesh) == want
    assert even_size(size, samples, None) == size


def test_calibrate_takes_texts(tiny, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "mtad_jax.calibration.calibrate.calibrate", lambda *args, **how: seen.append((args, how))
    )
    tiny.calibrate(["The cat", [5, 6, 7]], max_new_tokens=4, floor=None)
    tiny.calibrate("The cat", max_new_tokens=4, eos_id=())
    (target, draft, ids, length), how = seen[0]
    assert (target, draft) == (tiny.target.lm, tiny.draft.lm)
    assert [row[:n].tolist() for row, n in zip(ids, length, strict=True)] == [
        tiny.encode("The cat"),
        [5, 6, 7],
    ]
    assert how == {"max_new_tokens": 4, "floor": None, "eos_id": tiny.target.eos_ids}
    assert seen[1][1]["eos_id"] == () and seen[1][0][2].shape[0] == 1
