"""What must hold between the rules: who accepts more, who finds the likeliest block, who is greedy.

Accepted lengths are exact expectations, by enumeration of the engine's draws (`exact_engine`).
"""

import dataclasses
import functools
import inspect
import itertools
import math

import exact_engine as exact
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
from draft_shapes import each
from exact_engine import Setting

from mtad_jax import recipes
from mtad_jax.decode.draft import take
from mtad_jax.decode.engine import generate
from mtad_jax.decode.verifiers.joint import JointThreshold
from mtad_jax.decode.warp import Warp
from mtad_jax.testing import table_lm

ROUNDING = 1e-6


def pair(seed: int, vocab: int, *, change: float = 1.0, rows: int = 31) -> np.ndarray:
    """Logits of a target and of a draft that agrees with it now and then, [2, rows, V]."""
    random = np.random.default_rng(seed)
    target = random.normal(scale=1.5, size=(rows, vocab))
    return np.stack([target, target + change * random.normal(size=target.shape)]).astype(np.float32)


def texts_of(vocab: int, *lengths: int) -> list[ref.Text]:
    """All texts of some lengths."""
    return [text for n in lengths for text in itertools.product(range(vocab), repeat=n)]


PAIRS = {
    "near": Setting(pair(0, 3, change=0.4)),
    "far": Setting(pair(1, 3, change=3.0)),
    "ends": Setting(pair(2, 3), ends=frozenset({1})),
    "warped": Setting(pair(3, 3), Warp(0.6, 0.9), Warp(1.4), ends=frozenset({0})),
    "greedy": Setting(pair(4, 3), Warp(0.0), Warp(1.0)),
    "penalty": Setting(pair(5, 3), penalty=1.6),
}
TEXTS = texts_of(3, 1, 2)


def accepted(strategy, setting: Setting) -> np.ndarray:
    """Expected accepted tokens of a round after each of `TEXTS`."""
    rounds = exact.run_rounds(strategy, setting, TEXTS)
    return np.array([rounds.accepted(text) for text in TEXTS])


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_block_verification_accepts_at_least_what_speculative_sampling_does(depth):
    more = 0.0
    for setting in PAIRS.values():
        block = accepted(recipes.block(depth), setting)
        token_wise = accepted(recipes.speculative(depth), setting)
        assert (block >= token_wise - ROUNDING).all()
        more = max(more, (block - token_wise).max())
    # Of a single token the two are one rule.
    assert more < ROUNDING if depth == 1 else more > 0.01


def test_speculative_sampling_accepts_the_overlap_of_both_laws():
    """K = 1: 1 - TV(p, q), which no lossless rule with one candidate exceeds."""
    for setting in PAIRS.values():
        of_draft = dataclasses.replace(
            setting, tables=setting.tables[::-1], warp=setting.draft_warp or setting.warp
        )
        p, q = setting.target(), of_draft.target()
        want = [np.minimum(np.exp(p(text)), np.exp(q(text))).sum() for text in TEXTS]
        np.testing.assert_allclose(accepted(recipes.speculative(1), setting), want, atol=ROUNDING)


MORE_THAN = {  # the first accepts at least as much as the second, whatever the models
    "leniency": (recipes.lenient(2, leniency=0.6), recipes.speculative(2)),
    "mentored": (recipes.mentored(1, 0.1), recipes.mentored(1, 0.02)),
    "fuzzy": (recipes.fuzzy(1, 0.3), recipes.fuzzy(1, 0.03)),
    "the best rho": (recipes.spectr(1, 3), recipes.spectr(1, 3, "chains")),
    "two chains of SpecTr": (recipes.spectr(1, 2), recipes.speculative(1)),
    "a third chain": (recipes.spectr(1, 3), recipes.spectr(1, 2)),
    "a second child": (recipes.specinfer((2,)), recipes.speculative(1)),
    "a second child, another": (recipes.mcsd((2,)), recipes.speculative(1)),
    "whole paths": (recipes.traversal((2, 1)), recipes.mcsd((2, 1))),
    "whole paths, drawn anew": (recipes.traversal((2, 1), True), recipes.specinfer((2, 1))),
    "a second beam": (recipes.rsd_s(2, 2), recipes.speculative(2)),
    "a second child of traversal": (recipes.traversal((2, 1)), recipes.block(2)),
}


@pytest.mark.parametrize("name", MORE_THAN)
@pytest.mark.slow
def test_who_accepts_more(name):
    gains = [
        accepted(MORE_THAN[name][0], setting) - accepted(MORE_THAN[name][1], setting)
        for setting in PAIRS.values()
    ]
    assert np.min(gains) >= -ROUNDING and np.max(gains) > 0.01


ALIKE = {  # the same draws give the same texts
    "traversal of a chain": (recipes.traversal((1, 1, 1), True), recipes.block(3)),
    "traversal of a chain, distinct": (recipes.traversal((1, 1, 1)), recipes.block(3)),
    "traversal of one level": (recipes.traversal((3,)), recipes.mcsd((3,))),
    "traversal of one level, anew": (recipes.traversal((2,), True), recipes.specinfer((2,))),
    "one beam": (recipes.rsd_s(3, 1), recipes.speculative(3)),
    "one depth of beams": (recipes.rsd_s(1, 3), recipes.mcsd((3,))),
}


@pytest.mark.parametrize("name", ALIKE)
@pytest.mark.slow
def test_who_is_another_rule_draw_for_draw(name):
    target, draft = (table_lm(table) for table in TABLES)
    one, other = (
        generate(
            target, PROMPTS, np.full(len(PROMPTS), 2), strategy=strategy, draft=draft,
            warp=Warp(1.1, 0.95), max_new_tokens=NEW, eos_id=END, seed=3,
        )
        for strategy in ALIKE[name]
    )  # fmt: skip
    np.testing.assert_array_equal(one.tokens, other.tokens)
    np.testing.assert_array_equal(one.stats().accepted, other.stats().accepted)


@pytest.mark.slow
@pytest.mark.parametrize("draw", ["search", "sample"])
def test_mmtad_goes_at_least_as_deep_as_mtad_on_the_same_lattice(draw):
    """Depths count fillers: an ended candidate that is accepted whole has depth K."""
    depth, texts, judge = 3, texts_of(4, 1, 2, 3), jax.jit(JointThreshold.verify)
    one, many = (recipe(depth, 3, draw=draw).drafter for recipe in (recipes.mtad, recipes.mmtad))

    def depths(drafter, given, tau: float) -> np.ndarray:
        _, draft, logp, logits, controls = given
        leaf = judge(JointThreshold(tau), draft, logp, logits, None, controls).leaf
        whole = controls.is_end(take(draft.tokens, leaf)) & (leaf > 0) & drafter.chain
        return np.where(whole, depth, jnp.asarray(draft.depth)[leaf])

    deeper = full = 0
    for seed in range(3):
        setting = Setting(pair(seed, 4), Warp(1.2, 0.95), ends=frozenset({seed}))
        given = [exact.propose(drafter, setting, texts) for drafter in (one, many)]
        for tau in (0.05, 0.5, 0.9, 1.5):
            of_one, of_many = depths(one, given[0], tau), depths(many, given[1], tau)
            assert (of_many >= of_one).all()
            deeper, full = deeper + (of_many > of_one).sum(), full + (of_one == depth).sum()
    assert deeper > 10 and full > 10


BLOCK, NEW, END = 3, 8, 3
TABLES = pair(7, 4)
PROMPTS = np.tile(texts_of(4, 2), (6, 1))  # each six times: rows draw on their own

RULES = {
    "greedy": recipes.greedy(),
    "sample": recipes.sample(),
    "beam": recipes.beam(3),
    "beam 1": recipes.beam(1),
    "mtjd": recipes.mtjd(3, 3),
    "mtjd 1": recipes.mtjd(3, 1),
    "mtjd exact": recipes.mtjd(3, draw="exact"),
    "speculative_beam": recipes.speculative_beam(2, 2, 3),
    "speculative_mtjd": recipes.speculative_mtjd(3, 2, 2, 3),
    "speculative": recipes.speculative(3),
    "threshold": recipes.threshold(3, 2),
    "lenient": recipes.lenient(2, 0.4),
    "cascade": recipes.cascade(2),
    "fuzzy": recipes.fuzzy(2),
    "mentored": recipes.mentored(2),
    "block": recipes.block(3),
    "specinfer": recipes.specinfer((2, 2)),
    "mcsd": recipes.mcsd((3, 1)),
    "traversal": recipes.traversal((2, 2)),
    "rsd_s": recipes.rsd_s(3, 2),
    "spectr": recipes.spectr(2, 3),
    "typical": recipes.typical(3, 2),
    "bild": recipes.bild(3),
    "dsbd": recipes.dsbd(2, 2),
    "lookup": recipes.lookup(3, 2),
    "recycle": recipes.recycle(2, 3),
    "suffix": recipes.suffix(3, 3, np.arange(99) % 7 % 4),
    "mtad": recipes.mtad(3, 3),
    "mmtad": recipes.mmtad(3, 2),
}
NOT_GREEDY_AT_ZERO = {"bild", "cascade", "fuzzy"}  # raw probabilities decide what it keeps


def decode(name: str, temperature: float):
    """Texts of one rule; its draft is always at temperature 1, and often wrong."""
    target, draft = (table_lm(table) for table in TABLES)
    rule = RULES[name]
    return generate(
        target, PROMPTS, np.full(len(PROMPTS), 2), strategy=rule,
        draft=draft if rule.needs_draft else None, warp=Warp(temperature),
        draft_warp=Warp() if rule.needs_draft else None, max_new_tokens=NEW, eos_id=END,
    )  # fmt: skip


@functools.cache
def largest_joints() -> np.ndarray:
    """Log p of the likeliest block of `BLOCK` tokens after each prompt; one that ends is shorter.

    By MTJD, which finds what enumeration does.
    """
    got = joints(decode("mtjd exact", 1.0))
    law = ref.law(ref.TableModel(TABLES[0].astype(float)))
    best = [ref.exact_block(law, tuple(text), BLOCK, frozenset({END}))[1] for text in PROMPTS]
    np.testing.assert_allclose(got, best, atol=1e-5)
    return np.array(best)


def joints(result) -> np.ndarray:
    """Log p of each row's first `BLOCK` tokens (fewer, if it ends)."""
    return np.asarray(result.trace.logp)[:, :BLOCK].sum(axis=1)


@functools.cache
def greedy_texts(temperature: float) -> np.ndarray:
    """Greedy's text after each prompt."""
    return np.asarray(decode("greedy", temperature).tokens)


@pytest.mark.parametrize("name", each(RULES))
def test_no_rule_finds_a_likelier_block_than_mtjd_and_all_are_greedy_at_zero(name):
    gap = largest_joints() - joints(decode(name, 1.0))
    assert gap.min() > -1e-5
    if name == "mtjd exact":
        assert gap.max() < 1e-5
    if name.endswith(" 1"):  # one beam is greedy at any temperature
        np.testing.assert_array_equal(decode(name, 1.0).tokens, greedy_texts(1.0))
    if name not in NOT_GREEDY_AT_ZERO:
        np.testing.assert_array_equal(decode(name, 0.0).tokens, greedy_texts(0.0))


def test_every_recipe_is_among_the_rules():
    assert {name.split()[0] for name in RULES} == {
        name
        for name, recipe in inspect.getmembers(recipes, inspect.isfunction)
        if recipe.__module__ == recipes.__name__ and not name.startswith("_")
    }


def likeliest_per_token(target: ref.Law, text: ref.Text, length: int, ends: frozenset):
    """Of all texts of `length` tokens, ended ones included: the largest log p / tokens, the gap."""
    score = {
        new: math.log(weight) / len(new)
        for new, weight in ref.chains(target, text, length, ends).items()
    }
    best, second = sorted(score, key=score.__getitem__)[:-3:-1]
    return best, score[best] - score[second]


def check_beam_search(table: np.ndarray, width: int, length: int, ends: frozenset) -> int:
    """Beam search against all texts; how many of the texts that it found had ended early."""
    vocab, short = table.shape[1], 0
    prompts = texts_of(vocab, 2, 3)
    law = ref.law(ref.TableModel(table.astype(float)))
    result = generate(
        table_lm(table), [text + (0,) * (3 - len(text)) for text in prompts],
        [len(text) for text in prompts], strategy=recipes.beam(width), max_new_tokens=length,
        eos_id=sorted(ends),
    )  # fmt: skip
    for text, got, n in zip(prompts, result.tokens, result.length, strict=True):
        want, gap = likeliest_per_token(law, text, length, ends)
        assert gap > 1e-5, "a tie"
        assert tuple(np.asarray(got)[: int(n)].tolist()) == want
        short += len(want) < length
    return short


@pytest.mark.slow
def test_wide_beam_search_finds_the_likeliest_text_per_token():
    """W >= V^(K - 1) prunes nothing that could still win: brute force over texts of K tokens."""
    ends = [frozenset({seed, 3}) for seed in range(3)]
    short = sum(check_beam_search(pair(n, 4)[0], 4, 2, ends[n]) for n in range(3))
    assert short > 10
    table = pair(9, 4)[0]
    table[np.arange(len(table)), np.arange(len(table)) % 2] = -np.inf  # leaves 2^2 prefixes ...
    table[np.arange(len(table)), 2 + np.arange(len(table)) % 2] = -np.inf  # ... of two tokens
    assert check_beam_search(table, 4, 3, frozenset({0})) > 3
