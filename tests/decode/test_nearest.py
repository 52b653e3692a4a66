"""Mentored decoding's law: by hand, against all laws of a grid, and on large vocabularies."""

import itertools

import jax
import numpy as np
import pytest
import reference as ref

from mtad_jax.decode.verifiers.nearest import nearest_law

LAW = jax.jit(nearest_law, static_argnames="share")
GRID = 60  # steps of a probability


def share_of(q, r):
    """The probability that a drafted token stays."""
    return np.minimum(q, r).sum(axis=-1)


def apart(p, r):
    """KL(p || r) in nats, in double precision."""
    p, r = np.asarray(p, float), np.asarray(r, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(p > 0, p * (np.log(p) - np.log(r)), 0.0).sum(axis=-1)


def pairs(vocab, count, seed=0):
    """Pairs of laws of all kinds: plain, peaked, with zeros in p, in q and in both."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        both = rng.dirichlet(np.full(vocab, (1.0, 0.3)[i % 2]), size=2)
        for which in ((), (0,), (1,), (0, 1))[i % 4]:
            both[which][rng.permutation(vocab)[: max(1, vocab // 3)]] = 0
        yield (both / both.sum(axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(
    ("p", "q", "share", "r"),
    [
        ([0.5, 0.5], [0.8, 0.2], 0.9, [0.7, 0.3]),
        ([0.5, 0.5], [0.8, 0.2], 0.6, [0.5, 0.5]),  # p itself accepts 0.7
        ([0.5, 0.5], [0.8, 0.2], 1.0, [0.8, 0.2]),
        ([0.5, 0.3, 0.2], [0.2, 0.3, 0.5], 0.8, [0.4, 0.3, 0.3]),
        # Two tokens are filled to 0.75 p, and two cut to 1.375 p.
        ([0.4, 0.2, 0.2, 0.2], [0.2, 0.1, 0.3, 0.4], 0.85, [0.3, 0.15, 0.275, 0.275]),
        ([0.5, 0.5, 0.0], [0.2, 0.1, 0.7], 1.0, [0.5, 0.5, 0.0]),  # 0.7 is rejected anyway
        ([0.9, 0.1, 0.0], [0.2, 0.5, 0.3], 1.0, [0.5, 0.5, 0.0]),  # 0.3 is: first token filled
        ([0.5, 0.25, 0.25], [0.0, 0.5, 0.5], 1.0, [0.0, 0.5, 0.5]),
        ([1.0, 0.0], [0.0, 1.0], 1.0, [1.0, 0.0]),
        ([0.0, 1.0], [0.0, 1.0], 0.5, [0.0, 1.0]),
    ],
)
def test_by_hand(p, q, share, r):
    p, q = np.float32([p, q])
    np.testing.assert_allclose(LAW(p, q, share, share=True), r, atol=1e-6)
    # The same law by what it costs, unless more would be accepted for nothing.
    cost = apart(p, r)
    if 0 < cost < np.inf and share < 1:
        np.testing.assert_allclose(LAW(p, q, cost, share=False), r, atol=1e-4)


@pytest.mark.parametrize("vocab", [2, 3, 4])
def test_no_other_law_is_nearer_or_accepts_more(vocab):
    """Against all laws of a grid that are 0 where p is: both problems have this one solution."""
    steps = itertools.product(range(GRID + 1), repeat=vocab - 1) if vocab < 4 else (
        row for row in itertools.product(range(0, GRID + 1, 3), repeat=3))  # fmt: skip
    grid = np.array([(*row, GRID - sum(row)) for row in steps if sum(row) <= GRID]) / GRID
    near_misses = 0
    for p, q in pairs(vocab, 24):
        laws = grid[(grid[:, p == 0] == 0).all(axis=1)]
        shares, costs = share_of(q, laws), apart(p, laws)
        for limit in (0.003, 0.03, 0.2, 1.0):
            r = np.asarray(LAW(p, q, limit, share=False), float)
            np.testing.assert_allclose(r.sum(), 1, atol=2e-6)
            assert apart(p, r) <= limit + 2e-6 and not r[p == 0].any()
            within = shares[costs <= limit]
            assert not len(within) or within.max() <= share_of(q, r) + 2e-6
            near_misses += bool(len(within)) and within.max() > share_of(q, r) - 2 / GRID
        for share in (0.3, 0.6, 0.9, 1.0):
            r = np.asarray(LAW(p, q, share, share=True), float)
            most = q[p > 0].sum()
            assert share_of(q, r) >= min(share, most) - 2e-6 and not r[p == 0].any()
            enough = costs[shares >= share_of(q, r) - 1e-9]
            assert not len(enough) or enough.min() >= apart(p, r) - 2e-5
    assert near_misses > 24  # the grid comes near to it: the bound is no empty one


def test_it_is_the_reference_on_larger_vocabularies():
    for p, q in pairs(40, 12, seed=1):
        for limit in (0.0, 1e-3, 0.02, 0.3, 2.0):
            want, _ = ref.mentored_law(p, q, limit, "divergence")
            np.testing.assert_allclose(LAW(p, q, limit, share=False), want, atol=3e-5)
        for share in (0.0, 0.4, 0.8, 0.99):
            want, _ = ref.mentored_law(p, q, share, "share")
            np.testing.assert_allclose(LAW(p, q, share, share=True), want, atol=3e-5)


def test_limit_0_is_p_to_the_last_bit():
    for p, q in pairs(200, 4, seed=2):
        for share in (True, False):
            np.testing.assert_array_equal(LAW(p, q, 0.0, share=share), p)


def test_a_batch_of_places_of_fifty_thousand_tokens():
    rng = np.random.default_rng(0)
    logits = 3 * rng.normal(size=(2, 2, 3, 50_000))
    p, q = (np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)).astype(np.float32)
    r = np.asarray(LAW(p, q, 0.2, share=False), float)
    np.testing.assert_allclose(r.sum(axis=-1), 1, atol=1e-4)
    np.testing.assert_allclose(apart(p, r), 0.2, atol=1e-3)
