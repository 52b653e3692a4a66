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
from mtad_jax.types import Array, Bool, Float, Int


def commit(
    state: DecodeState,
    tree: DraftTree,
    verdict: Verdict,
    *,
    target: BoundLM,
    draft: BoundLM | None,
    target_cache: Any,
    draft_cache: Any,
    logits: Float[Array, "B N V"],
    logp: Float[Array, "B N V"],
    controls: Controls,
) -> DecodeState:
    """Commit the path to the leaf and the bonus: tokens, caches, lengths, ends, counters.

    Fillers are no text; no bonus follows an end token; nothing goes past the row's limit.
    """
    path = path_to(tree, verdict.leaf)  # --> [B, K]
    text = (path > 0) & ~take(tree.filler, path)
    count = jnp.sum(text, axis=1)
    drafted = take(tree.tokens, path)
    bonus = random.categorical(
        random.round_keys(state.key, state.length, random.BONUS), verdict.bonus
    )

    # The block: `count` drafted tokens, then the bonus. Token i follows node `after[i]`.
    place = jnp.arange(tree.max_depth + 1)
    is_bonus = place == count[:, None]
    block = jnp.where(is_bonus, bonus[:, None], jnp.pad(drafted, ((0, 0), (0, 1))))
    after = jnp.pad(path, ((0, 0), (1, 0)))
    ended = jnp.any(text & controls.is_end(drafted), axis=1)
    new, at_end, at_limit = reach(state, block, count + ~ended, controls)

    first = place == 0
    joint = take(path_sum(tree, node_logp(tree, logp)), verdict.leaf)
    log_ratio = joint - take(tree.reference, verdict.leaf)
    ending = _ending(tree, verdict.leaf, at_end, at_limit)
    trace = Trace(
        logp=pick(logp, after, block),
        logp_raw=pick_logp(logits, after, block),
        round=jnp.broadcast_to(state.rounds, block.shape),
        place=jnp.where(place < count[:, None], place + 1, 0),
        candidate=jnp.where(first, jnp.minimum(tree.length, room_of(state))[:, None], 0),
        log_ratio=jnp.where(first, log_ratio[:, None], 0.0),
        ending=jnp.where(first, ending[:, None], 0),
    )
    target_cache, draft_cache = _keep_path(
        state, tree, path, target, draft, target_cache, draft_cache
    )
    state = dataclasses.replace(state, target_cache=target_cache, draft_cache=draft_cache)
    return append(state, block, trace, new=new, done=at_end | at_limit, rounds=1)


def room_of(state: DecodeState) -> Int[Array, " B"]:
    """Return how many tokens each row may still get."""
    return jnp.where(state.done, 0, state.limit - state.length)


def reach(
    state: DecodeState, block: Int[Array, "B M"], wanted: Int[Array, " B"], controls: Controls
) -> tuple[Int[Array, " B"], Bool[Array, " B"], Bool[Array, " B"]]:
    """Return how many tokens of a block a row gets, and whether it ends or is full with them."""
    new = jnp.minimum(wanted, room_of(state))
    got = jnp.arange(block.shape[1]) < new[:, None]
    at_end = jnp.any(got & controls.is_end(block), axis=1)
    return new, at_end, state.length + new >= state.limit


def append(
    state: DecodeState,
    block: Int[Array, "B M"],
    trace: Trace,
    *,
    new: Int[Array, " B"],
    done: Bool[Array, " B"],
    rounds: int,
) -> DecodeState:
    """Write a block of which `new` tokens count, with its trace; the rest of it is scratch."""
    return dataclasses.replace(
        state,
        tokens=write_block(state.tokens, block, state.length),
        length=state.length + new,
        done=state.done | done,
        rounds=state.rounds + rounds,
        trace=jax.tree.map(lambda old, b: write_block(old, b, state.length), state.trace, trace),
    )


def _ending(tree: DraftTree, leaf, at_end: Array, at_limit: Array) -> Int[Array, " B"]:
    """Return why the round ended; see `state.REJECTED` and the others."""
    depth = jnp.asarray(tree.depth)
    deepest = jnp.max(jnp.where(tree.valid, depth, 0), axis=1)
    ending = jnp.where(depth[leaf] < deepest, REJECTED, DEPTH)
    return jnp.where(at_end, END, jnp.where(at_limit, LENGTH, ending))


def write_block(buffer: Array, block: Array, at: Int[Array, " B"]) -> Array:
    """Write each row's block from slot `at[b]` on; what is past the commit is scratch.

    A select over the whole row: a batched update slice becomes a scatter, a loop on CPU.
    """
    offset = jnp.arange(buffer.shape[1]) - at[:, None]
    inside = (offset >= 0) & (offset < block.shape[1])
    return jnp.where(inside, take(block, jnp.clip(offset, 0, block.shape[1] - 1)), buffer)


def _keep_path(state, tree: DraftTree, path, target, draft, target_cache, draft_cache):
    """Move the accepted nodes' keys and values to the slots of committed text.

    Nodes of a chain lie where they belong. Slots past the accepted depth get copies of node 0,
    which nobody sees: they are scratch.
    """
    first = state.length[:, None] - 1
    if not tree.is_chain:
        span = tree.tokens.shape[1]
        target_cache = target.model.keep(target_cache, first + path, state.length, span=span)
    if draft is not None and (tree.slot is not None or not tree.is_chain):
        slot = path if tree.slot is None else take(tree.slot, path)
        span = tree.scratch
        draft_cache = draft.model.keep(draft_cache, first + slot, state.length, span=span)
    return target_cache, draft_cache
