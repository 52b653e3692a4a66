"""Prefill and the one while_loop, in one compiled program per bucket of sizes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax

from mtad_jax import keys as rng
from mtad_jax.decode.result import DecodeResult
from mtad_jax.decode.state import Controls, DecodeState, Trace
from mtad_jax.decode.strategy import Strategy
from mtad_jax.models.base import BoundLM
from mtad_jax.types import Array, Int

ALL_ROUNDS = 2**31 - 1  # more than any text needs
_CHUNK = 512  # prompt tokens run at once: bounds prefill's temporaries at long context


def bucket(size: int) -> int:
    """Return the padded size that `size` compiles as; prompts and caches share these steps.

    32, 48, 64, 96, 128, ... up to 512, then multiples of 512: at most 1.5 times the need, and few
    programs.
    """
    if size > _CHUNK:
        return -(-size // _CHUNK) * _CHUNK
    steps = (32, 48, 64, 96, 128, 192, 256, 384, 512)
    return next(step for step in steps if step >= size)


@functools.partial(jax.jit, static_argnames=("slots",))
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
    slots: int,
) -> DecodeState:
    """Return the state before prefill: the prompt as text, both caches empty."""
    batch, width = prompt_ids.shape
    real, whole = jnp.zeros((batch, slots), jnp.float32), jnp.zeros((batch, slots), jnp.int32)

    def cache(lm: BoundLM):
        return lm.model.init_cache(batch, slots, lm.dtype)

    state = DecodeState(
        tokens=jnp.pad(prompt_ids, ((0, 0), (0, slots - width))),
        length=prompt_length,
        limit=limit,
        done=limit <= prompt_length,
        key=rng.row_keys(seed, row_ids),
        rounds=jnp.zeros((), jnp.int32),
        trace=Trace(real, real, whole, whole, whole, real, whole),
        target_cache=cache(target),
        draft_cache=None if draft is None else cache(draft),
        extra=None,
        started=jnp.zeros((), bool),
    )
    return strategy.start(state, controls, target.vocab_size)


@functools.partial(jax.jit, static_argnames=("prompt_width",), donate_argnames=("state",))
def run(
    target: BoundLM,
    draft: BoundLM | None,
    strategy: Strategy,
    controls: Controls,
    state: DecodeState,
    rounds: Int[Array, ""],
    *,
    prompt_width: int,
) -> DecodeState:
    """Prefill if that is still to do, then decode until all rows are done or `rounds` are up.

    Streaming calls the same program again with the state that it gave back, which is donated; the
    limit of rounds is traced.
    """
    state = lax.cond(
        state.started,
        lambda s: s,
        lambda s: _prefill(target, draft, s, prompt_width),
        state,
    )

    def unfinished(carry):
        state, left = carry
        return (left > 0) & ~jnp.all(state.done)

    def one_round(carry):
        state, left = carry
        return strategy.step(target, draft, state, controls), left - 1

    return lax.while_loop(unfinished, one_round, (state, rounds))[0]


def _prefill(target: BoundLM, draft: BoundLM | None, state: DecodeState, width: int) -> DecodeState:
    """Run the prompt through both models, for their caches only: no logits are computed.

    The last prompt token is run again as node 0 of the first round, which gives its logits.
    """
    state = dataclasses.replace(
        state, target_cache=_fill(target, state.target_cache, state.tokens, width)
    )
    if draft is not None:
        state = dataclasses.replace(
            state, draft_cache=_fill(draft, state.draft_cache, state.tokens, width)
        )
    return dataclasses.replace(state, started=jnp.ones((), bool))


def _fill(lm: BoundLM, cache, tokens: Int[Array, "B S"], width: int):
    """Fill cache slots 0 ... width - 1; slots past a row's prompt are scratch."""
    batch, chunk = tokens.shape[0], min(width, _CHUNK)

    def one_chunk(i, cache):
        # The last chunk of a width that is no multiple of it starts early: some tokens run twice.
        at = jnp.broadcast_to(jnp.minimum(i * chunk, width - chunk), (batch,)).astype(jnp.int32)
        positions = at[:, None] + jnp.arange(chunk)
        part = lax.dynamic_slice_in_dim(tokens, at[0], chunk, axis=1)
        return lm.model.apply(
            lm.params, part, positions=positions, write_at=at, prefix=at, window=None, cache=cache
        )[1]

    if width == chunk:
        return one_chunk(0, cache)
    return lax.fori_loop(0, -(-width // chunk), one_chunk, cache)


@functools.partial(jax.jit, static_argnames=("max_new_tokens",))
def result_of(
    strategy: Strategy,
    state: DecodeState,
    prompt_length: Int[Array, " B"],
    *,
    max_new_tokens: int,
) -> DecodeResult:
    """Cut the generated part out of a state; 0 past each row's length."""
    state = strategy.finish(state)
    length = state.length - prompt_length
    index = prompt_length[:, None] + jnp.arange(max_new_tokens)
    inside = jnp.arange(max_new_tokens) < length[:, None]

    def cut(buffer: Array) -> Array:
        return jnp.where(inside, jnp.take_along_axis(buffer, index, axis=1), 0)

    trace = jax.tree.map(cut, state.trace)
    return DecodeResult(
        cut(state.tokens), length, state.done, trace, strategy.bound, strategy.depth
    )
