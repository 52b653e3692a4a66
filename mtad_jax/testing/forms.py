"""Shapes, dtypes and vocabularies of a model, before anything is compiled."""

from typing import Any

import jax
import jax.numpy as jnp

from mtad_jax.models.protocol import BoundLM, CausalLM

_ROWS, _TOKENS, _SLOTS = 2, 3, 16


def check_forms(lm: BoundLM, partner: BoundLM | None) -> None:
    """Check what a model's calls give by their shapes alone.

    Raises:
      AssertionError: see `mtad_jax.testing.check_causal_lm`.
    """
    if not isinstance(lm.model, CausalLM):
        names = [n for n in ("vocab_size", "max_positions", "trees", "init_cache", "apply", "keep")
                 if not hasattr(lm.model, n)]  # fmt: skip
        raise AssertionError(f"{type(lm.model).__name__} has no {', '.join(names)}: see CausalLM")
    hash(lm.model)
    rows = lm.model.vocab_size
    if lm.vocab_size > rows:
        raise AssertionError(f"vocab={lm.vocab_size} > vocab_size={rows} logits: lower vocab")
    if partner is not None and partner.vocab_size != lm.vocab_size:
        raise AssertionError(
            f"vocabulary {lm.vocab_size} != the partner's {partner.vocab_size}: both models must "
            "share one tokenizer; rows of padding are told by vocab=<real ids>"
        )
    cache = jax.eval_shape(lambda: lm.model.init_cache(_ROWS, _SLOTS, lm.dtype))
    logits, new = jax.eval_shape(_call, lm, cache)
    want = jax.ShapeDtypeStruct((_ROWS, _TOKENS, rows), jnp.float32)
    if _form(logits) != _form(want):
        raise AssertionError(f"apply gives logits {_form(logits)}: give {_form(want)}, [B, T, V]")
    _check_same(cache, new, "apply")
    _check_same(cache, jax.eval_shape(_keep, lm, cache), "keep")


def _call(lm: BoundLM, cache: Any):
    ids, at = jnp.zeros((_ROWS, _TOKENS), jnp.int32), jnp.zeros((_ROWS,), jnp.int32)
    return lm.model.apply(
        lm.params, ids, positions=ids, write_at=at, prefix=at, window=None, cache=cache
    )


def _keep(lm: BoundLM, cache: Any):
    ids, at = jnp.zeros((_ROWS, _TOKENS), jnp.int32), jnp.ones((_ROWS,), jnp.int32)
    return lm.model.keep(cache, ids, at, span=4)


def _check_same(before: Any, after: Any, what: str) -> None:
    """Raise AssertionError where a cache comes back in another form: a loop could not carry it."""
    if jax.tree.structure(before) != jax.tree.structure(after):
        raise AssertionError(
            f"{what} gives a cache of another structure: {jax.tree.structure(after)}, not "
            f"{jax.tree.structure(before)}"
        )
    old = jax.tree_util.tree_leaves_with_path(before)
    for (path, x), y in zip(old, jax.tree.leaves(after), strict=True):
        if _form(x) != _form(y):
            name = jax.tree_util.keystr(path)
            raise AssertionError(f"{what} makes the cache's {name} {_form(y)} of {_form(x)}")


def _form(x: Any) -> str:
    """Return an array's dtype and shape, such as `float32[2,3,50]`."""
    return f"{x.dtype}[{','.join(map(str, x.shape))}]"
