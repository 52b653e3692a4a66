"""What the papers prove of each comparator, and cases by hand, on the reference."""

import itertools
import math

import numpy as np
import pytest
import reference as ref
from hypothesis import given
from hypothesis import strategies as st
from reference import dsbd
from reference.exact_laws import chains
from reference.warping import _log
from rule_cases import (
    KINDS,
    PROMPT,
    SETTINGS,
    chain_rule,
    pair,
)

# Nothing of the package is used here: only a change of the oracle can change the outcome.
pytestmark = pytest.mark.heavy

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


def test_a_suffix_is_looked_for_in_the_text_and_then_in_the_last_document():
    text, documents = (7, 1, 2, 9, 1, 2), [(9, 1, 2, 5), (1, 2, 4, 4), (2, 6, 2)]
    assert ref.suffix_chain(text, documents, 3, 9) == (5,)  # the longest, (9, 1, 2)
    assert ref.suffix_chain(text, documents, 3, 2) == (9, 1, 2)  # the text goes before documents
    assert ref.suffix_chain((8, 1, 2), documents, 3, 9) == (4, 4)  # the last of two documents
    assert ref.suffix_chain((8, 2), documents, 3, 9) == (6, 2)  # not the last token of one
    assert ref.suffix_chain((8, 1, 2), documents, 1, 9, frozenset({4})) == (4,)
    assert ref.suffix_chain((8, 1, 2), documents, 3, 9, frozenset({4})) == (4,)
    assert ref.suffix_chain((3,), documents, 3, 9) == ref.suffix_chain((5,), documents, 3, 9) == ()


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
