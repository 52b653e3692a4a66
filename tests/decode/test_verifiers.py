"""Every rule on drafts small enough to judge by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hand_drafts import draft_of, log

from mtad_jax import recipes
from mtad_jax.decode import random
from mtad_jax.decode.verifiers.joint import JointThreshold
from mtad_jax.decode.verifiers.lossless.beams import BeamRejection
from mtad_jax.decode.verifiers.lossless.block import BlockVerification
from mtad_jax.decode.verifiers.lossless.rejection import Rejection
from mtad_jax.decode.verifiers.lossless.spectr import SpecTr
from mtad_jax.decode.verifiers.lossless.traversal import Traversal
from mtad_jax.decode.verifiers.lossless.tree import TreeRejection
from mtad_jax.decode.verifiers.plain import Argmax
from mtad_jax.decode.verifiers.rollback import Rollback
from mtad_jax.decode.verifiers.threshold import Threshold
from mtad_jax.decode.verifiers.typical import Typical

NEVER = 0.999999  # a uniform that passes only what is certain
P0, Q0 = [0.5, 0.25, 0.25], [0.25, 0.25, 0.5]  # p/q = 2, 1, 1/2; the residual is token 0
P1, Q1 = [0.2, 0.4, 0.4], [0.4, 0.2, 0.4]  # p/q = 1/2, 2, 1; the residual is token 1
P2 = [0.1, 0.2, 0.7]


@pytest.mark.parametrize(
    ("tokens", "u", "leaf", "bonus"),
    [
        ((2, 1), (0.49, 0.9), 2, P2),
        ((2, 1), (0.5, 0.0), 0, [1, 0, 0]),  # strict: u = p/q fails, and ends the scan
        ((0, 0), (0.9, 0.51), 1, [0, 1, 0]),
        ((0, 0), (0.9, 0.49), 2, P2),
    ],
)
def test_speculative_sampling(judge, tokens, u, leaf, bonus):
    draft = draft_of(tokens, (1, 1), [Q0, Q1])
    assert judge(Rejection(), draft, [P0, P1, P2], u) == (leaf, bonus)


def test_leniency_divides_q_but_not_the_residuals(judge):
    draft = draft_of((2, 1), (1, 1), [Q0, Q1])
    # p/(l q) = 0.5 / 0.8 = 0.625
    assert judge(Rejection(0.8), draft, [P0, P1, P2], (0.62, 0.9)) == (2, P2)
    assert judge(Rejection(0.8), draft, [P0, P1, P2], (0.63, 0.9)) == (0, [1, 0, 0])
    assert not Rejection(0.8).lossless and Rejection().lossless
    assert not recipes.lenient(2).lossless and recipes.lenient(2, 1.0).lossless


LOSSLESS = [
    Rejection(), BlockVerification(), TreeRejection(True), TreeRejection(False), Traversal(True),
    Traversal(False), BeamRejection(), SpecTr(),
]  # fmt: skip


@pytest.mark.parametrize("rule", LOSSLESS, ids=lambda rule: type(rule).__name__)
def test_what_every_lossless_rule_does_with_one_token(judge, rule):
    """One drafted token is tested by u < p/q by all of them."""
    for token, u, leaf in [(2, 0.49, 1), (2, 0.51, 0), (0, NEVER, 1), (1, NEVER, 1)]:
        draft = draft_of((token,), (1,), [Q0])
        want = (1, P1) if leaf else (0, [1, 0, 0])
        assert judge(rule, draft, [P0, P1], (u,)) == want, (token, u)
    never = draft_of((1,), (1,), [[0, 1, 0]])  # p = 0 does not pass, even at u = 0
    assert judge(rule, never, [[0.5, 0, 0.5], P1], (0.0,)) == (0, [0.5, 0, 0.5])
    unlikely = draft_of((1,), (1,), [[0.5, 1e-30, 0.5]])  # q near 0 always passes
    assert judge(rule, unlikely, [P0, P1], (NEVER,)) == (1, P1)


@pytest.mark.parametrize("rule", LOSSLESS, ids=lambda rule: type(rule).__name__)
def test_ended_and_empty_chains(judge, rule):
    """A chain of e tokens is one of depth e: after all of them, and after none, p follows."""
    ended = draft_of((0, 2), (1, 1), [Q0, [1, 0, 0]], valid=(True, False))
    assert judge(rule, ended, [P0, P1, P2], (NEVER, 0.0)) == (1, P1)
    ended = draft_of((2, 2), (1, 1), [Q0, [1, 0, 0]], valid=(True, False))
    assert judge(rule, ended, [P0, P1, P2], (0.49, 0.0)) == (1, P1)
    assert judge(rule, ended, [P0, P1, P2], (0.51, 0.0)) == (0, [1, 0, 0])
    empty = draft_of((2, 2), (1, 1), [Q0, Q1], valid=(False, False))
    assert judge(rule, empty, [P0, P1, P2], (0.0, 0.0)) == (0, P0)


@pytest.mark.parametrize("rule", LOSSLESS, ids=lambda rule: type(rule).__name__)
def test_a_residual_without_mass_is_the_p_before_it(judge, rule):
    """Only rounding can reject a token where p = q: here a uniform that no draw gives."""
    draft = draft_of((1,), (1,), [P0])
    assert judge(rule, draft, [P0, P1], (1.0,)) == (0, P0)


@pytest.mark.parametrize("replace", [True, False])
def test_a_residual_without_mass_is_p_and_not_q(judge, replace):
    """Rounding at its worst: q is above p everywhere."""
    draft = draft_of((1,), (1,), [[0.9, 0.6]])
    for rule in (TreeRejection(replace), Traversal(replace)):
        got, bonus = judge(rule, draft, [[0.5, 0.5]] * 2, (0.9,))
        assert got == 0 and bonus == [0.5, 0.5]


def test_greedy_takes_the_likeliest_after_node_0():
    draft = draft_of((1,), (1,), [P0])
    logp = jnp.log(jnp.array([[[0.2, 0.7, 0.1], [0.8, 0.1, 0.1]]]))
    got = Argmax().verify(draft, logp, logp, None, None)  # type: ignore[arg-type]
    assert got.leaf.tolist() == [0] and got.bonus.argmax().tolist() == 1
    assert np.isneginf(got.bonus[0, [0, 2]]).all()


@pytest.mark.parametrize("rule", [BlockVerification(), Traversal(True), Traversal(False)])
@pytest.mark.parametrize(
    ("tokens", "u", "leaf", "bonus"),
    [
        # P_1 = 0.5/0.8 = 0.625; S_1 = 0.625 * 0.9 - 0.5 = 0.0625; h_1 = 0.0625/0.4375 = 1/7
        # token 0 next: P_2 = min(1, 0.625 * 0.9/0.5) = 1; token 1: P_2 = 0.625 * 0.1/0.5 = 0.125
        ((0, 0), (NEVER, NEVER), 2, [0.3, 0.7]),  # prefix 1 fails, prefix 2 passes
        ((0, 1), (NEVER, 0.124), 2, [0.3, 0.7]),
        ((0, 1), (0.142, 0.126), 1, [1, 0]),  # max(0, 0.625 p - q) = 0.0625, 0
        ((0, 1), (0.144, 0.126), 0, [0, 1]),
    ],
)
def test_block_and_traversal_verification_of_a_chain(judge, rule, tokens, u, leaf, bonus):
    p, q = [[0.5, 0.5], [0.9, 0.1], [0.3, 0.7]], [[0.8, 0.2], [0.5, 0.5]]
    draft = draft_of(tokens, (1, 1), q)
    assert judge(rule, draft, p, u) == (leaf, bonus)


@pytest.mark.parametrize("rule", [BlockVerification(), Traversal(True), Traversal(False)])
def test_verification_goes_on_after_a_token_that_is_too_likely(judge, rule):
    """P_j is capped at 1, so what p gives too much of is not spent on later tokens."""
    p, q = [[0.8, 0.2], [0.5, 0.5], [0.3, 0.7]], [[0.2, 0.8], [0.8, 0.2]]
    draft = draft_of((0, 0), (1, 1), q)  # P_1 = min(1, 4) = 1, P_2 = 0.5/0.8 = 0.625
    assert judge(rule, draft, p, (NEVER, 0.62)) == (2, [0.3, 0.7])
    assert judge(rule, draft, p, (NEVER, 0.63)) == (1, [0, 1])


@pytest.mark.parametrize(
    ("replace", "u", "leaf", "bonus"),
    [
        # token 0: p/q = 0.1/0.6. Rejected: p = norm(0, 0.2, 0.3) = 0, 0.4, 0.6
        (True, (0.16, 0.0, 0.0), 1, P1),
        (True, (0.17, NEVER, 0.0), 2, P2),  # 0.4/0.3 > 1
        # without replacement q = 0, 0.75, 0.25 now: token 1 passes below 0.4/0.75 = 0.5333
        (False, (0.17, 0.53, 0.0), 2, P2),
        (False, (0.17, 0.54, NEVER), 3, [1, 0, 0]),  # p = norm(0, 0, 0.35): token 2 is certain
    ],
)
def test_siblings_are_tried_in_draw_order(judge, replace, u, leaf, bonus):
    draft = draft_of((0, 1, 2), (3,), [[0.6, 0.3, 0.1]])
    p = [[0.1, 0.5, 0.4], P1, P2, [1, 0, 0]]
    for rule in (TreeRejection(replace), Traversal(replace)):  # one level: the same rule
        assert judge(rule, draft, p, u) == (leaf, bonus)


# The paper's example (its sections 2.2 and 3.2): tokens a, b, c; every law of the tree is P or Q.
P, Q = [0.3, 0.4, 0.3], [0.6, 0.3, 0.1]
# Nodes: 1 a, 2 c; below 1: 3 b, 4 c; below 2: 5 a, 6 not drawn.
TREE = ((0, 2, 1, 2, 0, 0), (2, 2), [Q] * 3)
DRAWN = (True,) * 5 + (False,)


@pytest.mark.parametrize(
    ("replace", "u", "leaf", "bonus"),
    [
        # a(1) = 1/2, a(3) = 1/2 * 4/3 = 2/3: accepted below it, before its parent is looked at
        (False, (0.0, 0.0, 0.666, 0.0, 0.0, 0.0), 3, P),
        # then S = 0.15 - 0.1 = 0.05: a(1) = 0.05/0.55 = 1/11, p = c alone, q = 6/7, -, 1/7
        (False, (0.0, 0.0, 0.667, 0.636, 0.0, 0.0), 4, P),  # a(4) = (1/11)/(1/7) = 7/11
        # then max(0, 1/11 - 1/7) = 0: a(1) = 0. The root: p = 0, 1/3, 2/3; q = -, 3/4, 1/4
        # a(2) = min(1, 8/3) = 1, a(5) = 1/2
        (False, (0.0, NEVER, 0.667, 0.637, 0.499, 0.0), 5, P),
        # node 5 left max(0, P - Q) = 0, 0.1, 0.2
        (False, (0.0, NEVER, 0.667, 0.637, 0.501, 0.0), 2, [0, 0.33333, 0.66667]),
        # with replacement q stays: a(4) = (1/11)/(1/10) = 10/11, then 1/11 < 1/10
        (True, (0.0, 0.0, 0.667, 0.909, 0.0, 0.0), 4, P),
        (True, (0.0, NEVER, 0.667, 0.910, 0.501, 0.0), 2, [0, 0.33333, 0.66667]),
    ],
)
def test_traversal_verification_of_the_papers_example(judge, replace, u, leaf, bonus):
    draft = draft_of(*TREE, valid=DRAWN)
    assert judge(Traversal(replace), draft, [P] * 7, u) == (leaf, bonus)


def test_a_parent_is_tested_with_what_its_children_left(judge):
    """Node 1 keeps a budget after both children, and the bonus is what they did not cover."""
    p, q = [[0.5, 0.5, 0], [0.1, 0.2, 0.7]], [[0.8, 0.2, 0], [0.6, 0.3, 0.1]]
    # a(1) = 5/8. Tokens 0 and 1 below it: S = 0.4375 - 0.1 = 0.3375, a = 0.3375/0.7125 = 9/19
    # and p = token 2. Without replacement q = -, 3/4, 1/4: S = 9/19 - 1/4 = 17/76,
    # a = (17/76)/(17/76 + 10/19) = 17/57; with it S = 9/19 - 1/10 = 71/190, a = 71/171.
    tokens, laws = (0, 1, 0, 1, 0, 0), [p[0], p[1], *[P] * 5]
    draft = draft_of(tokens, (2, 2), [q[0], q[1], Q], valid=(True, False, True, True, False, False))
    for replace, least in [(False, 17 / 57), (True, 71 / 171)]:
        below, above = least - 1e-4, least + 1e-4
        u = [below, 0.0, 0.2085, 0.0, 0.0, 0.0]  # a(3) = 5/8 * 1/6 = 0.1042; token 1: p is 0
        assert judge(Traversal(replace), draft, laws, u) == (1, [0, 0, 1])
        u[0] = above  # the root: S = 0.3 of token 1, and no child is left
        assert judge(Traversal(replace), draft, laws, u) == (0, [0, 1, 0])


def test_equal_siblings_are_tried_one_by_one(judge):
    p, q = [[0.75, 0.25], [0.6, 0.4], [0.6, 0.4]], [[1.0, 0.0]]
    draft = draft_of((0, 0), (2,), q)  # p/q = 0.75; then p = norm(0, 0.25), and never token 0
    assert judge(TreeRejection(True), draft, p, (0.74, 0.0)) == (1, [0.6, 0.4])
    assert judge(TreeRejection(True), draft, p, (0.76, 0.0)) == (0, [0, 1])


def test_a_child_that_the_support_could_not_give_is_skipped(judge):
    draft = draft_of((0, 1), (2,), [[1.0, 0.0]], valid=(True, False))
    p = [[0.5, 0.5], [1, 0], [1, 0]]
    assert judge(TreeRejection(False), draft, p, (0.6, 0.0)) == (0, [0, 1])


def test_a_tree_starts_afresh_at_every_node(judge):
    """Node 2 is accepted; its children are nodes 5 and 6, by u[4] and u[5] and node 2's laws."""
    p = [[0.1, 0.5, 0.4], P2, P0, *[[1, 0, 0]] * 4]
    q = [[0.6, 0.3, 0.1], Q1, Q0]
    draft = draft_of((0, 1, 0, 0, 2, 2), (2, 2), q)
    u = [0.17, 0.5, 0.0, 0.0, 0.51, 0.0]
    # node 5 holds token 2 with p/q = 1/2; rejected: p = token 0, so node 6 cannot pass
    assert judge(TreeRejection(True), draft, p, u) == (2, [1, 0, 0])
    u[4] = 0.49
    assert judge(TreeRejection(True), draft, p, u) == (5, [1, 0, 0])


@pytest.mark.parametrize(
    ("second", "u", "leaf", "bonus"),
    [
        # Beams of two: nodes 1 a and 2 below the root, 3 a and 4 c both below node 1.
        (2, (0.49, 0.0, 0.49, 0.0), 3, P),  # a: p/q = 1/2 at each depth
        (2, (0.49, 0.0, 0.51, NEVER), 4, P),  # then p = 0, 1/3, 2/3 and q = -, 3/4, 1/4
        (2, (0.51, NEVER, 0.0, 0.0), 2, P),  # node 2 is c, and has no child
        (1, (0.51, 0.44, 0.0, 0.0), 2, P),  # node 2 is b: (1/3) / (3/4)
        (1, (0.51, 0.45, 0.0, 0.0), 0, [0, 0, 1]),  # max(0, 1/3 - 3/4), max(0, 2/3 - 1/4)
    ],
)
def test_rejection_over_beams(judge, second, u, leaf, bonus):
    draft = draft_of((0, second, 0, 2), (2, 1), [Q] * 3)
    draft = dataclasses.replace(draft, parent=jnp.array([[0, 0, 0, 1, 1]]))
    assert judge(BeamRejection(), draft, [P] * 5, u) == (leaf, bonus)


def test_a_beam_that_ended_has_no_children(judge):
    draft = draft_of((0, 2, 0, 1), (2, 1), [Q] * 3, valid=(True, True, False, True))
    draft = dataclasses.replace(draft, parent=jnp.array([[0, 0, 0, 1, 2]]))
    assert judge(BeamRejection(), draft, [P] * 5, (0.49, 0.0, 0.0, 0.0)) == (1, P)
    # b is not node 1's child, and below node 2 it always passes
    assert judge(BeamRejection(), draft, [P] * 5, (0.51, NEVER, 0.0, NEVER)) == (4, P)


def test_spectr_accepts_by_the_best_rho(judge):
    # beta = 0.5/rho, so 0.5 = 1 - (1 - 0.5/rho)^2: rho = 1 + sqrt(0.5), p/(rho q) = 0.29289
    p, draft = [[0.5, 0.5], *[[0.3, 0.7]] * 2], draft_of((0, 0), (2,), [[1.0, 0.0]])
    assert judge(SpecTr(), draft, p, (0.292, NEVER)) == (1, [0.3, 0.7])
    assert judge(SpecTr(), draft, p, (0.294, 0.292)) == (2, [0.3, 0.7])
    assert judge(SpecTr(), draft, p, (0.294, 0.294)) == (0, [0, 1])


def test_spectr_with_the_number_of_chains(judge):
    # rho = 2, beta = 0.25: of 0.5 the tests take 0.25 (1 - 0.75^2)/0.25 = 0.4375
    p, draft = [[0.5, 0.5], *[[0.3, 0.7]] * 2], draft_of((0, 0), (2,), [[1.0, 0.0]])
    assert judge(SpecTr("chains"), draft, p, (NEVER, 0.249)) == (2, [0.3, 0.7])
    assert judge(SpecTr("chains"), draft, p, (0.251, 0.251)) == (0, [0.11111, 0.88889])


def test_spectr_goes_on_with_all_chains_that_have_the_token(judge):
    """Chain 1 was rejected and chain 2 accepted with one token: both are tried at the next."""
    q = [[0.5, 0.5], *[[0.2, 0.8]] * 2]
    draft = draft_of((0, 0, 0, 1), (2, 1), q)
    p = [[0.25, 0.75], *[[0.5, 0.5]] * 2, [1, 0], [0, 1]]
    assert judge(SpecTr(), draft, p, (NEVER, 0.0, 0.5, 0.0)) == (3, [1, 0])  # token 0 of chain 1
    other = draft_of((0, 1, 0, 0), (2, 1), q)
    # chain 1 is not alive after token 1, and one chain is speculative sampling: p/q = 5/2
    assert judge(SpecTr(), other, p, (NEVER, 0.0, 0.0, NEVER)) == (4, [0, 1])


def test_spectr_where_nothing_overlaps(judge):
    draft = draft_of((0, 0), (2,), [[1.0, 0.0]])
    for rho in ("best", "chains"):
        assert judge(SpecTr(rho), draft, [[0, 1], P0[:2], P0[:2]], (0.0, 0.0)) == (0, [0, 1])


def test_one_threshold_a_token_against_one_for_the_block(judge):
    # p/q = 1/4, then 4: the block's is 1
    p, reference = [[0.25, 0.75], [1.0, 0.0], [0.3, 0.7]], np.log([1, 1, 0.25])
    draft = draft_of((0, 0), (1, 1), reference=reference)
    assert judge(Threshold(0.3), draft, p) == (0, [0.25, 0.75])
    assert judge(JointThreshold(0.3), draft, p) == (2, [0.3, 0.7])
    assert judge(Threshold(0.24), draft, p) == (2, [0.3, 0.7])
    assert judge(Threshold(0.25), draft, p) == (0, [0.25, 0.75])  # strict
    first = draft_of((1, 0), (1, 1), reference=np.log([1, 1, 1]))
    assert judge(Threshold(0.7), first, [p[0], [0.7, 0.3], p[2]]) == (1, [0.7, 0.3])
    zero = draft_of((1, 0), (1, 1), reference=[0.0, -80.0, -160.0])  # p = 0 never passes
    assert judge(Threshold(1e-30), zero, [[1, 0], p[1], p[2]]) == (0, [1, 0])


FLAT, PEAK = [0.25] * 4, [0.97, 0.01, 0.01, 0.01]


@pytest.mark.parametrize(
    ("p", "token", "passes"),
    [
        (FLAT, 3, True),  # exp(-H) = 1/4: least = min(0.09, 0.075)
        (PEAK, 0, True),
        (PEAK, 1, False),  # H = 0.1677: least = min(0.09, 0.2537)
        ([0.5, 0.41, 0.09, 0], 2, False),  # strict
        ([0.5, 0.4, 0.1, 0], 2, True),
        ([1, 0, 0, 0], 1, False),
        ([1, 0, 0, 0], 0, True),
    ],
)
def test_typical_acceptance_of_a_token(judge, p, token, passes):
    draft = draft_of((token,), (1,))
    want = (1, FLAT) if passes else (0, np.round(p, 5).tolist())
    assert judge(Typical(0.09, 0.3), draft, [p, FLAT]) == want


def test_typical_acceptance_of_a_tree(judge):
    p = [[0.5, 0.4, 0.08, 0.02], PEAK, PEAK, *[FLAT] * 4]
    rule = Typical(0.09, 0.3)
    below = draft_of((2, 1, 0, 0, 1, 2), (2, 2))  # node 1 fails, so its children do
    assert judge(rule, below, p) == (2, PEAK)
    draft = draft_of((1, 0, 0, 1, 0, 0), (2, 2))  # 0.4 * 0.97 against 0.5 * 0.97, twice
    assert judge(rule, draft, p) == (5, FLAT)
    last = draft_of((1, 0, 0, 1, 0, 0), (2, 2), valid=(True, True, True, True, False, False))
    assert judge(rule, last, p) == (3, FLAT)
    ended = draft_of((1, 0, 9, 9, 1, 1), (2, 2), filler=(0, 0, True, False, 0, 0),
                     valid=(True, True, True, False, True, True))  # fmt: skip
    assert judge(rule, ended, p)[0] == 3  # the path that ended keeps its place
    nothing = draft_of((3, 3), (2,))
    assert judge(rule, nothing, p[:3]) == (0, p[0])


def test_rollback_looks_at_raw_probabilities(judge):
    p = [[0.7, 0.3, 0], [0.2, 0.8, 0], [0.9, 0.1, 0]]
    raw = [[0.5, 0.25, 0.25], [0.5, 0.5, 0], [0.9, 0.1, 0]]
    draft = draft_of((1, 0), (1, 1), [[0, 1, 0], [1, 0, 0]])
    # -log 0.25 = 1.386, -log 0.5 = 0.693
    assert judge(Rollback(1.39), draft, p, raw=raw) == (2, [0.9, 0.1, 0])
    assert judge(Rollback(1.38), draft, p, raw=raw) == (0, [0.7, 0.3, 0])  # p, not a residual
    swapped = draft_of((0, 0), (1, 1), [[1, 0, 0], [1, 0, 0]])
    assert judge(Rollback(0.70), swapped, p, raw=[raw[1], raw[0], raw[2]]) == (2, [0.9, 0.1, 0])
    warped_away = draft_of((2, 0), (1, 1), [[0, 0, 1], [1, 0, 0]])
    assert judge(Rollback(5.0), warped_away, p, raw=raw)[0] == 2
    empty = draft_of((2, 0), (1, 1), [[0, 0, 1], [1, 0, 0]], valid=(False, False))
    assert judge(Rollback(5.0), empty, p, raw=raw) == (0, [0.7, 0.3, 0])
    sure = draft_of((0,), (1,), [[1, 0, 0]])
    assert judge(Rollback(0.0), sure, [[1, 0, 0], P0], raw=[[1, 0, 0], P0]) == (1, P0)


def test_rows_are_judged_on_their_own(judge, monkeypatch):
    """Three rows in one call give what each gives alone, for every rule."""
    cases = [((2, 1), (0.49, 0.9)), ((2, 1), (0.5, 0.0)), ((0, 0), (0.9, 0.51))]
    drafts = [draft_of(tokens, (1, 1), [Q0, Q1]) for tokens, _ in cases]
    every = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *drafts)
    logp, keys = log([[P0, P1, P2]] * 3), jax.random.split(jax.random.key(0), 3)
    for rule in [*LOSSLESS, Threshold(0.6), Typical(0.3, 0.9), Rollback(1.0)]:
        alone = [judge(rule, d, [P0, P1, P2], u) for d, (_, u) in zip(drafts, cases, strict=True)]
        monkeypatch.setattr(random, "uniform", lambda *_: jnp.asarray([u for _, u in cases]))
        verdict = rule.verify(every, logp, logp, keys, None)
        assert verdict.leaf.tolist() == [leaf for leaf, _ in alone], rule
        bonus = np.exp(verdict.bonus)
        bonus /= bonus.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(bonus, [law for _, law in alone], atol=2e-5)
