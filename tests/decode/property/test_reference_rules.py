"""The reference's comparators against exact laws: all drafts and all tests enumerated."""

import math
from collections import Counter

import numpy as np
import pytest
import reference as ref
from reference import tree_rules
from rule_cases import (
    KINDS,
    PROMPT,
    beams,
    chain_rule,
    lookup,
    mcsd,
    pair,
    recycled,
    rsd_s,
    specinfer,
    spectr,
    suffix,
    traversal,
    tree_rule,
    unsure,
)

# Nothing of the package is used here: only a change of the oracle can change the outcome.
pytestmark = pytest.mark.heavy

LOSSLESS = {
    "unsure-rejection": (unsure(ref.lenient_round, 3, 0.5), 3),
    "unsure-block": (unsure(ref.block_round, 3, 0.5), 3),
    "lenient-1": (chain_rule(ref.lenient_round, 2), 3),
    "block-1": (chain_rule(ref.block_round, 1), 4),
    "block-2": (chain_rule(ref.block_round, 2), 3),
    "block-3": (chain_rule(ref.block_round, 3), 2),
    "specinfer-3": (specinfer(3), 3),
    "specinfer-2-1": (specinfer(2, 1), 3),
    "specinfer-2-2": (specinfer(2, 2), 2),
    "mcsd-3": (mcsd(3), 4),
    "mcsd-2-1": (mcsd(2, 1), 3),
    "mcsd-2-2": (mcsd(2, 2), 3),
    "traversal-3": (traversal(3, replace=True), 3),
    "traversal-2-2": (traversal(2, 2, replace=True), 2),
    "traversal-2-1-anew": (traversal(2, 1, replace=True), 3),
    "traversal-1-1-1": (traversal(1, 1, 1, replace=True), 2),
    "traversal-3-distinct": (traversal(3, replace=False), 4),
    "traversal-2-2-distinct": (traversal(2, 2, replace=False), 3),
    "traversal-3-1-distinct": (traversal(3, 1, replace=False), 3),
    "rsd_s-1x3": (rsd_s(1, 3), 4),
    "rsd_s-2x1": (rsd_s(2, 1), 3),
    "rsd_s-2x2": (rsd_s(2, 2), 3),
    "rsd_s-2x3": (rsd_s(2, 3), 3),
    "rsd_s-3x2": (rsd_s(3, 2), 2),
    "spectr-3": (spectr(3, 1), 3),
    "spectr-3-m": (spectr(3, 1, "chains"), 3),
    "spectr-2-2": (spectr(2, 2), 3),
    "spectr-2-2-m": (spectr(2, 2, "chains"), 3),
    "spectr-1": (spectr(1, 2), 3),
    "lookup-rejection": (lookup(ref.lenient_round, 2, 2), 3),
    "recycled-2-2": (recycled(2, 2, {0: (1, 0), 1: (2, 1), 2: (0,)}), 3),
    "recycled-1-3": (recycled(1, 3, {0: (1, 0, 2), 1: (2, 2, 0)}), 3),
    "suffix-rejection": (suffix(ref.lenient_round, 2, 3, [(1, 0, 2, 1), (0, 1, 0, 2)]), 3),
    "lookup-block": (lookup(ref.block_round, 2, 2), 3),
    "dsbd-1": (beams(2, 1), 3),
}


def law_of(build, target, draft, ends=frozenset(), prompt=PROMPT):
    """The exact law of the first two tokens."""
    outcomes = ref.rule_outcomes(build(target, draft, ends))
    return ref.exact_law(outcomes, prompt, length=2, ends=ends)


def off(build, target, draft, ends=frozenset(), prompt=PROMPT):
    """How far the rule's law of two tokens is from the target's."""
    got = law_of(build, target, draft, ends, prompt)
    assert sum(got.values()) == pytest.approx(1)
    return ref.distance(got, ref.target_law(target, prompt, ends=ends))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LOSSLESS)
def test_the_law_of_two_tokens_is_the_targets(name, kind):
    build, vocab = LOSSLESS[name]
    prompt = (1, 0, 1, 0) if name.startswith("lookup") else PROMPT
    for ends in (frozenset(), frozenset({1})):
        assert off(build, *pair(kind, vocab), ends, prompt) < 1e-12


@pytest.mark.parametrize("ends", [frozenset(), frozenset({1})], ids=["endless", "ends"])
def test_perturbed_beams_are_drawn_without_replacement(ends):
    """Every ordered draft comes as often by noise as by draws; 4.5 standard errors."""
    draft, count, rng = pair("plain", 3, 1)[1], 4000, np.random.default_rng(0)
    want, got = Counter(), Counter()
    for levels, weight in ref.every(
        lambda chance: ref.drawn_beams(draft, PROMPT, 2, 2, ends, chance)
    ):
        want[str(levels)] += weight
    assert sum(want.values()) == pytest.approx(1) and len(want) > 40
    for noise in rng.gumbel(size=(count, 2, 2, 3)):
        got[str(ref.perturbed_beams(draft, PROMPT, 2, 2, ends, noise)[0])] += 1
    assert got.keys() <= want.keys()
    for levels, share in want.items():
        error = math.sqrt(share * (1 - share) / count)
        assert abs(got[levels] / count - share) < 4.5 * error + 1 / count, levels


@pytest.mark.parametrize("warp", [{"temperature": 0.6}, {"top_k": 2}, {"top_p": 0.7}])
@pytest.mark.parametrize(
    "name", ["block-2", "specinfer-2-2", "mcsd-2-2", "traversal-2-2-distinct", "spectr-2-2"]
)
def test_target_and_draft_may_be_warped_apart(name, warp):
    build, vocab = LOSSLESS[name]
    tables = np.random.default_rng(5).normal(size=(2, 7, vocab))
    plain, sharp = ref.law(ref.TableModel(tables[0])), ref.law(ref.TableModel(tables[1]), **warp)
    assert off(build, plain, sharp) < 1e-12
    assert off(build, sharp, plain) < 1e-12


def test_a_law_under_controls_is_kept_too():
    tables = np.random.default_rng(6).normal(size=(2, 7, 3))
    ends = frozenset({1})
    target, draft = (
        ref.ControlledLaw(ref.TableModel(t), penalty=1.7, ends=ends, min_length=4, min_p=0.1)
        for t in tables
    )
    for name in ("block-2", "mcsd-2-1", "traversal-2-1-anew", "spectr-2-2"):
        assert off(LOSSLESS[name][0], target, draft, ends) < 1e-12
    law = law_of(LOSSLESS["block-2"][0], target, draft, ends)
    assert not any(set(text) & ends for text in law)  # both tokens come before the minimum


# ---------------------------------------------------------------- faults are seen


def sort_children(tree, draft, text):
    """Siblings by falling probability instead of in draw order."""
    levels = [tree.levels[0]]
    for level, count in enumerate(tree.branching):
        below = []
        for j in range(len(tree.levels[level])):
            path = tree.path(level, j)
            given = [tree.levels[level + 1][c] for c in tree.children(level, j)]
            drawn = [t for t in given if t is not None]
            drawn.sort(key=lambda t, path=path: -draft(text + (path or ()))[t])
            below += drawn + [None] * (count - len(drawn))
        levels.append(below)
    return ref.Tree(tree.branching, levels)


def merge_siblings(tree, draft, text):
    """Of equal siblings only the first stays."""
    levels = [list(nodes) for nodes in tree.levels]
    for level in range(len(tree.branching)):
        for j in range(len(tree.levels[level])):
            seen = set()
            for c in tree.children(level, j):
                token = levels[level + 1][c]
                levels[level + 1][c] = None if token in seen else token
                seen.add(token)
    return ref.Tree(tree.branching, levels)


def stop_at_the_first(target, draft, text, chain, chance, ends=frozenset()):
    """Block verification's chances with a scan that stops at the first failure."""
    capped, passes = ref.block_chances(target, draft, text, chain)
    kept = 0
    while kept < len(chain) and chance.test(kept, passes[kept + 1]):
        kept += 1
    if kept == len(chain):
        return chain, target(text + chain)
    p, q = target(text + chain[:kept]), draft(text + chain[:kept])
    rest = np.maximum(1e-300, capped[kept] * np.exp(p) - np.exp(q))
    return chain[:kept], np.log(rest / rest.sum())


def joint_residual(target, draft, text, chain, chance, ends=frozenset()):
    """Speculative sampling whose last token is drawn from p, as MTAD's is."""
    accepted, _ = ref.lenient_round(target, draft, text, chain, chance, ends)
    return accepted, target(text + accepted)


def by_token(levels, draft, text):
    """Beams by their tokens instead of in draw order."""
    return [sorted(level) for level in levels]


def by_probability(levels, draft, text):
    """Beams by falling probability, as a beam search has them."""

    def log_q(path):
        return sum(draft(text + path[:i])[token] for i, token in enumerate(path))

    return [sorted(level, key=log_q, reverse=True) for level in levels]


def traversal_with_the_targets_bonus(target, draft, text, tree, chance, ends, *, replace):
    """The token after the accepted path from the target's law, not from what is left of it."""
    accepted, follow = ref.traversal_round(target, draft, text, tree, chance, ends, replace=replace)
    return accepted, None if follow is None else target(text + accepted)


FAULTS = {
    "p instead of the residual": chain_rule(joint_residual, 2),
    "leniency": chain_rule(
        lambda *args: ref.lenient_round(*args, leniency=0.5),
        2,
    ),
    "block: stops at a failing prefix": chain_rule(stop_at_the_first, 2),
    "siblings are sorted": mcsd(2, 1, change=sort_children),
    "equal siblings are merged": specinfer(3, change=merge_siblings),
    "drawn with, judged as without": tree_rule(ref.tree_round, (3,), True, replace=False),
    "drawn without, judged as with": tree_rule(ref.tree_round, (2,), False, replace=True),
    "traversal, drawn with, judged as without": tree_rule(
        ref.traversal_round, (3,), True, replace=False
    ),
    "traversal, siblings are sorted": traversal(2, 1, replace=False, change=sort_children),
    "traversal, equal siblings are merged": traversal(3, replace=True, change=merge_siblings),
    "traversal, the paper's last line taken literally": tree_rule(
        traversal_with_the_targets_bonus, (2, 1), False, replace=False
    ),
    "drawn beams, by their tokens": rsd_s(2, 2, change=by_token),
    "drawn beams, by their probability": rsd_s(2, 2, change=by_probability),
    "beams of width 2": beams(1, 2),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_seen(name):
    assert max(off(FAULTS[name], *pair("plain", 3, seed)) for seed in range(3)) > 0.01


def test_spectr_below_the_best_rho_is_seen(monkeypatch):
    target, draft = pair("peaked", 3)
    monkeypatch.setattr(tree_rules, "best_rho", lambda p, q, m: 1.0)
    assert off(spectr(3, 1), target, draft) > 0.01


# ---------------------------------------------------------------- all rules


GREEDY_AT_ZERO = LOSSLESS | {
    "lenient": (chain_rule(lambda *args: ref.lenient_round(*args, leniency=0.3), 2), 3),
    "dsbd": (beams(2, 2), 2),
}


@pytest.mark.parametrize("name", GREEDY_AT_ZERO)
def test_at_temperature_zero_the_text_is_greedys(name):
    build, vocab = GREEDY_AT_ZERO[name]
    rng = np.random.default_rng(8)
    for _ in range(3):
        tables = rng.normal(size=(2, 7, vocab))
        target, draft = ref.law(ref.TableModel(tables[0]), 0.0), ref.law(ref.TableModel(tables[1]))
        want = ref.greedy(target, PROMPT, max_new_tokens=2)
        assert law_of(build, target, draft) == {want: pytest.approx(1)}


@pytest.mark.parametrize(
    "build",
    [
        chain_rule(ref.lenient_round, 2),
        chain_rule(ref.block_round, 2),
        specinfer(2, 1),
        mcsd(2, 1),
        traversal(2, 1, replace=True),
        traversal(2, 1, replace=False),
        rsd_s(2, 2),
        spectr(2, 2),
        beams(2, 2),
    ],
    ids=[
        "rejection",
        "block",
        "specinfer",
        "mcsd",
        "traversal",
        "traversal, distinct",
        "rsd_s",
        "spectr",
        "dsbd",
    ],
)
def test_a_draft_by_the_target_is_accepted_whole(build):
    target, _ = pair("plain", 3)
    round_ = build(target, target, frozenset())
    for (accepted, _), weight in ref.every(lambda chance: round_(PROMPT, chance)):
        assert len(accepted) == 2 or weight < 1e-12
