"""Penalty, bans, minimum length and min-p: in every rule, at every place of a draft."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
from draft_shapes import each
from hf_controls import Asked

from mtad_jax import recipes
from mtad_jax.decode.engine import generate
from mtad_jax.decode.logits import History, law
from mtad_jax.decode.state import Controls
from mtad_jax.testing import table_lm

VOCAB, END, NEW = 12, 0, 10
LENGTHS = np.array([1, 9, 4] + 9 * [1])  # short texts: a path has tokens that they have not
PROMPTS = np.random.default_rng(2).integers(1, VOCAB, (len(LENGTHS), 9))
SMALL = {
    "depth": 3, "width": 3, "chains": 2, "branching": (2, 2), "ngram": 1, "tau": 0.5,
    "leniency": 0.7, "epsilon": 0.3, "alpha": 0.3, "fallback": 0.2, "rollback": 3.0, "accept": 0.8,
}  # fmt: skip
RULES = {
    name: recipe(**{k: v for k, v in SMALL.items() if k in inspect.signature(recipe).parameters})
    for name, recipe in inspect.getmembers(recipes, inspect.isfunction)
    if recipe.__module__ == recipes.__name__ and not name.startswith("_")
}
# Do not take whatever comes from the target itself, or count nothing as accepted.
PICKY = {"mtjd", "typical", "bild", "dsbd", "speculative_beam", "speculative_mtjd"}
BY_RAW_LAWS = {"bild", "cascade", "fuzzy"}  # they decide what stays, whatever the warp
# The same tokens kept in all tests of a rule: one program for it.
ALL = Asked(1.7, (3, 5), 6, (END, 8), temperature=0.9, top_k=7, top_p=0.95, min_p=0.01)


def named(names) -> list:
    """Rules in order; those whose parts others test already come later."""
    return each(sorted(names), ("greedy", "beam", "speculative", "specinfer", "mmtad"))


def tables(noise=0.7):
    rng = np.random.default_rng(0)
    target = rng.normal(scale=1.5, size=(31, VOCAB))
    return target, target + rng.normal(scale=noise, size=target.shape)


TARGET, DRAFT = tables()


def decode(strategy, asked: Asked, *, draft=DRAFT, prompts=PROMPTS, lengths=LENGTHS, **more):
    given = table_lm(draft) if strategy.needs_draft else None
    settings = {"max_new_tokens": NEW} | asked.settings() | more
    return generate(table_lm(TARGET), prompts, lengths, strategy=strategy, draft=given, **settings)


def texts(result) -> list[list[int]]:
    pairs = zip(np.asarray(result.tokens), np.asarray(result.length), strict=True)
    return [tokens[:n].tolist() for tokens, n in pairs]


def oracle_law(asked: Asked, prompt: int, table=TARGET):
    """The next-token law of a table under Hugging Face's processors."""
    model = ref.TableModel(table)
    return lambda text: asked.logp(model.logits(text), text, prompt)


@pytest.mark.parametrize(
    "asked",
    [
        Asked(penalty=1.3),
        Asked(penalty=0.6),
        Asked(banned=(0, 7)),
        Asked(least=4, ends=(2, 9)),
        Asked(least=3, ends=(2, 9)),
        Asked(min_p=0.2),
        Asked(min_p=0.1, top_p=0.8, top_k=9, temperature=0.7),
        Asked(min_p=0.05, temperature=1.6, top_p=0.95),
        Asked(1.5, (1, 4), 5, (3,), temperature=1.4, top_k=12, top_p=0.9, min_p=0.03),
        Asked(1.5, (1, 4), 5, (3,), temperature=0.0, top_k=12, top_p=0.9, min_p=0.03),
    ],
)
def test_the_law_is_that_of_their_processors(asked):
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=2, size=(4, 2, 23)).astype(np.float32)
    paths = rng.integers(0, 23, (4, 2, 11))  # 8 of the prompt, 3 new
    seen = np.zeros(logits.shape, bool)
    np.put_along_axis(seen, paths, True, axis=2)
    setting = asked.settings()
    controls = Controls(
        setting["warp"], setting["warp"], jnp.array(asked.ends, jnp.int32),
        banned=jnp.isin(jnp.arange(23), jnp.array(asked.banned, jnp.int32)),
        penalty=None if asked.penalty is None else jnp.float32(asked.penalty),
    )  # fmt: skip
    past = History(jnp.asarray(seen), jnp.full((4, 2), asked.least - 3))
    got = np.asarray(law(jnp.asarray(logits), past, controls, controls.warp))
    for place in np.ndindex(4, 2):
        want = asked.logp(logits[place], tuple(paths[place].tolist()), prompt=8)
        np.testing.assert_allclose(got[place], want, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("name", named(RULES.keys() - BY_RAW_LAWS))
def test_at_temperature_0_every_rule_gives_greedys_text(name):
    """So every place of a draft is judged under the penalty and the length of its own path.

    Not those whose raw laws say what stays.
    """
    asked = dataclasses.replace(ALL, temperature=0.0)
    got = texts(decode(RULES[name], asked))
    for prompt, n, text in zip(PROMPTS, LENGTHS, got, strict=True):
        prompt = tuple(prompt[:n].tolist())
        want = ref.greedy(
            oracle_law(asked, n), prompt, max_new_tokens=NEW, ends=frozenset(ALL.ends)
        )
        assert text == list(want)


@pytest.mark.parametrize("name", named(RULES.keys()))
def test_texts_and_their_log_probabilities_obey_the_controls(name):
    # BiLD refuses a penalty, which its raw distributions would not see.
    asked = dataclasses.replace(ALL, penalty=None) if name == "bild" else ALL
    result = decode(RULES[name], asked, seed=4)
    for row, (n, text) in enumerate(zip(LENGTHS, texts(result), strict=True)):
        assert not set(text) & set(asked.banned)
        assert not set(text[: asked.least]) & set(asked.ends)
        whole, model = tuple(PROMPTS[row, :n].tolist()), ref.TableModel(TARGET)
        for i, token in enumerate(text):
            warped = oracle_law(asked, n)(whole)[token]
            raw = ref.warp(model.logits(whole))[token]
            assert np.isfinite(warped) or name in BY_RAW_LAWS  # may keep what the warp cut
            np.testing.assert_allclose(result.trace.logp[row, i], warped, atol=2e-5)
            np.testing.assert_allclose(result.trace.logp_raw[row, i], raw, atol=2e-5)
            whole += (token,)


@pytest.mark.parametrize("name", named(n for n in RULES.keys() - PICKY if RULES[n].needs_draft))
def test_a_draft_by_the_target_is_accepted_whole(name):
    """Draft and target see the same penalty at the same place, so p = q there.

    With a penalty that makes drafts repeat themselves.
    """
    result = decode(RULES[name], dataclasses.replace(ALL, penalty=0.3), draft=TARGET, seed=1)
    stats = result.stats()
    assert stats.accepted.sum() > 0
    np.testing.assert_array_equal(stats.accepted, stats.drafted)
    np.testing.assert_allclose(result.trace.log_ratio, 0, atol=1e-5)


def test_speculative_sampling_with_controls_has_samplings_law():
    """And with a draft that is sharpened in another way: 20,000 texts of two tokens."""
    asked = Asked(2.5, (3,), 2, (END,), top_k=6)
    count, prompt = 20_000, (1, 4, 4)
    result = decode(
        RULES["speculative"], asked, prompts=np.tile(prompt, (count, 1)), lengths=[3] * count,
        max_new_tokens=2, draft_warp=Asked(temperature=0.6).settings()["warp"],
    )  # fmt: skip
    got = np.zeros((VOCAB, VOCAB))
    np.add.at(got, tuple(np.asarray(result.tokens).T), 1 / count)
    law_ = oracle_law(asked, 3)
    first = np.exp(law_(prompt))
    want = np.stack([p * np.exp(law_((*prompt, i))) for i, p in enumerate(first)])
    error = np.sqrt(want * (1 - want) / count)
    assert (np.abs(got - want) <= 5 * error + 1e-9).all()
    unpenalised = oracle_law(Asked(banned=(3, END), top_k=6), 3)
    other = np.stack([p * np.exp(unpenalised((*prompt, i))) for i, p in enumerate(first)])
    assert (np.abs(got - other) > 5 * error + 1e-9).any()  # the test can tell


def test_an_end_that_is_banned_never_comes():
    result = decode(RULES["sample"], Asked(banned=(END,), ends=(END,)))
    assert result.length.tolist() == [NEW] * len(LENGTHS)
    assert END not in np.asarray(result.tokens)


def test_a_seed_a_prompt_gives_its_texts_wherever_it_stands():
    call = {"asked": Asked(penalty=1.3), "samples": 3}
    rule = RULES["speculative"]
    few = {"prompts": PROMPTS[:3], "lengths": LENGTHS[:3], "seed": [5, 6, 7]}
    base = texts(decode(rule, **few, **call))
    assert len({tuple(text) for text in base}) == 9
    order = [2, 0, 1]
    turned = decode(rule, prompts=PROMPTS[order], lengths=LENGTHS[order], seed=[7, 5, 6], **call)
    got = texts(turned)
    assert [got[3 * order.index(i) + s] for i in range(3) for s in range(3)] == base
    alone = decode(rule, prompts=PROMPTS[1:2], lengths=LENGTHS[1:2], seed=[6], **call)
    assert texts(alone) == base[3:6]
    one = decode(rule, asked=call["asked"], **few)
    assert texts(one) == base[::3]  # the first sample is what one sample would be
    ids = decode(rule, **few, row_ids=[2, 1, 0] * 3, **call)
    assert texts(ids) == [base[3 * i + s] for i in range(3) for s in (2, 1, 0)]


def test_samples_of_one_seed_are_rows_in_order():
    """Prompt-major, each row the stream of its place."""
    rule = RULES["sample"]
    got = decode(rule, Asked(), samples=2, seed=9)
    want = decode(
        rule, Asked(), prompts=np.repeat(PROMPTS, 2, axis=0), lengths=np.repeat(LENGTHS, 2), seed=9
    )
    jax.tree.map(np.testing.assert_array_equal, got, want)
