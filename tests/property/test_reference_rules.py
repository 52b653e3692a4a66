"""The reference's comparators against exact laws: all drafts and all tests enumerated."""

import itertools
import math

import numpy as np
import pytest
import reference as ref
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import dsbd, tree_rules
from reference.exact_laws import chains
from reference.warping import _log

PROMPT = (1, 0)
SETTINGS = settings(max_examples=40, deadline=None, derandomize=True)
KINDS = ["plain", "zeros", "same", "disjoint", "peaked"]


def pair(kind: str, vocab: int, seed: int = 0) -> tuple[ref.Law, ref.Law]:
    """Target and draft as laws of tables."""
    rng = np.random.default_rng([seed, vocab])
    logits = rng.normal(scale=1.2, size=(2, 7, vocab))
    if kind == "zeros":  # tokens that p, q or both cannot give
        logits[0, ::2, 0] = logits[1, 1::2, 1] = logits[1, 2::4, 0] = -np.inf
    if kind == "same":
        logits[1] = logits[0]
    if kind == "disjoint":
        logits[0, :, 0] = logits[1, :, 1:] = -np.inf
    if kind == "peaked":
        logits[1] *= 4
    target, draft = (ref.law(ref.TableModel(table)) for table in logits)
    return target, draft


def chain_rule(rule, depth: int):
    """A rule over a chain drawn from the draft."""

    def build(target, draft, ends):
        def round_(text, chance):
            chain = ref.draw_chain(draft, text, depth, ends, chance)
            return rule(target, draft, text, chain, chance, ends)

        return round_

    return build


def tree_rule(rule, branching, drawn_anew: bool, change=lambda tree, draft, text: tree, **setting):
    """A rule over a tree drawn from the draft; `change` spoils the tree."""

    def build(target, draft, ends):
        def round_(text, chance):
            tree = ref.draw_tree(draft, text, branching, drawn_anew, ends, chance)
            tree = change(tree, draft, text)
            return rule(target, draft, text, tree, chance, ends, **setting)

        return round_

    return build


def specinfer(*branching, **change):
    return tree_rule(ref.tree_round, branching, True, replace=True, **change)


def mcsd(*branching, **change):
    return tree_rule(ref.tree_round, branching, False, replace=False, **change)


def spectr(chains, depth, rho="best"):
    branching = (chains, *(1,) * (depth - 1))
    return tree_rule(ref.spectr_round, branching, True, rho=rho)


def lookup(rule, depth, ngram):
    """A rule over the continuation that the text itself gives; its draft is a point mass."""

    def build(target, draft, ends):
        def round_(text, chance):
            chain = ref.lookup_chain(text, depth, ngram, ends)
            point = ref.point_law(text, chain, len(target(text)))
            return rule(target, point, text, chain, chance, ends)

        return round_

    return build


def beams(depth, width, least=0.8):
    """DSBD; of width 1 it is speculative sampling."""

    def build(target, draft, ends):
        def round_(text, chance):
            levels = ref.pair_draws(draft, text, depth, width, ends, chance)
            chosen = ref.dsbd_round(target, draft, text, levels, chance, least)
            return ref.dsbd_kept(chosen, len(target(text)))

        return round_

    return build


def unsure(rule, depth, fallback):
    """A rule over a chain that stops where the draft is unsure, as BiLD's does."""

    def build(target, draft, ends):
        def round_(text, chance):
            chain, _ = ref.bild_draft(draft, draft, text, depth, fallback, ends, chance)
            return rule(target, draft, text, chain, chance, ends)

        return round_

    return build


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
    "spectr-3": (spectr(3, 1), 3),
    "spectr-3-m": (spectr(3, 1, "chains"), 3),
    "spectr-2-2": (spectr(2, 2), 3),
    "spectr-2-2-m": (spectr(2, 2, "chains"), 3),
    "spectr-1": (spectr(1, 2), 3),
    "lookup-rejection": (lookup(ref.lenient_round, 2, 2), 3),
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


@pytest.mark.parametrize("warp", [{"temperature": 0.6}, {"top_k": 2}, {"top_p": 0.7}])
@pytest.mark.parametrize("name", ["block-2", "specinfer-2-2", "mcsd-2-2", "spectr-2-2"])
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
    for name in ("block-2", "mcsd-2-1", "spectr-2-2"):
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
    "beams of width 2": beams(1, 2),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_seen(name):
    assert max(off(FAULTS[name], *pair("plain", 3, seed)) for seed in range(3)) > 0.01


def test_spectr_below_the_best_rho_is_seen(monkeypatch):
    target, draft = pair("peaked", 3)
    monkeypatch.setattr(tree_rules, "best_rho", lambda p, q, m: 1.0)
    assert off(spectr(3, 1), target, draft) > 0.01


# ---------------------------------------------------------------- block verification


def expected_length(build, target, draft, depth):
    """The mean number of accepted tokens, and the chance of each length."""
    tail = np.zeros(depth + 1)
    for (accepted, _), weight in ref.every(lambda chance: build(PROMPT, chance)):
        tail[: len(accepted) + 1] += weight
    return tail


@given(st.integers(0, 2**32 - 1), st.integers(2, 4), st.integers(1, 3))
@SETTINGS
def test_block_verification_accepts_at_least_as_much_as_token_by_token(seed, vocab, depth):
    vocab = min(vocab, 5 - depth)
    target, draft = pair("plain", vocab, seed)
    by_token, by_block = (
        expected_length(chain_rule(rule, depth)(target, draft, frozenset()), target, draft, depth)
        for rule in (ref.lenient_round, ref.block_round)
    )
    assert by_block[1:].sum() >= by_token[1:].sum() - 1e-12
    if depth == 1:
        np.testing.assert_allclose(by_block, by_token)


def test_block_verification_accepts_more_somewhere():
    target, draft = pair("plain", 2)
    by_token, by_block = (
        expected_length(chain_rule(rule, 3)(target, draft, frozenset()), target, draft, 3)[1:].sum()
        for rule in (ref.lenient_round, ref.block_round)
    )
    assert by_block > by_token + 0.01


def test_block_chances_by_hand():
    # p = 1/2, 1/2 and q = 3/4, 1/4 everywhere. The chain 0, 0: P = 2/3, 4/9.
    target, draft = (lambda text, p=p: np.log([p, 1 - p]) for p in (0.5, 0.75))
    capped, passes = ref.block_chances(target, draft, (), (0, 0))
    np.testing.assert_allclose(capped, [1, 2 / 3, 4 / 9])
    # S_1 = max(0, 1/3 - 3/4) + max(0, 1/3 - 1/4) = 1/12; h_1 = (1/12) / (1/12 + 1/3) = 1/5.
    np.testing.assert_allclose(passes, [1, 1 / 5, 4 / 9])
    capped, passes = ref.block_chances(target, draft, (), (1, 0))  # P_1 = min(1, 2)
    np.testing.assert_allclose(capped, [1, 1, 2 / 3])
    np.testing.assert_allclose(passes, [1, 1, 2 / 3])


# ---------------------------------------------------------------- leniency


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.1, 0.5, 0.8, 1.0]))
@SETTINGS
def test_no_token_gets_more_than_p_over_the_leniency(seed, leniency):
    target, draft = pair("plain", 4, seed)

    def rule(*args):
        return ref.lenient_round(*args, leniency=leniency)

    outcomes = ref.rule_outcomes(chain_rule(rule, 1)(target, draft, frozenset()))
    first = ref.exact_law(outcomes, PROMPT, length=1)
    for token, p in enumerate(np.exp(target(PROMPT))):
        assert first.get((token,), 0.0) <= p / leniency + 1e-12


# ---------------------------------------------------------------- SpecTr


@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
@SETTINGS
def test_best_rho_is_the_root_and_its_residual_the_simple_one(seed, m):
    rng = np.random.default_rng(seed)
    p, q = rng.dirichlet(np.ones(5), size=2)
    rho = ref.best_rho(p, q, m)
    assert 1 <= rho <= m
    beta = np.minimum(q, p / rho).sum()
    assert rho * beta == pytest.approx(1 - (1 - beta) ** m)
    simple = np.maximum(0, p - rho * q)
    np.testing.assert_allclose(ref.spectr_residual(p, q, m, rho), simple / simple.sum(), atol=1e-9)
    for larger in np.linspace(rho, m, 4):  # below rho* it would turn negative
        beta = np.minimum(q, p / larger).sum()
        rest = p - np.minimum(q, p / larger) * (1 - (1 - beta) ** m) / beta
        assert rest.min() > -1e-12


# ---------------------------------------------------------------- typical acceptance


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 0.5), st.floats(0.05, 0.99))
@SETTINGS
def test_typical_acceptance_always_takes_the_argmax(seed, epsilon, alpha):
    target, draft = pair("plain", 4, seed)
    best = ref.greedy(target, PROMPT, max_new_tokens=3)
    places = ref.places_of_chain(best)
    accepted, follow, depth, _ = ref.typical_round(target, PROMPT, places, epsilon, alpha)
    assert (accepted, depth) == (best, 3)
    np.testing.assert_array_equal(follow, target(PROMPT + best))


def test_typical_acceptance_by_hand():
    def target(text):
        return np.log([0.7, 0.2, 0.1])

    limit = math.exp(-ref.entropy(target(())))  # exp(-0.80) = 0.448
    assert limit == pytest.approx(0.448, abs=1e-3)
    places = [(1, (2,)), (1, (1,)), (2, (1, 2)), (2, (1, 0)), (2, (1, 1))]
    for alpha, want in [(0.2, (1, 0)), (0.5, ()), (0.4, (1, 0)), (0.9, ())]:
        assert ref.typical_round(target, (), places, 1.0, alpha)[0] == want
    assert ref.typical_round(target, (), places, 0.15, 0.9)[0] == (1, 0)  # epsilon is the smaller


# ---------------------------------------------------------------- BiLD, thresholds, lookup


def test_bild_by_hand():
    draft = ref.law(ref.TableModel(np.log([[0.9, 0.1]])))
    unsure = ref.law(ref.TableModel(np.log([[0.55, 0.45]])))
    given_ = ref.Given(noise={step: np.zeros(2) for step in range(3)})
    assert ref.bild_draft(draft, draft, (), 3, 0.6, frozenset(), given_)[0] == (0, 0, 0)
    assert ref.bild_draft(draft, draft, (), 3, 0.6, frozenset({0}), given_)[0] == (0,)
    assert ref.bild_draft(draft, unsure, (), 3, 0.6, frozenset(), given_)[0] == ()
    target = ref.law(ref.TableModel(np.log([[0.99, 0.01]])))
    for rollback, kept in [(5.0, (0, 1, 0)), (4.0, (0,))]:  # -log 0.01 = 4.6
        accepted, follow, _ = ref.bild_round(target, target, (), (0, 1, 0), rollback)
        assert accepted == kept
        np.testing.assert_array_equal(follow, target(()))  # p itself: no residual
    assert ref.bild_round(target, target, (), (0, 1), 5.0, frozenset({1}))[1] is None


@given(st.integers(0, 2**32 - 1), st.floats(0.05, 1.4))
@SETTINGS
def test_the_token_wise_threshold_is_mtad_at_depth_one(seed, tau):
    target, draft = pair("plain", 4, seed)
    lattice = ref.draft_search(draft, PROMPT, depth=1, width=2)
    joint = ref.mtad_accept(lattice, target, PROMPT, tau)
    accepted, follow, _ = ref.threshold_round(target, draft, PROMPT, lattice.star_tokens, tau)
    assert accepted == joint.tokens
    np.testing.assert_array_equal(follow, joint.bonus)


def test_lookup_takes_the_last_occurrence_of_the_longest():
    text = (5, 1, 2, 7, 1, 2, 8, 3, 2, 9, 1, 2)
    assert ref.lookup_chain(text, 3, 2) == (8, 3, 2)  # of (1, 2), not the nearer one of (2,)
    assert ref.lookup_chain(text, 3, 3) == (8, 3, 2)  # (9, 1, 2) never came: one shorter
    assert ref.lookup_chain(text, 9, 1) == (9, 1, 2)  # the draft runs into the end of the text
    assert ref.lookup_chain(text, 3, 2, frozenset({3})) == (8, 3)
    assert ref.lookup_chain((1, 2, 3), 3, 2) == ()
    assert ref.lookup_chain((4, 4), 3, 2) == (4,)
    assert ref.lookup_chain((4,), 3, 2) == ()


# ---------------------------------------------------------------- DSBD


@pytest.mark.parametrize("kind", ["plain", "zeros", "peaked"])
@pytest.mark.parametrize("wanted", [1, 2, 3])
def test_every_beam_of_a_depth_has_the_law_p(kind, wanted):
    """The accepted, one draw from R and the rest from P: each slot is drawn from P."""
    laws = [np.exp(law(PROMPT))[None] for law in pair(kind, 3)]
    p, q = laws

    def slots(chance):
        drawn = []
        for w in range(3):
            (token,) = chance.draws(("draft", w), _log(q[0]), 1, True)
            drawn.append(dsbd.Place(0, (token,), 0.0, False))
        kept, rest = dsbd._verify_depth([dsbd.ROOT], drawn, p, q, {0}, wanted, chance, 1)
        found = [pair_ for _, pair_ in kept]
        for i in range(len(found), wanted):
            found.append(dsbd._draw(("fill", i), rest if i == len(kept) else p, chance))
        return tuple(token for _, token in found)

    joint = dict.fromkeys(itertools.product(range(3), repeat=wanted), 0.0)
    for tokens, weight in ref.every(slots):
        joint[tokens] += weight
    for tokens, weight in joint.items():
        assert weight == pytest.approx(math.prod(p[0, t] for t in tokens), abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_width_is_foreseen_exactly_at_the_root(kind):
    p, q = (np.exp(law(PROMPT))[None] for law in pair(kind, 3))

    def count(chance):
        drawn = []
        for w in range(3):
            (token,) = chance.draws(("draft", w), _log(q[0]), 1, True)
            drawn.append(dsbd.Place(0, (token,), 0.0, False))
        return len(dsbd._verify_depth([dsbd.ROOT], drawn, p, q, {0}, 4, chance, 1)[0])

    found = np.zeros(4)
    for n, weight in ref.every(count):
        found[n] += weight
    np.testing.assert_allclose(ref.width_chances(p, q, 3), found, atol=1e-12)


# ---------------------------------------------------------------- MTJD and beams of the target


@given(st.integers(0, 2**32 - 1), st.integers(2, 4), st.sampled_from([(), (0,), (1,)]))
@SETTINGS
def test_mtjd_emits_the_likeliest_block(seed, vocab, ends):
    target, ends = pair("plain", vocab, seed)[0], frozenset(ends)
    block, log_p = ref.exact_block(target, PROMPT, 3, ends)
    joint = chains(target, PROMPT, 3, ends)
    assert sum(joint.values()) == pytest.approx(1)
    assert math.exp(log_p) == pytest.approx(max(joint.values()))
    wide, _ = ref.mtjd_block(target, PROMPT, 3, vocab**2, ends)
    assert joint[wide] == pytest.approx(joint[block])
    for width in (1, 2):
        narrow, _ = ref.mtjd_block(target, PROMPT, 3, width, ends)
        assert joint[narrow] <= joint[block] + 1e-12
    assert ref.mtjd_block(target, PROMPT, 1, 1, ends)[0] == (ref.argmax(target(PROMPT)),)


def test_beam_search_compares_by_log_p_per_token():
    # The end (token 1) at once has 0.4; three tokens of 0.6 each have more per token.
    target = ref.law(ref.TableModel(np.log([[0.6, 0.4]])))
    ends = frozenset({1})
    assert ref.beam_text(target, (), 2, 3, ends)[0] == (0, 0, 0)
    assert ref.mtjd_block(target, (), 3, 2, ends)[0] == (1,)  # the joint: 0.4 over 0.216


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
        spectr(2, 2),
        beams(2, 2),
    ],
    ids=["rejection", "block", "specinfer", "mcsd", "spectr", "dsbd"],
)
def test_a_draft_by_the_target_is_accepted_whole(build):
    target, _ = pair("plain", 3)
    round_ = build(target, target, frozenset())
    for (accepted, _), weight in ref.every(lambda chance: round_(PROMPT, chance)):
        assert len(accepted) == 2 or weight < 1e-12
