"""Prefill and the one while_loop, in one compiled program per bucket of sizes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh

from mtad_jax.decode import random
from mtad_jax.decode.protocols import Strategy
from mtad_jax.decode.result import DecodeResult
from mtad_jax.decode.state import Controls, DecodeState, Trace
from mtad_jax.devices.sharding import by_rows, replicated
from mtad_jax.models.protocol import BoundLM
from mtad_jax.types import Array, Bool, Int

ALL_ROUNDS = 2**31 - 1  # more than any text needs
CHUNK = 512
"""Prompt tokens run at once: bounds prefill's temporaries at long context."""


def bucket(size: int) -> int:
    """Return the padded size that `size` compiles as; prompts and caches share these steps.

    32, 48, 64, 96, 128, ... up to 512, then multiples of 512: at most 1.5 times the need, and few
    programs.
    """
    if size > CHUNK:
        return -(-size // CHUNK) * CHUNK
    steps = (32, 48, 64, 96, 128, 192, 256, 384, 512)
    return next(step for step in steps if step >= size)


def kinds_of(strategy: Strategy) -> int:
    """Return a number that tells a rule's classes from those of any other; static for a program.

    JAX compares two trees of dataclasses by their fields alone: `mtad()` equals `threshold()`, and
    `greedy()` equals `sample()`. It finds compiled programs by a hash that does hold the classes,
    and asks for equality where two hashes share a place: then one rule is decoded by another's
    program (jaxlib 0.10.2: 101 of 600 classes of one shape, in one process).
    """
    return hash(jax.tree.structure(strategy))


@functools.partial(jax.jit, static_argnames=("kinds", "slots", "mesh"))
def empty_state(
    target: BoundLM,
    draft: BoundLM | None,
    strategy: Strategy,
    controls: Controls,
    prompt_ids: Int[Array, "B P"],
    prompt_length: Int[Array, " B"],
    limit: Int[Array, " B"],
    seed: Int[Array, " B"],
    row_ids: Int[Array, " B"],
    *,
    kinds: int,
    slots: int,
    mesh: Mesh | None = None,
) -> DecodeState:
    """Return the state before prefill: the prompt as text, both caches empty.

    On a mesh the rows of everything are split over its `data` axis; here and in `run_rounds`.
    `kinds` is `kinds_of(strategy)`, here and wherever a program takes a rule.
    """
    batch, width = prompt_ids.shape
    real, whole = jnp.zeros((batch, slots), jnp.float32), jnp.zeros((batch, slots), jnp.int32)

    def cache(lm: BoundLM):
        return lm.model.init_cache(batch, slots, lm.dtype)

    state = DecodeState(
        tokens=jnp.pad(prompt_ids, ((0, 0), (0, slots - width))),
        length=prompt_length,
        limit=limit,
        done=limit <= prompt_length,
        key=random.row_keys(seed, row_ids),
        rounds=jnp.zeros((), jnp.int32),
        trace=Trace(real, real, whole, whole, whole, real, whole),
        target_cache=cache(target),
        draft_cache=None if draft is None else cache(draft),
        extra=None,
        started=jnp.zeros((), bool),
    )
    return _split_rows(strategy.start(state, controls, target.vocab_size), mesh)


@functools.partial(
    jax.jit, static_argnames=("kinds", "prompt_width", "mesh"), donate_argnames=("state",)
)
def run_rounds(
    target: BoundLM,
    draft: BoundLM | None,
    strategy: Strategy,
    controls: Controls,
    state: DecodeState,
    rounds: Int[Array, ""],
    *,
    kinds: int,
    prompt_width: int,
    mesh: Mesh | None = None,
) -> DecodeState:
    """Prefill if that is still to do, then decode until all rows are done or `rounds` are up.

    Streaming calls the same program again with the state that it gave back, which is donated; the
    limit of rounds is traced.
    """
    state = _prefill(target, draft, state, prompt_width)

    def unfinished(carry):
        state, left = carry
        return (left > 0) & ~jnp.all(state.done)

    def one_round(carry):
        state, left = carry
        return _split_rows(strategy.step(target, draft, state, controls), mesh), left - 1

    return lax.while_loop(unfinished, one_round, (state, rounds))[0]


def _split_rows(state: DecodeState, mesh: Mesh | None) -> DecodeState:
    """Say that all rows but the caches', which the models lay out, are split over `data`."""
    if mesh is None:
        return state
    rest = dataclasses.replace(state, target_cache=None, draft_cache=None)
    rest = jax.tree.map(lambda x: lax.with_sharding_constraint(x, by_rows(mesh, x)), rest)
    return dataclasses.replace(rest, target_cache=state.target_cache, draft_cache=state.draft_cache)


def _prefill(target: BoundLM, draft: BoundLM | None, state: DecodeState, width: int) -> DecodeState:
    """Run the prompt through both models, for their caches only: no logits are computed.

    The last prompt token is run again as node 0 of the first round, which gives its logits. Does
    nothing to a state that has been through it.
    """

    def fill(lm: BoundLM, cache):
        return _fill(lm, cache, state.tokens, width, state.started)

    return dataclasses.replace(
        state,
        target_cache=fill(target, state.target_cache),
        draft_cache=None if draft is None else fill(draft, state.draft_cache),
        started=jnp.ones((), bool),
    )


def _fill(lm: BoundLM, cache, tokens: Int[Array, "B S"], width: int, started: Bool[Array, ""]):
    """Fill cache slots 0 ... width - 1; slots past a row's prompt are scratch."""
    batch, chunk = tokens.shape[0], min(width, CHUNK)

    def one_chunk(i, cache):
        # The last chunk of a width that is no multiple of it starts early: some tokens run twice.
        at = jnp.broadcast_to(jnp.minimum(i * chunk, width - chunk), (batch,)).astype(jnp.int32)
        positions = at[:, None] + jnp.arange(chunk)
        part = lax.dynamic_slice_in_dim(tokens, at[0], chunk, axis=1)
        return lm.model.apply(
            lm.params, part, positions=positions, write_at=at, prefix=at, window=None, cache=cache
        )[1]

    # A loop of no steps where there is nothing to do: the branches of a `cond` copy the cache.
    return lax.fori_loop(0, jnp.where(started, 0, -(-width // chunk)), one_chunk, cache)


@functools.partial(jax.jit, static_argnames=("kinds", "max_new_tokens", "mesh"))
def result_of(
    strategy: Strategy,
    state: DecodeState,
    prompt_length: Int[Array, " B"],
    *,
    kinds: int,
    max_new_tokens: int,
    mesh: Mesh | None = None,
) -> DecodeResult:
    """Cut the generated part out of a state; 0 past each row's length.

    On a mesh every device, and so every process, gets all rows.
    """
    state = strategy.finish(state)
    length = state.length - prompt_length
    index = prompt_length[:, None] + jnp.arange(max_new_tokens)
    inside = jnp.arange(max_new_tokens) < length[:, None]

    def cut(buffer: Array) -> Array:
        return jnp.where(inside, jnp.take_along_axis(buffer, index, axis=1), 0)

    trace = jax.tree.map(cut, state.trace)
    result = DecodeResult(
        cut(state.tokens), length, state.done, trace, strategy.bound, strategy.depth
    )
    if mesh is None:
        return result
    return lax.with_sharding_constraint(result, replicated(mesh))
