"""The engine's rounds of every lossy comparator over a draft, against the NumPy reference."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import reference as ref
import replay
from hypothesis import given
from hypothesis import strategies as st
from replay_cases import (
    ALL_CONTROLS,
    SETTINGS,
    Case,
    Expected,
    check_accepts_itself,
    check_greedy_at_zero,
    check_rounds,
    check_tally,
    given_chain,
    given_tree,
    of_chain,
    of_tree,
    with_heavy,
)

from mtad_jax import recipes
from mtad_jax.decode.warp import Warp


@dataclass(frozen=True)
class Rule:
    """A lossy rule: `build(draw, case)` is a strategy and what the reference says of it."""

    build: Callable
    depth: int
    vocab: int
    top_k: int = 0
    controls: tuple[str, ...] = ()
    apart: bool = False
    noise: Callable | None = None
    accepts_itself: bool = False
    greedy_at_zero: bool = True


def lenient(depth, vocab, **setting):
    def build(draw, case):
        leniency, ends = draw(st.sampled_from([0.3, 0.6, 0.9])), frozenset(case.ends)

        def expected(round_, noise, target, draft):
            chance, text = given_chain(noise), round_.text
            chain = ref.draw_chain(draft, text, depth, ends, chance)
            kept = ref.lenient_round(target, draft, text, chain, chance, ends, leniency)
            return of_chain(draft, text, chain, *kept, chance.gap)

        return recipes.lenient(depth, leniency), expected

    noise = replay.chain_noise(depth, vocab)
    return Rule(build, depth, vocab, noise=noise, accepts_itself=True, **setting)


def towards(depth, vocab, pick, **setting):
    """A rule that samples a law between q and p; `pick(draw)` is the rule, and its law by name."""

    def build(draw, case):
        ends = frozenset(case.ends)
        strategy, law, settings, of_raw = pick(draw, depth)

        def expected(round_, noise, target, draft):
            chance, text = given_chain(noise), round_.text
            raw = (target.raw, draft.raw) if of_raw else ()
            place = ref.place_of(target, draft, partial(law, **settings), *raw)
            chain = ref.draw_chain(draft, text, depth, ends, chance)
            *kept, gap = ref.towards_round(place, target, draft, text, chain, chance, ends)
            return of_chain(draft, text, chain, *kept, min(gap, chance.gap))

        return strategy, expected

    return Rule(build, depth, vocab, noise=replay.chain_noise(depth, vocab), **setting)


def cascade(rule):
    def pick(draw, depth):
        settings = {"defer": rule, "alpha": draw(st.sampled_from([0.1, 0.3, 0.6]))}
        return recipes.cascade(depth, **settings), ref.cascade_law, settings, True

    return pick


def fuzzy(by):
    def pick(draw, depth):
        settings = {"limit": draw(st.sampled_from([0.03, 0.1, 0.3])), "by": by}
        return recipes.fuzzy(depth, **settings), ref.fuzzy_law, settings, True

    return pick


def mentored(by):
    def pick(draw, depth):
        settings = {"limit": draw(st.sampled_from([0.02, 0.2, 0.9])), "by": by}
        return recipes.mentored(depth, **settings), ref.mentored_law, settings, False

    return pick


def threshold_of_chain(depth, vocab, **setting):
    def build(draw, case):
        ends = frozenset(case.ends)

        def expected(round_, noise, target, draft):
            chance, text = given_chain(noise), round_.text
            chain = ref.draw_chain(draft, text, depth, ends, chance)
            *kept, gap = ref.threshold_round(target, draft, text, chain, case.tau, ends)
            return of_chain(draft, text, chain, *kept, min(gap, chance.gap))

        return recipes.threshold(depth, tau=case.tau, draft="chain"), expected

    return Rule(build, depth, vocab, noise=replay.chain_noise(depth, vocab), **setting)


def threshold_of_beams(depth, width, vocab, **setting):
    def build(draw, case):
        ends = frozenset(case.ends)

        def expected(round_, noise, target, draft):
            text = round_.text
            lattice = ref.draft_search(draft, text, depth=depth, width=width, ends=ends)
            chain = lattice.star_tokens
            *kept, gap = ref.threshold_round(target, draft, text, chain, case.tau, ends)
            return of_chain(draft, text, chain, *kept, min(gap, lattice.gap))

        return recipes.threshold(depth, width, case.tau), expected

    return Rule(build, depth, vocab, **setting)


def limits_of(draw) -> tuple[float, float]:
    """Epsilon and alpha of typical acceptance."""
    return draw(st.sampled_from([0.09, 0.3, 0.6])), draw(st.sampled_from([0.3, 0.7, 0.95]))


def typical_of_chain(depth, vocab, **setting):
    def build(draw, case):
        ends, (epsilon, alpha) = frozenset(case.ends), limits_of(draw)

        def expected(round_, noise, target, draft):
            chance, text = given_chain(noise), round_.text
            chain = ref.draw_chain(draft, text, depth, ends, chance)
            places = ref.places_of_chain(chain)
            *kept, _, gap = ref.typical_round(target, text, places, epsilon, alpha, ends)
            return of_chain(draft, text, chain, *kept, min(gap, chance.gap))

        return recipes.typical(depth, None, epsilon, alpha, "chain"), expected

    return Rule(build, depth, vocab, noise=replay.chain_noise(depth, vocab), **setting)


def typical_of_tree(depth, width, vocab, **setting):
    branching = (width, *(1,) * (depth - 1))

    def build(draw, case):
        ends, (epsilon, alpha) = frozenset(case.ends), limits_of(draw)

        def expected(round_, noise, target, draft):
            chance, text = given_tree(noise), round_.text
            tree = ref.draw_tree(draft, text, branching, False, ends, chance)
            places = ref.places_of_tree(tree)
            *kept, _, gap = ref.typical_round(target, text, places, epsilon, alpha, ends)
            return of_tree(draft, text, tree, *kept, min(gap, chance.gap))

        return recipes.typical(depth, width, epsilon, alpha, "tree"), expected

    return Rule(build, depth, vocab, noise=replay.tree_noise(branching, False, vocab), **setting)


def typical_of_beams(depth, width, vocab, **setting):
    def build(draw, case):
        ends, (epsilon, alpha) = frozenset(case.ends), limits_of(draw)

        def expected(round_, noise, target, draft):
            text = round_.text
            lattice = ref.draft_search(draft, text, depth=depth, width=width, ends=ends)
            places = ref.places_of_lattice(lattice)
            *kept, level, gap = ref.typical_round(target, text, places, epsilon, alpha, ends)
            log_q = float(ref.star_log_q(lattice)[level])
            candidate, gap = len(lattice.star_tokens), min(gap, lattice.gap)
            return Expected(*kept, candidate, log_q, level < depth, gap)

        return recipes.typical(depth, width, epsilon, alpha), expected

    return Rule(build, depth, vocab, **setting)


def bild(depth, vocab, **setting):
    def build(draw, case):
        fallback = draw(st.sampled_from([0.35, 0.2, 0.5]))
        rollback, ends = draw(st.sampled_from([2.0, 1.0, 3.0])), frozenset(case.ends)

        def expected(round_, noise, target, draft):
            chance, text = given_chain(noise), round_.text
            chain, edge = ref.bild_draft(draft, draft.raw, text, depth, fallback, ends, chance)
            *kept, gap = ref.bild_round(target, target.raw, text, chain, rollback, ends)
            return of_chain(draft, text, chain, *kept, min(gap, edge, chance.gap))

        return recipes.bild(depth, fallback, rollback), expected

    noise = replay.chain_noise(depth, vocab)
    return Rule(build, depth, vocab, noise=noise, greedy_at_zero=False, **setting)


RULES = {
    "lenient": lenient(3, 6, controls=ALL_CONTROLS),
    "lenient-apart": lenient(2, 5, top_k=4, apart=True),
    "cascade-opt": towards(3, 6, cascade("opt"), controls=ALL_CONTROLS, greedy_at_zero=False),
    "cascade-token": towards(2, 5, cascade("token3"), apart=True, greedy_at_zero=False),
    "fuzzy": towards(3, 5, fuzzy("js"), top_k=4, apart=True, greedy_at_zero=False),
    "mentored": towards(3, 6, mentored("divergence"), controls=ALL_CONTROLS, accepts_itself=True),
    "mentored-share": towards(2, 5, mentored("share"), top_k=4, apart=True, accepts_itself=True),
    "threshold-chain": threshold_of_chain(3, 6, top_k=4, apart=True),
    "threshold-beam": threshold_of_beams(3, 3, 6, controls=ALL_CONTROLS),
    "typical-chain": typical_of_chain(3, 5, controls=ALL_CONTROLS),
    "typical-tree": typical_of_tree(3, 3, 6, top_k=4, apart=True),
    "typical-beam": typical_of_beams(3, 3, 6, controls=ALL_CONTROLS),
    "bild": bild(4, 5, controls=("banned", "min_new"), apart=True),
}


def case_of(rule: Rule, draw) -> Case:
    return Case.draw(draw, rule.vocab, rule.top_k, rule.controls, rule.apart)


HEAVY = {
    "lenient-apart",
    "cascade-token",
    "mentored-share",
    "threshold-chain",
    "typical-chain",
    "typical-tree",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", with_heavy(RULES, HEAVY))
def test_round_by_round(name):
    """One test a rule: whoever runs it compiles its program once."""
    rule, tally = RULES[name], Counter()

    @SETTINGS
    @given(st.data())
    def every_round(data):
        case = case_of(rule, data.draw)
        strategy, expected = rule.build(data.draw, case)
        assert not strategy.lossless
        check_rounds(case, strategy, expected, rule.noise, tally)

    every_round()
    check_tally(tally, rule.depth)
    if rule.greedy_at_zero:
        check_limits(rule)


def check_limits(rule: Rule) -> None:
    """At temperature 0 the text is greedy's; some accept the target's own draft whole."""

    @SETTINGS
    @given(st.data())
    def limits(data):
        case = case_of(rule, data.draw)
        strategy, _ = rule.build(data.draw, case)
        check_greedy_at_zero(case.but(warp=Warp(0.0, 1.0, rule.top_k)), strategy)
        if rule.accepts_itself:
            same = np.stack([case.tables[0]] * 2)
            check_accepts_itself(case.but(tables=same, draft_warp=case.warp), strategy)

    limits()
