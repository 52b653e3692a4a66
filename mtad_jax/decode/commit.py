"""Turn a verdict into text: the only place that moves cache slots and counts tokens."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from mtad_jax.decode import random
from mtad_jax.decode.draft import DraftTree, node_logp, path_sum, path_to, pick, pick_logp, take
from mtad_jax.decode.protocols import Verdict
from mtad_jax.decode.state import DEPTH, END, LENGTH, REJECTED, Controls, DecodeState, Trace
from mtad_jax.models.protocol import BoundLM
from mtad_jax.types import Array, Float, Int


def commit(
    state: DecodeState,
    draft: DraftTree,
    verdict: Verdict,
    *,
    target: BoundLM,
    draft_lm: BoundLM | None,
    target_cache: Any,
    draft_cache: Any,
    logits: Float[Array, "B N V"],
    logp: Float[Array, "B N V"],
    controls: Controls,
) -> DecodeState:
    """Commit the path to the leaf and the bonus: tokens, caches, lengths, ends, counters.

    Fillers are no text; no bonus follows an end token; nothing goes past the row's limit.
    """
    path = path_to(draft, verdict.leaf)  # --> [B, K]
    text = (path > 0) & ~take(draft.filler, path)
    count = jnp.sum(text, axis=1)
    drafted = take(draft.tokens, path)
    bonus = random.categorical(
        random.round_keys(state.key, state.length, random.BONUS), verdict.bonus
    )

    # The block: `count` drafted tokens, then the bonus. Token i follows node `after[i]`.
    place = jnp.arange(draft.max_depth + 1)
    is_bonus = place == count[:, None]
    block = jnp.where(is_bonus, bonus[:, None], jnp.pad(drafted, ((0, 0), (0, 1))))
    after = jnp.pad(path, ((0, 0), (1, 0)))
    ended = jnp.any(text & controls.is_end(drafted), axis=1)
    room = jnp.where(state.done, 0, state.limit - state.length)
    new = jnp.minimum(count + ~ended, room)
    committed = place < new[:, None]
    length = state.length + new
    at_end = jnp.any(committed & controls.is_end(block), axis=1)
    done = state.done | (length >= state.limit) | at_end

    first = place == 0
    joint = take(path_sum(draft, node_logp(draft, logp)), verdict.leaf)
    log_ratio = joint - take(draft.reference, verdict.leaf)
    ending = _ending(draft, verdict.leaf, at_end, length >= state.limit)
    trace = Trace(
        logp=pick(logp, after, block),
        logp_raw=pick_logp(logits, after, block),
        round=jnp.broadcast_to(state.rounds, block.shape),
        place=jnp.where(place < count[:, None], place + 1, 0),
        candidate=jnp.where(first, jnp.minimum(draft.length, room)[:, None], 0),
        log_ratio=jnp.where(first, log_ratio[:, None], 0.0),
        ending=jnp.where(first, ending[:, None], 0),
    )
    target_cache, draft_cache = _keep_path(
        state, draft, path, target, draft_lm, target_cache, draft_cache
    )
    return dataclasses.replace(
        state,
        tokens=write_block(state.tokens, block, state.length),
        length=length,
        done=done,
        rounds=state.rounds + 1,
        trace=jax.tree.map(lambda old, b: write_block(old, b, state.length), state.trace, trace),
        target_cache=target_cache,
        draft_cache=draft_cache,
    )


def _ending(draft: DraftTree, leaf, at_end: Array, at_limit: Array) -> Int[Array, " B"]:
    """Return why the round ended; see `state.REJECTED` and the others."""
    depth = jnp.asarray(draft.depth)
    deepest = jnp.max(jnp.where(draft.valid, depth, 0), axis=1)
    ending = jnp.where(depth[leaf] < deepest, REJECTED, DEPTH)
    return jnp.where(at_end, END, jnp.where(at_limit, LENGTH, ending))


def write_block(buffer: Array, block: Array, at: Int[Array, " B"]) -> Array:
    """Write each row's block from slot `at[b]` on; what is past the commit is scratch.

    A select over the whole row: a batched update slice becomes a scatter, a loop on CPU.
    """
    offset = jnp.arange(buffer.shape[1]) - at[:, None]
    inside = (offset >= 0) & (offset < block.shape[1])
    return jnp.where(inside, take(block, jnp.clip(offset, 0, block.shape[1] - 1)), buffer)


def _keep_path(state, draft: DraftTree, path, target, draft_lm, target_cache, draft_cache):
    """Move the accepted nodes' keys and values to the slots of committed text.

    Nodes of a chain lie where they belong. Slots past the accepted depth get copies of node 0,
    which nobody sees: they are scratch.
    """
    first = state.length[:, None] - 1
    if not draft.is_chain:
        span = draft.tokens.shape[1]
        target_cache = target.model.keep(target_cache, first + path, state.length, span=span)
    if draft_lm is not None and (draft.slot is not None or not draft.is_chain):
        slot = path if draft.slot is None else take(draft.slot, path)
        span = draft.scratch
        draft_cache = draft_lm.model.keep(draft_cache, first + slot, state.length, span=span)
    return target_cache, draft_cache
