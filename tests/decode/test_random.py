import jax
import jax.numpy as jnp
import numpy as np

from mtad_jax.decode import random


def data(keys):
    return np.asarray(jax.random.key_data(keys)).tolist()


def test_a_rows_key_is_its_own():
    batch = random.row_keys(7, jnp.array([3, 0, 5]))
    assert data(batch)[0] == data(random.row_keys(7, jnp.array([3])))[0]
    assert len({tuple(k) for k in data(batch)}) == 3
    assert data(batch) != data(random.row_keys(8, jnp.array([3, 0, 5])))


def test_draws_differ_by_length_purpose_and_step():
    keys = random.row_keys(0, jnp.array([0]))
    folded = [
        tuple(data(random.round_keys(keys, jnp.array([n]), purpose, step))[0])
        for n in (1, 2, 1024, 1025)
        for purpose in (random.DRAFT, random.ACCEPT, random.BONUS)
        for step in (0, 1, 1023)
    ]
    assert len(set(folded)) == len(folded)


def test_a_row_draws_the_same_in_any_batch():
    many, one = random.row_keys(1, jnp.arange(4)), random.row_keys(1, jnp.array([2]))
    for draw in (random.uniform, random.gumbel):
        np.testing.assert_array_equal(draw(many, (3, 2))[2], draw(one, (3, 2))[0])
    logp = jnp.log(jnp.full((4, 5), 0.2))
    assert random.categorical(many, logp)[2] == random.categorical(one, logp[:1])[0]


def test_uniforms_are_in_the_half_open_interval():
    u = np.asarray(random.uniform(random.row_keys(0, jnp.arange(8)), (1000,)))
    assert (u >= 0).all() and (u < 1).all() and abs(u.mean() - 0.5) < 0.02


def test_categorical_follows_its_weights_and_never_draws_what_is_cut():
    keys = random.row_keys(0, jnp.arange(4000))
    logp = jnp.log(jnp.array([0.0, 0.6, 0.0, 0.3, 0.1])) + 5.0  # not normalised
    drawn = np.asarray(random.categorical(keys, jnp.broadcast_to(logp, (4000, 5))))
    share = np.bincount(drawn, minlength=5) / 4000
    np.testing.assert_allclose(share, [0, 0.6, 0, 0.3, 0.1], atol=0.03)
    assert share[0] == share[2] == 0
