"""One call of a foreign model, traced for its shapes: what it gives, or what is wrong with it."""

from typing import Any

import jax
import jax.numpy as jnp

from mtad_jax.adapters.model import Call, Inputs
from mtad_jax.adapters.slots import Buffer, CacheForm, InitCache, failure, shown
from mtad_jax.models.quantize import compute_dtype

_TOKENS, _SLOTS = 3, 16
_GIVEN = f"tokens int32[1,{_TOKENS}], mask bool[1,{_TOKENS},{_SLOTS}]"


def check_call(params: Any, call: Call, init_cache: InitCache, form: CacheForm) -> int:
    """Trace one call, as a decode will make it, and return how many logits a position gets.

    Raises:
      ValueError: the call fails, or gives something else than it should.
    """
    cache = jax.eval_shape(lambda: init_cache(1, _SLOTS, compute_dtype(params)))
    try:
        found = jax.eval_shape(lambda params, cache: call(params, _inputs(cache)), params, cache)
    except Exception as error:  # whatever another's model does
        raise ValueError(
            f"call fails for {_GIVEN} and a cache of {_SLOTS} slots: {failure(error)}"
        ) from error
    if not (isinstance(found, tuple) and len(found) == 2):
        raise ValueError(f"call returns {shown(found)}: return (logits, cache)")
    logits, new = found
    shape = getattr(logits, "shape", ())
    if len(shape) != 3 or shape[:2] != (1, _TOKENS):
        raise ValueError(
            f"call gives logits {shown(logits)} for {_GIVEN}: give [1,{_TOKENS},V], those of every "
            "token"
        )
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(f"call gives logits {shown(logits)}: give real numbers before any argmax")
    _check_cache(cache, new, form)
    return shape[2]


def _inputs(cache: Any) -> Inputs:
    ids, at = jnp.zeros((1, _TOKENS), jnp.int32), jnp.zeros((1,), jnp.int32)
    return Inputs(ids, ids, jnp.ones((1, _TOKENS, _SLOTS), bool), at, cache)


def _check_cache(cache: Any, new: Any, form: CacheForm) -> None:
    """Raise ValueError where the cache that comes back is not of the form that went in."""
    if jax.tree.structure(new) != form.tree:
        raise ValueError(
            f"call gives back a cache of another structure: {jax.tree.structure(new)}, not "
            f"{form.tree}: return the new cache as init_cache makes it"
        )
    pairs = zip(form.leaves, jax.tree.leaves(cache), jax.tree.leaves(new), strict=True)
    for leaf, before, after in pairs:
        if isinstance(leaf, Buffer) and (before.shape, before.dtype) != (after.shape, after.dtype):
            raise ValueError(
                f"call makes the cache's {leaf.name} {shown(after)} of {shown(before)}: it must "
                "keep its shape and dtype: cast what is written to the cache's"
            )
