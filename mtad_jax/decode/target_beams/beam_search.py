"""Beam search and beam sampling on the target: a strategy of its own, W target rows a round."""

import dataclasses

import jax.numpy as jnp
from flax import struct

from mtad_jax.decode import random
from mtad_jax.decode.draft import take
from mtad_jax.decode.request import Request, check_draw, check_draws, check_trees, check_width
from mtad_jax.decode.state import END, LENGTH, Controls, DecodeState, Trace
from mtad_jax.decode.target_beams.base import TargetBeams
from mtad_jax.decode.target_beams.live import (
    LiveBeams,
    advance,
    along,
    best_place,
    empty_beams,
    path_back,
    where_rows,
)
from mtad_jax.models.protocol import BoundLM
from mtad_jax.types import Array, Int


@struct.dataclass
class BeamSearch(TargetBeams):
    """W beams of the target until all have ended or the row is full. Lossy.

    The step is that of MTAD's draft, run on the target: p is warped per beam, and the joint of
    beams and tokens is not warped again. Emits the valid beam with the largest
    log p(path) / (its tokens, end included).

    Attributes:
      width: W, at least 1; static.
      draw: "search" or "sample" (beam sampling); static.
    """

    width: int = struct.field(pytree_node=False)
    draw: str = struct.field(pytree_node=False)

    def scratch(self, max_new_tokens: int) -> int:
        """W slots a round: beams are never copied."""
        return self.width * max_new_tokens

    def check(self, request: Request) -> None:
        """Raise ValueError on settings out of range."""
        check_width(self.width, request.vocab, request.top_k)
        check_trees(request)
        check_draw(self.draw)
        if self.draw == "search":
            check_draws(request, 'use draw="sample"')

    def start(self, state: DecodeState, controls: Controls, vocab: int) -> DecodeState:
        """Add the empty path in place 0; the other places are invalid."""
        slots = state.tokens.shape[1]
        live = empty_beams(state, controls, vocab, width=self.width, steps=slots, slots=slots)
        return dataclasses.replace(state, extra=Search(live, jnp.zeros_like(state.length)))

    def step(
        self, target: BoundLM, draft: BoundLM | None, state: DecodeState, controls: Controls
    ) -> DecodeState:
        """Extend every beam by one token; rows that are done stay as they are."""
        live: LiveBeams = state.extra.live
        first = state.length - 1
        logits, cache = target.model.apply(
            target.params,
            live.beams.token,
            positions=jnp.repeat((first + live.steps)[:, None], self.width, axis=1),
            write_at=first + live.steps * self.width,
            prefix=first,
            window=live.window,
            cache=state.target_cache,
        )
        logits, noise = logits[:, :, : target.vocab_size], None
        if self.draw == "sample":
            keys = random.round_keys(state.key, state.length + live.steps, random.DRAFT)
            noise = random.gumbel(keys, logits.shape[1:])
        new = advance(live, logits, noise, controls)
        new = where_rows(~state.done, new, live)
        return close_round(dataclasses.replace(state, target_cache=cache), new)

    def finish(self, state: DecodeState) -> DecodeState:
        """Write the best beam as the text of each row that is done; others have none yet."""
        live: LiveBeams = state.extra.live
        slots = state.tokens.shape[1]
        place = best_place(live.beams.logq / jnp.maximum(live.count, 1), live)
        path = path_back(live, place)
        count = jnp.where(state.done, take(live.count, place), 0)

        # Step r's token goes to slot length + r.
        index = jnp.arange(slots) - state.length[:, None]
        fresh = (index >= 0) & (index < count[:, None])

        def put(buffer: Array, history: Array) -> Array:
            values = take(along(history, path), jnp.clip(index, 0, slots - 1))
            return jnp.where(fresh, values, buffer)

        last = jnp.broadcast_to(state.extra.calls[:, None] - 1, index.shape)
        ending = jnp.where(take(live.beams.ended, place), END, LENGTH)
        trace = Trace(
            logp=put(state.trace.logp, live.logp),
            logp_raw=put(state.trace.logp_raw, live.logp_raw),
            round=jnp.where(fresh, last, state.trace.round),  # all is committed by the last round
            place=state.trace.place,
            candidate=state.trace.candidate,
            log_ratio=state.trace.log_ratio,
            ending=jnp.where(fresh & (index == 0), ending[:, None], 0),
        )
        tokens = put(state.tokens, live.token)
        return dataclasses.replace(state, tokens=tokens, length=state.length + count, trace=trace)


@struct.dataclass
class Search:
    """What beam search carries from round to round.

    Attributes:
      live: the beams; no step is committed before the last.
      calls: [B] target calls that the row took.
    """

    live: LiveBeams
    calls: Int[Array, " B"]


def close_round(state: DecodeState, live: LiveBeams) -> DecodeState:
    """Return the state after a round of beam search that led to `live`."""
    full = state.length + live.steps >= state.limit
    return dataclasses.replace(
        state,
        extra=Search(live, state.extra.calls + ~state.done),
        rounds=state.rounds + 1,
        done=state.done | full | live.over,
    )
