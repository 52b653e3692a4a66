"""Every threshold at its value and one ulp either side of it: `>` is not `>=`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hand_drafts import draft_of, log

from mtad_jax import recipes
from mtad_jax.decode import random
from mtad_jax.decode.beams import beam_step, first_beam
from mtad_jax.decode.certificate import CertifiedBlock
from mtad_jax.decode.engine import generate
from mtad_jax.decode.state import Controls
from mtad_jax.decode.verifiers.joint import JointThreshold
from mtad_jax.decode.verifiers.lossless.block import BlockVerification
from mtad_jax.decode.verifiers.lossless.rejection import Rejection
from mtad_jax.decode.verifiers.lossless.spectr import SpecTr
from mtad_jax.decode.verifiers.lossless.tree import TreeRejection
from mtad_jax.decode.verifiers.pair_tests import dynamic_width, passing_draws
from mtad_jax.decode.verifiers.rollback import Rollback
from mtad_jax.decode.verifiers.threshold import Threshold
from mtad_jax.decode.verifiers.typical import Typical
from mtad_jax.decode.warp import Warp
from mtad_jax.testing import table_lm

CONTROLS = Controls(Warp(), Warp(), jnp.zeros((0,), jnp.int32))
UNLIKELY = -9.0  # of tokens that nobody drafted


def around(value) -> tuple[np.float32, np.float32, np.float32]:
    """The f32 before a value, the value, and the one after it; of 0 those that are not denormal."""
    value, tiny = np.float32(value), np.finfo(np.float32).tiny
    if value == 0:  # XLA takes denormal numbers for 0
        return -tiny, value, tiny
    return np.nextafter(value, -np.inf, dtype="f"), value, np.nextafter(value, np.inf, dtype="f")


def judged(rule, draft, logp, u=None, monkeypatch=None, *, logits=None) -> int:
    """The leaf that a rule gives one row; `logp` after every node, as it is."""
    if u is not None:
        monkeypatch.setattr(random, "uniform", lambda *_: jnp.asarray([u], jnp.float32))
    logp = jnp.asarray([logp], jnp.float32)
    logits = logp if logits is None else jnp.asarray([logits], jnp.float32)
    return int(rule.verify(draft, logp, logits, jax.random.key(0)[None], CONTROLS).leaf[0])


def laws(*values):
    """Log p after every node of a chain whose tokens are all 0; only these are read."""
    return [[value, UNLIKELY] for value in (*values, 0.0)]


@pytest.mark.parametrize("tau", [0.1, 0.5, 1.0, 1.5])
@pytest.mark.parametrize("rule", [JointThreshold, Threshold])
def test_a_ratio_of_tau_itself_is_not_above_it(rule, tau):
    """Log q = 0, so that log p is the ratio."""
    bound = np.asarray(jnp.log(jnp.float32(tau)))
    below, at, above = around(bound)
    draft = draft_of((0,), (1,), reference=[0.0, 0.0])
    leaves = [judged(rule(jnp.float32(tau)), draft, laws(r)) for r in (below, at, above)]
    assert leaves == [0, 0, 1]
    assert judged(rule(jnp.float32(tau)), draft, laws(bound - np.float32(5e-4))) == 0


@pytest.mark.parametrize("rule", [JointThreshold, Threshold])
def test_the_reference_is_subtracted_whole(rule):
    """tau = 1: log p must be above log q, of which one ulp is more than it is at 0."""
    for log_q in (-0.25, -3.0, -80.0):
        draft = draft_of((0,), (1,), reference=[0.0, log_q])
        assert [judged(rule(1.0), draft, laws(r)) for r in around(log_q)] == [0, 0, 1]


def test_the_joint_of_a_prefix_decides_and_not_its_tokens():
    """log p = -1, +r: sums are exact in f32. The token-wise rule sees 0 and r."""
    reference = [0.0, -1.0, -1.0, -1.0]
    for place in (1, 2):
        for r, passes in zip(around(0.5), (False, False, True), strict=True):
            values = [-1.5, 0.0, 0.0]
            values[place] = float(r)
            draft = draft_of((0, 0, 0), (1, 1, 1), reference=reference)
            got = judged(JointThreshold(1.0), draft, laws(*values))
            assert got == (3 if passes else 0), (place, r)
    draft = draft_of((0, 0, 0), (1, 1, 1), reference=reference)
    assert judged(JointThreshold(1.0), draft, laws(-0.5, -0.5, -0.5)) == 1
    assert judged(Threshold(1.0), draft, laws(-0.5, 0.5, 0.0)) == 2  # the third's ratio is 1
    assert judged(Threshold(1.0), draft, laws(-0.5, 0.0, 0.5)) == 1


@pytest.mark.parametrize("place", [1, 2, 3, 4])
def test_each_place_of_a_lattice_against_tau(place):
    """Two places a depth, 0 - 1 - 3 and 0 - 2 - 4 in order of nodes, judged one at a time."""
    depth, column = (1, place - 1) if place < 3 else (2, place - 3)
    first = -2.0 if depth == 1 else 0.0
    reference = [0.0, first, first, first - 2.0, first - 2.0]
    draft = draft_of((0, 1, 0, 1), (2, 1), reference=reference)
    for r, passes in zip(around(-2.0), (False, False, True), strict=True):
        logp = np.full((5, 2), -50.0, np.float32)
        if depth == 1:
            logp[0, column] = r
        else:
            logp[0, column], logp[1 + column, column] = 0.0, r
        assert judged(JointThreshold(1.0), draft, logp) == (place if passes else 0)


def test_an_invalid_node_never_passes():
    chain = draft_of((0, 0), (1, 1), valid=(True, False), filler=(False, True))
    tree = draft_of((0, 1), (2,), valid=(False, True))
    logp = [[0.0, -1.0], [0.0, 0.0], [0.0, 0.0]]
    assert judged(Threshold(0.5), chain, logp) == 1
    assert judged(Rollback(9.0), chain, logp) == 1
    assert judged(JointThreshold(0.5), chain, logp) == 1
    assert judged(JointThreshold(0.1), tree, logp) == 2
    assert judged(JointThreshold(0.5), tree, logp) == 0  # log p = -1 < log 0.5
    assert judged(Typical(0.01, 0.01), tree, logp) == 2


SAME = np.random.default_rng(3).normal(scale=1.5, size=(31, 6)).astype(np.float32)
ONE_DRAFTED = {  # at K = 1 the token-wise ratio is exact as well
    "mtad": lambda tau: recipes.mtad(3, 3, tau),
    "mtad, drawn": lambda tau: recipes.mtad(2, 3, tau, "sample"),
    "mmtad": lambda tau: recipes.mmtad(1, 3, tau),
    "mmtad, one beam": lambda tau: recipes.mmtad(3, 1, tau),
    "threshold": lambda tau: recipes.threshold(1, 2, tau),
}


@pytest.mark.parametrize("name", ONE_DRAFTED)
def test_the_targets_own_draft_at_tau_one_is_never_accepted(name):
    """Its log-ratio is 0 to the last bit, which is not above 0; just below tau = 1 all of it is."""
    lm = table_lm(SAME)
    call = {"draft": lm, "max_new_tokens": 8, "warp": Warp(0.8), "eos_id": 5}
    ids, lengths = np.random.default_rng(0).integers(0, 5, (4, 4)), [1, 2, 4, 3]
    below = float(around(1.0)[0])
    for tau, all_of_it in ((1.0, False), (below, True)):
        stats = generate(lm, ids, lengths, strategy=ONE_DRAFTED[name](tau), **call).stats()
        assert stats.drafted.sum() > 8
        np.testing.assert_array_equal(stats.accepted, stats.drafted * all_of_it)


def test_typical_acceptance_is_strict_on_both_sides():
    epsilon = np.float32(0.25)
    for value, leaf in zip(around(jnp.log(epsilon)), (0, 0, 1), strict=True):
        # A flat law beside the token: alpha exp(-H) is far above epsilon.
        assert judged(Typical(epsilon, 1e6), draft_of((0,), (1,)), laws(value)) == leaf
    sure = draft_of((0,), (1,))
    law = [[0.0, -np.inf]] * 2  # H = 0: alpha alone is asked for
    for alpha, leaf in zip(around(1.0), (1, 0, 0), strict=True):
        assert judged(Typical(1.0, alpha), sure, law) == leaf
    flat = log([[0.25] * 4] * 2)  # every token has log p = -H, up to rounding
    assert [judged(Typical(1.0, a), sure, flat) for a in (0.999, 1.001)] == [1, 0]


def test_rollback_keeps_what_is_as_surprising_as_it_allows():
    logits = np.array([[1.0, 2.0, 0.0], [0.0, 0.0, 0.0]], np.float32)
    surprise = -np.asarray(jax.nn.log_softmax(logits[0]))[0]
    for rollback, leaf in zip(around(surprise), (0, 1, 1), strict=True):
        assert judged(Rollback(rollback), draft_of((0,), (1,)), logits, logits=logits) == leaf


LOSSLESS = [Rejection(), BlockVerification(), TreeRejection(True), TreeRejection(False), SpecTr()]


@pytest.mark.parametrize("rule", LOSSLESS, ids=lambda rule: type(rule).__name__)
def test_a_lossless_test_is_strict(rule, monkeypatch):
    """p/q = 1/2: u = 1/2 fails, the f32 below it passes. And u = 0 passes whatever p is not 0."""
    draft = draft_of((0,), (1,), [[1.0, 0.0]])
    half = log([[0.5, 0.5]] * 2)
    for u, leaf in zip(around(0.5), (1, 0, 0), strict=True):
        assert judged(rule, draft, half, (u,), monkeypatch) == leaf
    for p, leaf in ((0.0, 0), (1e-37, 1)):
        assert judged(rule, draft, log([[p, 1.0]] * 2), (0.0,), monkeypatch) == leaf


def test_a_shorter_block_is_tested_as_strictly(monkeypatch):
    """P_1 = 1/2, S_1 = 1/2: h_1 = 1/2. Prefix 2 has P_2 = 0."""
    draft = draft_of((0, 1), (1, 1), [[1.0, 0.0], [0.0, 1.0]])
    p = log([[0.5, 0.5], [1.0, 0.0], [0.5, 0.5]])
    for u, leaf in zip(around(0.5), (1, 0, 0), strict=True):
        assert judged(BlockVerification(), draft, p, (u, 0.0), monkeypatch) == leaf


def test_a_draw_of_dsbd_is_tested_as_strictly():
    p, q = jnp.array([[[0.5, 0.5]]]), jnp.array([[[1.0, 0.0]]])
    zero = jnp.zeros((1, 1), jnp.int32)
    for u, passes in zip(around(0.5), (True, False, False), strict=True):
        passed, rest = passing_draws(p, q, (zero, zero), jnp.array([[u]]), jnp.array([1]))
        assert bool(passed[0, 0]) == passes
        np.testing.assert_allclose(rest[0, 0], [0.5, 0.5] if passes else [0.0, 1.0])


def test_a_chance_of_what_is_asked_is_enough_for_a_beam():
    """P(N >= 2) = 1/4 exactly: two draws, each accepted with 1/2."""
    p, q = jnp.array([[[0.5, 0.5]]]), jnp.array([[[1.0, 0.0]]])
    got = [int(dynamic_width(p, q, 2, least)[0]) for least in around(0.25)]
    assert got == [2, 2, 1]
    assert [int(dynamic_width(p, q, 2, least)[0]) for least in (0.0, 1.0)] == [2, 1]


def test_a_pair_is_valid_as_long_as_it_can_be_drawn():
    logq = jnp.array([[[-np.inf, -3e38, 0.0]]])
    beams = beam_step(first_beam(1), logq, 3, None, CONTROLS)
    assert beams.token.tolist() == [[2, 1, 0]] and beams.valid.tolist() == [[True, True, False]]
    for shape in ((1, 1, 3), (1, 3, 1, 3)):  # drawn without and with replacement
        drawn = beam_step(first_beam(1), logq, 3, jnp.full(shape, 7.0), CONTROLS)
        assert bool(drawn.valid.any()) and 0 not in np.asarray(drawn.token)[drawn.valid]


def test_a_certificate_holds_above_its_bound_only():
    for ratio, holds in zip(around(-0.5), (False, False, True), strict=True):
        assert CertifiedBlock(0, 0, 1, float(ratio), -0.5).holds == holds
