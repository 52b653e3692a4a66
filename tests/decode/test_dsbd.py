"""Speculative beam decoding: its dynamic width, its limit of one beam, its refusals."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
from flax import struct
from replay_cases import BATCH, Case

from mtad_jax.decode import random
from mtad_jax.decode.draft_verify import DraftVerify
from mtad_jax.decode.drafters.beam import Beam
from mtad_jax.decode.drafters.chain import Chain
from mtad_jax.decode.drafters.pairs import PairDraws
from mtad_jax.decode.request import Request
from mtad_jax.decode.verifiers.dsbd import DynamicWidth, _emit, _Stop
from mtad_jax.decode.verifiers.lossless.rejection import Rejection
from mtad_jax.decode.verifiers.pair_tests import dynamic_width, pair_law, passing_draws
from mtad_jax.decode.warp import Warp


@struct.dataclass
class SameUniforms(Rejection):
    """Speculative sampling with the uniforms that DSBD tests by."""

    def verify(self, draft, logp, logits, keys, controls):
        return Rejection.verify(self, draft, logp, logits, random.fold(keys, 0), controls)


def rule(depth, width, accept=0.8):
    return DraftVerify(PairDraws(depth, width), DynamicWidth(accept))


def distributions(seed, beams, vocab):
    """P and Q [B, U, V], each summing to 1, with zeros in them."""
    random = np.random.default_rng(seed)
    found = random.gamma(0.5, size=(2, BATCH, beams, vocab))
    found = np.where(random.random(found.shape) < 0.2, 0.0, found)
    return (found / found.sum(axis=(2, 3), keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("width", [1, 3, 5])
def test_the_width_is_what_can_be_expected(width):
    checked, seen = 0, set()
    for seed in range(30):
        p, q = distributions(seed, 3, 4)
        least = 0.05 + 0.03 * seed
        got = dynamic_width(jnp.asarray(p), jnp.asarray(q), width, least)
        for row in range(BATCH):
            want, gap = ref.dynamic_width(p[row].astype(float), q[row].astype(float), width, least)
            if gap > 1e-5:
                checked += 1
                seen.add(want)
                assert got[row] == want
    assert checked > 120 and len(seen) >= min(width, 3)


def test_a_dead_draft_tests_one_beam():
    """Q = 0 everywhere, as after parents that have all been pruned: nothing can pass."""
    p, _ = distributions(0, 2, 4)
    assert dynamic_width(jnp.asarray(p), jnp.zeros_like(p), 4, 0.8).tolist() == [1] * BATCH


def test_one_beam_is_speculative_sampling():
    """The first rounds accept the same tokens of the same chain, given the same uniforms."""
    random = np.random.default_rng(2)
    tables = random.normal(scale=1.5, size=(2, 31, 7)).astype(np.float32)
    tables[1] = tables.mean(axis=0)
    prompts, lengths = random.integers(0, 7, (BATCH, 6)), random.integers(1, 7, BATCH)
    subject = Case(tables, Warp(), Warp(), 0.5, [1, 2], 4, prompts, lengths)
    got, want = (
        {r.row: r for r in reversed(subject.rounds(s))}
        for s in (rule(4, 1), DraftVerify(Chain(4), SameUniforms()))
    )
    assert {row: r.drafted for row, r in got.items()} == {row: r.drafted for row, r in want.items()}
    assert len({len(r.drafted) for r in want.values()}) > 1


@pytest.mark.parametrize(
    ("passed", "wanted", "leaf", "token"),
    [
        ((True, False), 2, 5, 1),  # slot 1 is drawn from R: pair (1, 1), P = 0.3 > 0.2
        ((True, False), 1, 4, 0),  # no slot is left for a draw
        ((False, False), 2, 4, 1),  # slot 0 from R (0.3), slot 1 from P: pair (0, 1), 0.5
        ((False, False), 1, 5, 1),
    ],
)
def test_slots_that_are_left_are_filled_and_the_likeliest_is_emitted(
    passed, wanted, leaf, token, monkeypatch
):
    """Without noise a draw is the likeliest pair. Draw 0 is pair (0, 0) with P = 0.2."""
    monkeypatch.setattr(random, "gumbel", lambda keys, shape: jnp.zeros((1, *shape)))
    p, rest = jnp.array([[[0.2, 0.5], [0.0, 0.3]]]), jnp.array([[[0.0, 0.0], [0.0, 1.0]]])
    passed, zero = jnp.array([passed]), jnp.zeros((1, 2), jnp.int32)
    stop = _Stop(
        jnp.array([4]), jnp.array([True]), jnp.array([wanted]), p, rest, (zero, zero), passed,
        jnp.where(passed, 0.2, 0.0),
    )  # fmt: skip
    assert [int(x[0]) for x in _emit(stop, None)] == [leaf, token]  # type: ignore[arg-type]


BAD = {
    "accept": (DynamicWidth(1.5), PairDraws(2, 2), r"accept=1\.5 must be in \[0, 1\]"),
    "no number": (DynamicWidth(math.nan), PairDraws(2, 2), r"accept=nan must be in"),
    "chosen": (DynamicWidth(0.8), Beam(2, 2, "search", "tree"), r"drafter=Beam: .* PairDraws"),
    "depth": (DynamicWidth(0.8), PairDraws(0, 2), r"depth=0 must be >= 1"),
    "width": (DynamicWidth(0.8), PairDraws(2, 0), r"width=0 must be >= 1"),
    "half": (DynamicWidth(0.8), PairDraws(2, 2.5), r"width=2\.5 must be a whole number"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_setting_is_named(name):
    verifier, drafter, message = BAD[name]
    with pytest.raises(ValueError, match=message) as error:
        DraftVerify(drafter, verifier).check(Request())
    assert "\n" not in str(error.value)


def test_chains_only():
    with pytest.raises(ValueError, match="a model runs chains only"):
        rule(2, 1).check(Request(trees=False))


def test_an_ended_beam_offers_itself_alone():
    logp = jnp.log(jnp.array([[[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]]]))
    got = pair_law(jnp.array([[0.25, 0.75]]), logp, jnp.array([[True, False]]))
    np.testing.assert_allclose(got, [[[0.25, 0, 0], [0.075, 0.45, 0.225]]], atol=1e-6)


def test_no_draw_passes_after_those_that_are_wanted():
    """All three would pass; nor does one that R cannot give."""
    p = q = jnp.array([[[0.5, 0.5, 0.0]]])
    token = jnp.array([[0, 1, 0]])
    zero, u = jnp.zeros_like(token), jnp.zeros(token.shape)
    for wanted in (1, 2):
        passed, rest = passing_draws(p, q, (zero, token), u, jnp.array([wanted]))
        assert passed.tolist() == [[i < wanted for i in range(3)]]
        np.testing.assert_array_equal(rest, p)
    q = jnp.array([[[0.0, 0.5, 0.5]]])
    passed, rest = passing_draws(p, q, (zero, zero + 2), u, jnp.array([3]))
    assert not passed.any()
    np.testing.assert_array_equal(rest, [[[1.0, 0.0, 0.0]]])
