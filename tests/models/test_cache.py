import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtad_jax.models import cache as kv


def numbered(batch, slots):
    """A one-layer cache whose slot s of row b holds 100 b + s (values: negative)."""
    number = 100.0 * np.arange(batch)[:, None] + np.arange(slots)
    number = jnp.asarray(np.broadcast_to(number[:, None, :, None], (batch, 2, slots, 3)))
    return (kv.LayerCache(number, -number),)


def held(cache):
    """What each slot holds, [B][S]; every head and dimension alike."""
    k = np.asarray(cache[0].k)
    np.testing.assert_array_equal(cache[0].v, -k)
    assert (k == k[:, :1, :, :1]).all()
    return k[:, 0, :, 0].tolist()


def test_empty_cache():
    cache = kv.empty_cache(2, 3, 4, 5, 6, jnp.bfloat16)
    assert len(cache) == 2
    assert cache[1].k.shape == cache[1].v.shape == (3, 4, 5, 6)
    assert cache[0].v.dtype == jnp.bfloat16 and not cache[0].k.any()
    assert len(kv.CACHE_AXES) == cache[0].k.ndim


@pytest.mark.parametrize("batch", [2, 9], ids=["unrolled", "scattered"])
def test_write(batch):
    at = jnp.arange(batch) % 3
    new = jnp.broadcast_to(jnp.array([7.0, 8.0])[None, None, :, None], (batch, 2, 2, 3))
    got = held((jax.jit(kv.write)(numbered(batch, 5)[0], new, -new, at),))
    for b, start in enumerate(at.tolist()):
        want = [100 * b + s for s in range(5)]
        want[start : start + 2] = [7, 8]
        assert got[b] == want


def test_write_casts_to_the_caches_dtype():
    cache = kv.empty_cache(1, 1, 1, 2, 1, jnp.bfloat16)[0]
    one = jnp.ones((1, 1, 1, 1), jnp.float32)
    assert kv.write(cache, one, one, jnp.array([1])).k.dtype == jnp.bfloat16


@pytest.mark.parametrize("batch", [2, 9], ids=["unrolled", "scattered"])
def test_keep_reads_all_before_it_writes(batch):
    source = jnp.tile(jnp.array([[2, 1, 4], [5, 3, 3]]), (batch, 1))[:batch]
    dest = jnp.tile(jnp.array([1, 3]), batch)[:batch]
    keep = jax.jit(functools.partial(kv.keep, span=5))  # of row 0: slots 0 to 4; row 1: 2 to 6
    got = held(keep(numbered(batch, 7), source, dest))
    assert got[0] == [0, 2, 1, 4, 4, 5, 6]
    assert got[1] == [100, 101, 102, 105, 103, 103, 106]


def test_visible_without_a_window_is_causal_from_the_write_cursor():
    see = kv.visible_slots(5, 2, jnp.array([0, 2]), jnp.array([0, 2]), None)
    assert see.astype(int).tolist() == [
        [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0]],
        [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]],
    ]


def test_visible_with_a_window_is_the_prefix_and_what_the_window_allows():
    window = jnp.array([[[1, 0, 1], [0, 1, 1]], [[0, 0, 1], [1, 1, 0]]], bool)
    # The write cursor does not matter: level by level, a call writes past the prefix.
    see = kv.visible_slots(6, 2, jnp.array([4, 1]), jnp.array([2, 0]), window)
    assert see.astype(int).tolist() == [
        [[1, 1, 1, 0, 1, 0], [1, 1, 0, 1, 1, 0]],
        [[0, 0, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0]],
    ]


def test_a_window_that_reaches_past_the_buffer_is_cut():
    see = kv.visible_slots(3, 1, jnp.array([2]), jnp.array([2]), jnp.ones((1, 1, 4), bool))
    assert see.astype(int).tolist() == [[[1, 1, 1]]]
