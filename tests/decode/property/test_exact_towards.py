"""The rules that sample a law r between q and p draw from exactly r, all draws enumerated.

What a round commits is compared with what r alone says (`reference.towards_outcomes`): every place
that is reached has the law r, and of it as much is drafted as r and q have in common.
"""

import dataclasses
import functools

import exact_engine as exact
import numpy as np
import pytest
import reference as ref
from exact_engine import Setting

from mtad_jax import recipes
from mtad_jax.decode.warp import Warp

SMALL = 2e-6  # rounding: f32, tests of 24 bits, and a bisection's last step
TEXTS = [(1, 0, 1), (2, 0, 1, 2, 0)]


def tables(zeros: bool = False) -> np.ndarray:
    """Logits of target and draft, [2, rows, V]; with tokens that p, q or both cannot give."""
    logits = np.random.default_rng(23).normal(scale=0.8, size=(2, 7, 3)).astype(np.float32)
    if zeros:
        logits[0, ::2, 0] = logits[1, 1::2, 1] = logits[1, ::3, 0] = -np.inf
    return logits


# One program a rule, for all of this is traced.
SETTINGS = {
    "plain": Setting(tables()),
    "ends": Setting(tables(), ends=frozenset({2})),
    "zeros": Setting(tables(zeros=True), ends=frozenset({1})),
    "a colder draft": Setting(tables(), draft_warp=Warp(0.5)),
    "cuts": Setting(tables(), Warp(1.2, 0.7, min_p=0.1), ends=frozenset({0})),
    "both greedy": Setting(tables(), Warp(0.0), ends=frozenset({1})),
    "a greedy draft": Setting(tables(), draft_warp=Warp(0.0)),
    "all controls": Setting(
        tables(), Warp(0.8, 0.95), penalty=1.3, banned=frozenset({1}), ends=frozenset({2}), least=6
    ),
}


def of_raw(law, *settings):
    """What a law of warped and raw laws says in a setting."""
    return lambda setting: ref.place_of(
        setting.target(), draft_of(setting), functools.partial(law, **dict(settings)),
        *(ref.law(ref.TableModel(table.astype(float))) for table in setting.tables),
    )  # fmt: skip


def draft_of(setting: Setting) -> ref.Law:
    """The draft's law, which has the same controls."""
    warp = setting.draft_warp or setting.warp
    return dataclasses.replace(setting, tables=setting.tables[::-1], warp=warp).target()


def cascade(rule: str, alpha: float):
    return recipes.cascade(2, rule, alpha), of_raw(
        ref.cascade_law, ("defer", rule), ("alpha", alpha)
    )


def fuzzy(limit: float, by: str):
    return recipes.fuzzy(2, limit, by), of_raw(ref.fuzzy_law, ("limit", limit), ("by", by))


def mentored(limit: float, by: str):
    def place(setting: Setting) -> ref.Place:
        law = functools.partial(ref.mentored_law, limit=limit, by=by)
        return ref.place_of(setting.target(), draft_of(setting), law)

    return recipes.mentored(2, limit, by), place


RULES = {
    "opt": cascade("opt", 0.4),
    "token3": cascade("token3", 0.5),
    "chow": cascade("chow", 0.4),
    "diff": cascade("diff", 0.1),
    "token1": cascade("token1", 0.2),
    "token2": cascade("token2", 0.15),
    "fuzzy js": fuzzy(0.04, "js"),
    "fuzzy kl": fuzzy(0.17, "kl"),
    "fuzzy tv": fuzzy(0.25, "tv"),
    "mentored": mentored(0.03, "divergence"),
    "mentored share": mentored(0.93, "share"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
def test_the_law_is_r(name):
    strategy, place_in = RULES[name]
    kept = changed = 0
    for label, setting in SETTINGS.items():
        target, draft, place = setting.target(), draft_of(setting), place_in(setting)
        rounds = exact.run_rounds(strategy, setting, TEXTS)
        wanted = ref.towards_outcomes(place, target, draft, strategy.depth, setting.ends)
        for text in TEXTS:
            r, edge = place(text)
            assert edge > 1e-4, "too near the edge to be decided in f32"
            want = wanted(text)
            gap = ref.distance(rounds.outcomes(text), want)
            assert gap < SMALL, (label, text, gap)
            # What is wanted has the law r itself, and no law's test keeps more.
            first = np.zeros(setting.vocab)
            for tokens, weight in want.items():
                first[tokens[0]] += weight
            np.testing.assert_allclose(first, np.exp(r), atol=1e-9)
            p, q = np.exp(target(text)), np.exp(draft(text))
            kept += np.minimum(q, np.exp(r)).sum() > np.minimum(q, p).sum() + 0.01
            changed += np.abs(np.exp(r) - p).max() > 0.01
    assert kept and changed  # not speculative sampling by another name


@pytest.mark.slow
def test_the_measure_tells_the_rules_apart():
    """Each differs from its nearest relative in some setting."""
    nearest = {"opt": "diff", "token3": "token2", "mentored": "mentored share"}
    for name, relative in nearest.items():
        (strategy, _), (_, other) = RULES[name], RULES[relative]
        far = 0.0
        for setting in SETTINGS.values():
            rounds = exact.run_rounds(strategy, setting, TEXTS)
            wanted = ref.towards_outcomes(
                other(setting), setting.target(), draft_of(setting), strategy.depth, setting.ends
            )
            far = max(far, *(ref.distance(rounds.outcomes(t), wanted(t)) for t in TEXTS))
        assert far > 0.01, name
