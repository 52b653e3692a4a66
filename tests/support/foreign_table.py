"""A foreign model that hashes its whole context, as `mtad_jax.testing.TableLM`, and its faults.

Like most libraries' models it writes all rows of a batch from one slot on, by an index in its
cache.
"""

import jax
import jax.numpy as jnp
import numpy as np

from mtad_jax import adapters

ROWS, VOCAB = 31, 12
TABLE = np.random.default_rng(0).normal(size=(ROWS, VOCAB)).astype(np.float32)


def init_cache(batch, slots, dtype):
    junk = jnp.full((batch, slots), 5, jnp.int32)
    return {"token": junk, "position": junk, "end_index": jnp.zeros((batch,), jnp.int32)}


def call(params, x):
    """Run the model as it should be."""
    return forward(params, x.tokens, x.positions, x.mask, x.cache)


def forward(params, tokens, positions, mask, cache):
    at = (0, cache["end_index"][0])
    token = jax.lax.dynamic_update_slice(cache["token"], tokens, at)
    position = jax.lax.dynamic_update_slice(cache["position"], positions, at)
    value = (token + 1) * ((position + 1) ** 2 % ROWS) % ROWS
    row = jnp.sum(jnp.where(mask, value[:, None], 0), axis=-1) % ROWS
    end = cache["end_index"] + tokens.shape[1]
    return params["table"][row], {"token": token, "position": position, "end_index": end}


def slots_of_call(x):
    return x.cache["end_index"][:, None] + jnp.arange(x.tokens.shape[1])


def own_mask(params, x):
    """Be causal by slots, whatever the mask says."""
    mask = jnp.arange(x.mask.shape[2]) <= slots_of_call(x)[:, :, None]
    return forward(params, x.tokens, x.positions, mask, x.cache)


def own_positions(params, x):
    """Take slots for positions."""
    return forward(params, x.tokens, slots_of_call(x), x.mask, x.cache)


def own_both(params, x):
    """Be a model of chains only."""
    mask = jnp.arange(x.mask.shape[2]) <= slots_of_call(x)[:, :, None]
    return forward(params, x.tokens, slots_of_call(x), mask, x.cache)


def new_positions(params, x):
    """Count positions from 0 in every call."""
    positions = jnp.broadcast_to(jnp.arange(x.tokens.shape[1]), x.tokens.shape)
    return forward(params, x.tokens, positions, x.mask, x.cache)


def counts_padding(params, x):
    """Turn all positions by the number of 1s in the call, as if 1 were padding."""
    padding = jnp.sum(x.tokens == 1, axis=1, keepdims=True)
    return forward(params, x.tokens, x.positions + padding, x.mask, x.cache)


def sees_all(params, x):
    """See every slot of the cache."""
    return forward(params, x.tokens, x.positions, jnp.ones_like(x.mask), x.cache)


def sees_neighbours(params, x):
    """Mix the rows of a batch."""
    logits, cache = call(params, x)
    return logits + jnp.sum(logits, axis=0, keepdims=True), cache


def fills_gaps(params, x):
    """Write after all that was ever written, not at the index; empty slots have position -1."""
    used = jnp.sum(x.cache["position"] >= 0, axis=1, dtype=jnp.int32)
    cache = x.cache | {"end_index": used}
    return forward(params, x.tokens, x.positions, x.mask, cache)


def empty_slots(batch, slots, dtype):
    """Make the cache of `fills_gaps`."""
    return init_cache(batch, slots, dtype) | {"position": jnp.full((batch, slots), -1, jnp.int32)}


def adapted(how=call, make=init_cache, table=TABLE, **changes):
    return adapters.from_function(
        {"table": jnp.asarray(table)}, how, make, **({"max_positions": 4096} | changes)
    )
