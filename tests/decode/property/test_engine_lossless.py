"""The engine's rounds of every lossless rule against the NumPy reference."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
import reference as ref
import replay
from hypothesis import Phase, given, settings
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
    sum_of,
    with_heavy,
)

from mtad_jax import recipes
from mtad_jax.decode.draft_verify import DraftVerify
from mtad_jax.decode.drafters.lookup import Lookup
from mtad_jax.decode.protocols import Strategy
from mtad_jax.decode.verifiers.lossless.block import BlockVerification
from mtad_jax.decode.warp import Warp

DOCUMENTS = [(0, 1, 2, 3, 1, 1, 0), (2, 2, 0, 3), (3,), (1, 3, 2, 1, 0, 0, 2, 3, 3)]


def chain_rule(rule):
    """A rule over a chain drawn from the draft."""

    def build(case: Case, depth: int):
        ends = frozenset(case.ends)

        def expected(round_, noise, target, draft):
            chance = given_chain(noise)
            chain = ref.draw_chain(draft, round_.text, depth, ends, chance)
            accepted, follow = rule(target, draft, round_.text, chain, chance, ends)
            return of_chain(draft, round_.text, chain, accepted, follow, chance.gap)

        return expected

    return build


def tree_rule(rule, branching: tuple[int, ...], drawn_anew: bool, **setting):
    """A rule over a tree drawn from the draft."""

    def build(case: Case, depth: int):
        ends = frozenset(case.ends)

        def expected(round_, noise, target, draft):
            chance = given_tree(noise)
            tree = ref.draw_tree(draft, round_.text, branching, drawn_anew, ends, chance)
            accepted, follow = rule(target, draft, round_.text, tree, chance, ends, **setting)
            return of_tree(draft, round_.text, tree, accepted, follow, chance.gap)

        return expected

    return build


def beam_rule(rule, depth: int, width: int):
    """A rule over beams drawn without replacement from the draft."""

    def build(case: Case, _: int):
        ends = frozenset(case.ends)

        def expected(round_, noise, target, draft):
            (gumbel, uniforms), text = noise, round_.text
            levels, gap = ref.perturbed_beams(draft, text, depth, width, ends, gumbel)
            chance = ref.Given(uniforms)
            accepted, follow = rule(target, draft, text, levels, width, chance, ends)
            return Expected(
                accepted, follow, candidate=len(levels[-1][0]),
                log_q=sum_of(draft, text, accepted),
                rejected=len(accepted) < max(map(len, levels[-1])), gap=min(gap, chance.gap),
            )  # fmt: skip

        return expected

    return build


def lookup_rule(rule, ngram: int):
    """A rule over what the text itself continues with."""

    def build(case: Case, depth: int):
        ends = frozenset(case.ends)

        def expected(round_, noise, target, draft):
            chance, text = given_chain(noise), round_.text
            chain = ref.lookup_chain(text, depth, ngram, ends)
            point = ref.point_law(text, chain, case.tables.shape[2])
            accepted, follow = rule(target, point, text, chain, chance, ends)
            return of_chain(point, text, chain, accepted, follow, chance.gap)

        return expected

    return build


def suffix_rule(longest: int, documents):
    """A rule over what the text or a corpus continues with."""

    def build(case: Case, depth: int):
        ends = frozenset(case.ends)

        def expected(round_, noise, target, draft):
            chance, text = given_chain(noise), round_.text
            chain = ref.suffix_chain(text, documents, depth, longest, ends)
            point = ref.point_law(text, chain, case.tables.shape[2])
            accepted, follow = ref.lenient_round(target, point, text, chain, chance, ends)
            return of_chain(point, text, chain, accepted, follow, chance.gap)

        return expected

    return build


@dataclass(frozen=True)
class Rule:
    """A strategy of the engine, what the reference says of it, and the cases it is replayed on."""

    strategy: Strategy
    expected: object
    vocab: int
    top_k: int = 0
    controls: tuple[str, ...] = ()
    apart: bool = False
    branching: tuple[int, ...] = ()
    replace: bool = True
    width: int = 0
    shortest: int = 1
    accepts_itself: bool = True

    def case(self, draw) -> Case:
        shape = self.vocab, self.top_k, self.controls, self.apart, self.shortest
        return Case.draw(draw, *shape)

    def noise(self):
        if self.width:
            return replay.lattice_noise(self.strategy.depth, self.width, self.vocab)
        if self.branching:
            return replay.tree_noise(self.branching, self.replace, self.vocab)
        return replay.chain_noise(self.strategy.depth, self.vocab)


def chain(recipe, rule, depth, vocab, **setting):
    return Rule(recipe(depth), chain_rule(rule), vocab, **setting)


def specinfer(branching, vocab, **setting):
    expected = tree_rule(ref.tree_round, branching, True, replace=True)
    return Rule(recipes.specinfer(branching), expected, vocab, branching=branching, **setting)


def mcsd(branching, vocab, **setting):
    expected = tree_rule(ref.tree_round, branching, False, replace=False)
    shape = {"branching": branching, "replace": False}
    return Rule(recipes.mcsd(branching), expected, vocab, **shape, **setting)


def traversal(branching, vocab, replace, **setting):
    expected = tree_rule(ref.traversal_round, branching, replace, replace=replace)
    shape = {"branching": branching, "replace": replace}
    return Rule(recipes.traversal(branching, replace), expected, vocab, **shape, **setting)


def rsd_s(depth, width, vocab, **setting):
    expected = beam_rule(ref.beam_rejection_round, depth, width)
    return Rule(recipes.rsd_s(depth, width), expected, vocab, width=width, **setting)


def spectr(depth, chains, vocab, rho="best", **setting):
    branching = (chains, *(1,) * (depth - 1))
    expected = tree_rule(ref.spectr_round, branching, True, rho=rho)
    strategy = recipes.spectr(depth, chains, rho)
    return Rule(strategy, expected, vocab, branching=branching, **setting)


def lookup(strategy, rule, ngram, vocab, **setting):
    shape = {"shortest": ngram, "accepts_itself": False}
    return Rule(strategy, lookup_rule(rule, ngram), vocab, **shape, **setting)


def suffix(depth, longest, documents, vocab, **setting):
    strategy, expected = recipes.suffix(depth, longest, documents), suffix_rule(longest, documents)
    return Rule(strategy, expected, vocab, accepts_itself=False, **setting)


RULES = {
    "speculative-3": chain(recipes.speculative, ref.lenient_round, 3, 8, controls=ALL_CONTROLS),
    "speculative-1": chain(recipes.speculative, ref.lenient_round, 1, 5, top_k=3),
    "speculative-4": chain(recipes.speculative, ref.lenient_round, 4, 7, top_k=5, apart=True),
    "block-3": chain(recipes.block, ref.block_round, 3, 6, controls=ALL_CONTROLS),
    "block-4": chain(recipes.block, ref.block_round, 4, 5, top_k=4, apart=True),
    "specinfer-3": specinfer((3,), 5),
    "specinfer-3-2": specinfer((3, 2), 6, controls=ALL_CONTROLS),
    "specinfer-2-2-1": specinfer((2, 2, 1), 5, top_k=4, apart=True),
    "mcsd-4": mcsd((4,), 5, top_k=4),
    "mcsd-3-2": mcsd((3, 2), 6, controls=ALL_CONTROLS),
    "mcsd-2-2-1": mcsd((2, 2, 1), 5, top_k=4, apart=True),
    "traversal-3-2": traversal((3, 2), 6, False, controls=ALL_CONTROLS),
    "traversal-2-2-1": traversal((2, 2, 1), 5, True, top_k=4, apart=True),
    "traversal-4": traversal((4,), 5, False, top_k=4),
    "rsd_s-3x3": rsd_s(3, 3, 6, controls=ALL_CONTROLS),
    "rsd_s-2x4": rsd_s(2, 4, 5, top_k=4, apart=True),
    "rsd_s-1x3": rsd_s(1, 3, 5),
    "spectr-3x2": spectr(3, 2, 6, controls=ALL_CONTROLS),
    "spectr-2x4": spectr(2, 4, 5, top_k=4, apart=True),
    "spectr-2x3-m": spectr(2, 3, 5, rho="chains", accepts_itself=False),
    "lookup": lookup(recipes.lookup(3, 2), ref.lenient_round, 2, 4, controls=("penalty",)),
    "suffix": suffix(3, 3, DOCUMENTS, 4, controls=("penalty",)),
    "lookup-block": lookup(DraftVerify(Lookup(2, 1), BlockVerification()), ref.block_round, 1, 4),
}


def in_reverse(target, draft, text, levels, width, chance, ends):
    """RSD-S's rule, the last sibling first."""
    turned = [level[::-1] for level in levels]
    return ref.beam_rejection_round(target, draft, text, turned, width, chance, ends)


WRONG = {  # what the reference says of another rule
    "block-3": chain_rule(ref.lenient_round),
    "specinfer-3-2": tree_rule(ref.tree_round, (3, 2), True, replace=False),
    "mcsd-3-2": tree_rule(ref.tree_round, (3, 2), False, replace=True),
    "traversal-3-2": tree_rule(ref.tree_round, (3, 2), False, replace=False),
    "rsd_s-3x3": beam_rule(in_reverse, 3, 3),
    "spectr-3x2": tree_rule(ref.spectr_round, (2, 1, 1), True, rho="chains"),
}


HEAVY = {
    *("speculative-3", "speculative-1", "block-4", "specinfer-3", "specinfer-2-2-1", "mcsd-4"),
    *("mcsd-2-2-1", "traversal-2-2-1", "traversal-4", "rsd_s-2x4", "rsd_s-1x3", "spectr-2x4"),
    *("spectr-2x3-m", "lookup-block"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", with_heavy(RULES, HEAVY))
def test_round_by_round(name):
    """One test a rule: whoever runs it compiles its program once."""
    rule, tally = RULES[name], Counter()
    assert rule.strategy.lossless

    @SETTINGS
    @given(st.data())
    def every_round(data):
        case = rule.case(data.draw)
        expected = rule.expected(case, rule.strategy.depth)
        check_rounds(case, rule.strategy, expected, rule.noise(), tally)

    every_round()
    check_tally(tally, rule.strategy.depth)
    check_limits(rule)
    if name in WRONG:
        check_another_rule_is_seen(rule, WRONG[name])


def check_limits(rule: Rule) -> None:
    """At temperature 0 the text is greedy's; a draft by the target itself is accepted whole."""

    @SETTINGS
    @given(st.data())
    def limits(data):
        case = rule.case(data.draw)
        cold = Warp(0.0, 1.0, rule.top_k)
        check_greedy_at_zero(case.but(warp=cold), rule.strategy)
        if rule.accepts_itself:
            same = np.stack([case.tables[0]] * 2)
            check_accepts_itself(case.but(tables=same, draft_warp=case.warp), rule.strategy)

    limits()


def check_another_rule_is_seen(rule: Rule, wrong) -> None:
    """The replay tells a rule from its nearest relative."""

    @settings(SETTINGS, phases=[Phase.generate])
    @given(st.data())
    def every_round(data):
        case = rule.case(data.draw)
        expected = wrong(case, rule.strategy.depth)
        check_rounds(case, rule.strategy, expected, rule.noise(), Counter())

    with pytest.raises(AssertionError):
        every_round()
