import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
from hypothesis import given, settings
from hypothesis import strategies as st

from mtad_jax.decode.warp import Warp, check_warp, warped_logp

P = np.array([0.5, 0.3, 0.15, 0.05])
COMPILED = jax.jit(warped_logp)


def probs(logits, *args):
    return np.exp(np.asarray(COMPILED(jnp.asarray(logits, jnp.float32), Warp(*args))))


@pytest.mark.parametrize(
    ("warp", "expected"),
    [
        ((1.0, 1.0, 0), P),
        ((1.0, 1.0, 4), P),
        ((1.0, 1.0, 99), P),
        ((1.0, 1.0, 2), [0.625, 0.375, 0, 0]),
        ((1.0, 0.6, 0), [0.625, 0.375, 0, 0]),  # mass before: 0, .5 | .8, .95
        ((1.0, 0.4, 0), [1, 0, 0, 0]),
        ((1.0, 0.0, 0), [1, 0, 0, 0]),
        ((1.0, 0.9, 3), [10 / 19, 6 / 19, 3 / 19, 0]),  # of .526 .316 .158: before .842 < .9
        ((1.0, 0.83, 3), [0.625, 0.375, 0, 0]),
        ((0.5, 1.0, 0), P**2 / (P**2).sum()),
        ((0.0, 1.0, 0), [1, 0, 0, 0]),
        ((0.0, 0.5, 2), [1, 0, 0, 0]),
    ],
)
def test_by_hand(warp, expected):
    np.testing.assert_allclose(probs(np.log(P), *warp), expected, rtol=2e-6)
    turned = probs(np.log(P)[::-1], *warp)
    np.testing.assert_allclose(turned, np.asarray(expected)[::-1], rtol=2e-6)


@pytest.mark.parametrize(("top_p", "top_k"), [(1.0, 0), (1.0, 3), (0.99, 0)])
def test_min_p_after_each_cut(top_p, top_k):
    got = COMPILED(jnp.log(jnp.asarray(P, jnp.float32)), Warp(1.0, top_p, top_k, min_p=0.5))
    np.testing.assert_allclose(np.exp(got), [0.625, 0.375, 0, 0], rtol=2e-6)


def test_ties_go_to_the_lowest_id():
    flat = np.zeros(5)
    np.testing.assert_allclose(probs(flat, 1.0, 1.0, 2), [0.5, 0.5, 0, 0, 0])
    np.testing.assert_allclose(probs(flat, 1.0, 0.5, 0), [1 / 3, 1 / 3, 1 / 3, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(probs([1, 2, 2, 1], 0.0), [0, 1, 0, 0])
    np.testing.assert_allclose(probs([1, 2, 1, 1], 1.0, 0.999, 2)[2:], [0, 0])


def test_top_p_of_one_keeps_the_tail_that_f32_sums_would_cut():
    logits = np.array([30.0, 0.0, -5.0])
    assert np.isfinite(np.asarray(warped_logp(jnp.asarray(logits), Warp()))).all()
    assert (probs(logits, 1.0, 1.0, 2) > 0).tolist() == [True, True, False]


def test_log_probabilities_and_cuts_are_never_nan():
    logits = jnp.array([[-jnp.inf, 0.0, -jnp.inf], [1e8, -1e8, 0.0]])
    for warp in (Warp(), Warp(0.0), Warp(0.3, 0.5), Warp(1.0, 0.5, 2), Warp(1e-6), Warp(1e-30)):
        logp = np.asarray(COMPILED(logits, warp))
        assert not np.isnan(logp).any(), warp
        np.testing.assert_allclose(np.exp(logp).sum(-1), 1, rtol=1e-6)
        assert logp[0].tolist() == [-np.inf, 0, -np.inf]


@pytest.mark.parametrize(("top_p", "top_k"), [(1.0, 0), (0.9, 3)])
def test_a_low_temperature_does_not_magnify_rounding(top_p, top_k):
    logits = np.float32([50.003, 50.002, 50.001, -50.0])
    want = ref.warp(logits.astype(float), 0.001, top_k, top_p)
    got = COMPILED(jnp.asarray(logits), Warp(0.001, top_p, top_k))
    np.testing.assert_allclose(got, want, atol=1e-5, rtol=1e-6)


@given(
    seed=st.integers(0, 2**32 - 1),
    temperature=st.sampled_from([0.0, 0.3, 1.0, 1.7]),
    top_k=st.sampled_from([0, 3]),
    top_p=st.sampled_from([0.0, 0.35, 0.9, 1.0]),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_like_the_reference(seed, temperature, top_k, top_p):
    logits = np.random.default_rng(seed).normal(scale=2, size=(8, 9)).astype(np.float32)
    got = np.asarray(COMPILED(jnp.asarray(logits), Warp(temperature, top_p, top_k)))
    for row, have in zip(logits, got, strict=True):
        if ref.warp_gap(row, temperature, top_k, top_p) > 1e-5:
            want = ref.warp(row, temperature, top_k, top_p)
            np.testing.assert_allclose(have, want, atol=1e-5)


@pytest.mark.parametrize(
    ("warp", "message"),
    [
        (Warp(-0.1), "temperature=-0.1 must be"),
        (Warp(float("nan")), "temperature=nan must be"),
        (Warp(float("inf")), "temperature=inf must be"),
        (Warp(1e-31), "temperature=1e-31 must be 0 or at least 1e-30"),
        (Warp(1.0, -0.1), "top_p=-0.1 must be"),
        (Warp(1.0, 1.1), "top_p=1.1 must be"),
        (Warp(1.0, float("nan")), "top_p=nan must be"),
        (Warp(1.0, 1.0, -1), "top_k=-1 must be"),
    ],
)
def test_settings_out_of_range(warp, message):
    with pytest.raises(ValueError, match=message):
        check_warp(warp)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.int32])
def test_a_setting_is_one_number_of_any_dtype(dtype):
    check_warp(Warp(jnp.ones((), dtype), jnp.ones((), dtype)))
    for shape in ((3,), (1,), (1, 1)):
        message = rf"^temperature has shape .* and dtype {np.dtype(dtype)}: give one number$"
        with pytest.raises(TypeError, match=message):
            check_warp(Warp(jnp.ones(shape, dtype)))
