"""The model of lm_eval, against lm_eval's own Hugging Face model on the same folder."""

import logging
import tomllib
import warnings
from importlib.metadata import EntryPoint
from pathlib import Path

import lm_eval_cases as cases
import numpy as np
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of lm_eval's libraries
    pytest.importorskip("lm_eval")
    from lm_eval.api.instance import Instance
    from lm_eval.api.registry import get_model

    from mtad_jax.decode.drafters import recycling
    from mtad_jax.integrations.lm_eval.model import MtadLM

ROOT = Path(__file__).parents[2]
LOUD = pytest.mark.filterwarnings("ignore")  # theirs
LONG = "hello world, naïve café — two  spaces " * 20
TOLERANCE = 1e-4  # of log-likelihoods; never to be relaxed


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[str, str]:
    base = tmp_path_factory.mktemp("pair")
    return str(cases.folder(base / "target")), str(cases.folder(base / "draft", layers=1))


@pytest.fixture(scope="module")
def ours(pair) -> MtadLM:
    target, draft = pair
    return MtadLM(target, draft, "mmtad", depth=3, width=2, batch_size=3, max_gen_toks=10)


@pytest.fixture(scope="module")
def theirs(pair):
    pytest.importorskip("accelerate")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lm_eval.models.huggingface import HFLM

        return HFLM(pretrained=pair[0], device="cpu", dtype="float32", batch_size=2)


class Hook:
    """Keeps what a model gives to lm_eval's cache."""

    def __init__(self):
        self.kept = {}

    def add_partial(self, attribute, request, result):
        self.kept[attribute, repr(request)] = result


def ask(lm, kind: str, arguments: list) -> tuple[list, dict]:
    """Return a model's answers and what its cache got."""
    requests = [Instance(kind, {}, given, i) for i, given in enumerate(arguments)]
    lm.set_cache_hook(hook := Hook())
    return getattr(lm, kind)(requests), hook.kept


PAIRS = [
    ("The cat", " sat on the mat"),
    ("The cat ", "sat on the mat"),
    ("The cat", "ch 22"),  # its first token may be one with the context's last
    ("", "hello world"),
    ("", "<|begin_of_text|>hello"),
    ("<|begin_of_text|>The", " dog"),
    (" ", "spaces alone"),
    ("日本語", " 😀"),
    *[("What is it? A. B. C. Answer:", f" {letter}") for letter in "ABC"],
    (LONG, " end"),
    ("start", LONG[:90]),
    ("The cat", " sat on the mat"),
]


@LOUD
@pytest.mark.slow
def test_log_likelihoods_and_greedy_flags_are_theirs(ours, theirs, caplog):
    with caplog.at_level(logging.WARNING):
        found, kept = ask(ours, "loglikelihood", PAIRS)
    assert "1 of 14 requests are longer than max_length=96" in caplog.text
    wanted, wanted_kept = ask(theirs, "loglikelihood", PAIRS)
    logp, greedy = zip(*found, strict=True)
    wanted_logp, wanted_greedy = zip(*wanted, strict=True)
    np.testing.assert_allclose(logp, wanted_logp, atol=TOLERANCE, rtol=0)
    assert greedy == wanted_greedy
    assert np.std(logp) > 1  # otherwise agreement would mean little
    assert kept.keys() == wanted_kept.keys()


@LOUD
@pytest.mark.slow
def test_greedy_flags_of_what_greedy_says(ours, theirs):
    words = {ours.tok_decode([i]) for i in range(350)}
    contexts = ("The cat", "hello world,", "def f(x):", "日本")
    asked = [(c, word) for c in contexts for word in sorted(words) if word and "\ufffd" not in word]
    found, _ = ask(ours, "loglikelihood", asked)
    wanted, _ = ask(theirs, "loglikelihood", asked)
    assert [flag for _, flag in found] == [flag for _, flag in wanted]
    assert any(flag for _, flag in wanted)


@LOUD
@pytest.mark.slow
def test_rolling_windows_are_theirs(ours, theirs):
    texts = [("The dog ran home fast.",), (LONG,), ("",)]
    (found, kept), (wanted, wanted_kept) = (
        ask(lm, "loglikelihood_rolling", texts) for lm in (ours, theirs)
    )
    np.testing.assert_allclose(found, wanted, atol=TOLERANCE, rtol=1e-6)
    assert kept.keys() == wanted_kept.keys()


@LOUD
@pytest.mark.slow
def test_greedy_answers_are_theirs(ours, theirs, caplog):
    greedy = {"until": ["\n\n"], "do_sample": False, "temperature": 0.0, "max_gen_toks": 10}
    prompts = ["The cat sat", "def f(x):\n    return", "日本語", "hello world, ", LONG]
    asked = [(prompt, greedy) for prompt in prompts]
    first = ask(theirs, "generate_until", asked[:1])[0][0]
    assert len(first) > 6
    asked += [(prompts[0], greedy | {"until": first[4:6]}), (prompts[1], {"until": [""]})]
    with caplog.at_level(logging.WARNING):
        found, kept = ask(ours, "generate_until", asked[:-1])
    assert "1 of 5 prompts are longer than the" in caplog.text
    wanted, wanted_kept = ask(theirs, "generate_until", asked[:-1])
    ahead = prompts.index(LONG)  # rules that look ahead see less of a prompt that is too long
    assert found[:ahead] + found[ahead + 1 :] == wanted[:ahead] + wanted[ahead + 1 :]
    assert found[-1] == first[:4]
    assert kept.keys() == wanted_kept.keys()
    assert ask(ours, "generate_until", asked[-1:])[0] == ask(ours, "generate_until", [asked[1]])[0]
    info = ours.get_model_info()
    assert info["strategy"] == "mmtad" and info["strategy_settings"] == {"depth": 3, "width": 2}
    assert info["generated_tokens"] >= info["target_calls"] > 0


@LOUD
@pytest.mark.slow
def test_prompts_that_are_too_long_lose_what_theirs_lose(pair, theirs):
    plain = MtadLM(pair[0], strategy="greedy")  # looks at nothing ahead
    asked = [(LONG, {"max_gen_toks": 8})]
    assert ask(plain, "generate_until", asked)[0] == ask(theirs, "generate_until", asked)[0]


@LOUD
@pytest.mark.slow
def test_chats_are_theirs(pair, ours, theirs, tmp_path):
    chat = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Who ran home? "},
        {"role": "assistant", "content": "The dog "},
    ]
    for messages, begin in ((chat[:2], True), (chat, False)):
        found = ours.apply_chat_template(messages, add_generation_prompt=begin)
        assert found == theirs.apply_chat_template(messages, add_generation_prompt=begin)
    assert ours.chat_template(True) == theirs.chat_template(True) == cases.TEMPLATE
    # Of the text only what the template made: no second start token.
    ids = ours.tok_encode(found)
    assert ids == theirs.tok_encode(found) and ids.count(ours.prefix_token_id) == 1
    before = theirs.tokenizer.chat_template
    refusing = cases.NO_SYSTEM + cases.TEMPLATE
    config = cases.folder(tmp_path / "folder", layers=1, chat_template=refusing)
    other = MtadLM(str(config), strategy="greedy")
    try:
        theirs.tokenizer.chat_template = refusing
        assert other.apply_chat_template(chat[:2]) == theirs.apply_chat_template(chat[:2])
    finally:
        theirs.tokenizer.chat_template = before
    with pytest.raises(ValueError, match="no chat template 'short'"):
        ours.chat_template("short")


@pytest.mark.slow
def test_draws_depend_on_the_request_not_on_the_batch(pair, ours):
    asked = [(text, {"do_sample": True, "max_gen_toks": 8}) for text in ("The", "a cat", "The")]
    found, _ = ask(ours, "generate_until", asked)
    alone = MtadLM(*pair, "mmtad", depth=3, width=2, batch_size=1)
    assert ask(alone, "generate_until", asked)[0] == found
    assert found[0] != found[2]  # the same prompt, another request: as with `repeats` of a task
    other = MtadLM(*pair, "mmtad", depth=3, width=2, batch_size=3, seed=1)
    assert ask(other, "generate_until", asked)[0] != found


def test_rows_are_those_of_a_batch_not_of_all_requests(pair, monkeypatch):
    lm = MtadLM(pair[0], strategy="recycle", batch_size=1)
    monkeypatch.setattr(recycling, "MOST_BYTES", 4 * lm._target.lm.vocab_size * 4)
    asked = [(text, {"max_gen_toks": 2}) for text in ("The", "a cat")]
    assert len(ask(lm, "generate_until", asked)[0]) == 2


# A rounding of float32 may turn one of int8.
@pytest.mark.parametrize(("int8", "tolerance"), [("weights", TOLERANCE), ("kv", 0.02)])
@pytest.mark.slow
def test_scores_in_int8_are_those_of_decoding(int8, tolerance, tmp_path):
    folder = str(cases.folder(tmp_path / "folder", padding=0))  # decoding leaves padding out
    lm = MtadLM(folder, strategy="greedy", target_int8=int8, batch_size=2)
    prompt = lm.tok_encode("The cat sat on")
    answerer = lm._answerer
    [done] = answerer.pipeline([prompt], strategy=answerer.strategy, max_new_tokens=6)
    [(logp, greedy)] = lm._loglikelihood_tokens([(None, prompt, done.tokens)])
    assert greedy and logp == pytest.approx(sum(done.logp_raw), abs=tolerance)
    full = MtadLM(folder, strategy="greedy")
    [(other, _)] = full._loglikelihood_tokens([(None, prompt, done.tokens)])
    assert abs(other - logp) > TOLERANCE, (other, logp, done.logp_raw)  # int8 is not ignored


@pytest.mark.slow
def test_scores_on_a_mesh_are_the_same(pair):
    plain = MtadLM(pair[0], strategy="greedy", batch_size=2)
    split = MtadLM(pair[0], strategy="greedy", batch_size=3, mesh="data:2,fsdp:2,model:2")
    found, wanted = (ask(model, "loglikelihood", PAIRS[:5])[0] for model in (split, plain))
    np.testing.assert_allclose(
        [logp for logp, _ in found], [logp for logp, _ in wanted], atol=TOLERANCE, rtol=0
    )


def test_lm_eval_knows_the_model_by_name_and_by_entry_point():
    assert get_model("mtad_jax") is MtadLM
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    [(name, value)] = groups["lm_eval.models"].items()
    assert EntryPoint(name, value, "lm_eval.models").load() is get_model(name)
