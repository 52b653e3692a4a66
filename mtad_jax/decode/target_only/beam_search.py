"""Beam search and beam sampling on the target: a strategy of its own, W target rows a round."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from mtad_jax.decode import random
from mtad_jax.decode.beams import Beams, beam_step, lattice_window
from mtad_jax.decode.draft import pick, pick_logp, take
from mtad_jax.decode.logits import History, extend, history, law
from mtad_jax.decode.request import Request, check_draw, check_draws, check_trees, check_width
from mtad_jax.decode.state import END, LENGTH, Controls, DecodeState, Trace
from mtad_jax.decode.target_only.base import TargetOnly
from mtad_jax.models.protocol import BoundLM
from mtad_jax.types import Array, Bool, Float, Int


@struct.dataclass
class BeamState:
    """What the beams carry from round to round; R = S rounds at most.

    Attributes:
      beams: the W places; before the first round place 0 is the empty path.
      window: [B, W, S] the scratch slots that each place's path went through.
      token, parent: [B, R, W] last token and parent place of every place of every round.
      logp, logp_raw: [B, R, W] log-probability of that token, warped and un-warped.
      past: what the controls know of each place's path.
      count: [B, W] tokens of each place's path, fillers not counted.
      rounds: [B] rounds that the row took.
    """

    beams: Beams
    window: Bool[Array, "B W S"]
    token: Int[Array, "B R W"]
    parent: Int[Array, "B R W"]
    logp: Float[Array, "B R W"]
    logp_raw: Float[Array, "B R W"]
    past: History
    count: Int[Array, "B W"]
    rounds: Int[Array, " B"]


@struct.dataclass
class BeamSearch(TargetOnly):
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
        batch, slots = state.tokens.shape
        shape = (batch, self.width)
        first = jnp.broadcast_to(jnp.arange(self.width) == 0, shape)
        root = take(state.tokens, jnp.repeat(state.length[:, None] - 1, self.width, axis=1))
        no = jnp.zeros(shape, bool)
        # Weakly typed, it would make the second call of the loop another program.
        logq = jnp.where(first, 0.0, -jnp.inf).astype(jnp.float32)
        beams = Beams(root, jnp.zeros(shape, jnp.int32), logq, first, no, no)
        own = jnp.arange(self.width)[:, None] == jnp.arange(slots)
        whole = jnp.zeros((batch, slots, self.width), jnp.int32)
        real = whole.astype(jnp.float32)
        extra = BeamState(
            beams=beams,
            window=jnp.broadcast_to(own, (*shape, slots)),
            token=whole,
            parent=whole,
            logp=real,
            logp_raw=real,
            past=jax.tree.map(
                lambda x: jnp.repeat(x, self.width, axis=1), history(state, controls, vocab)
            ),
            count=jnp.zeros(shape, jnp.int32),
            rounds=jnp.zeros((batch,), jnp.int32),
        )
        return dataclasses.replace(state, extra=extra)

    def step(
        self, target: BoundLM, draft: BoundLM | None, state: DecodeState, controls: Controls
    ) -> DecodeState:
        """Extend every beam by one token; rows that are done stay as they are."""
        old: BeamState = state.extra
        first, at = state.length - 1, state.rounds
        logits, cache = target.model.apply(
            target.params,
            old.beams.token,
            positions=jnp.repeat((first + at)[:, None], self.width, axis=1),
            write_at=first + at * self.width,
            prefix=first,
            window=old.window,
            cache=state.target_cache,
        )
        logits = logits[:, :, : target.vocab_size]
        logp = law(logits, old.past, controls, controls.warp)
        noise = None
        if self.draw == "sample":
            keys = random.round_keys(state.key, state.length + at, random.DRAFT)
            noise = random.gumbel(keys, logp.shape[1:])
        beams = beam_step(old.beams, logp, self.width, noise, controls)
        new = BeamState(
            beams=beams,
            window=lattice_window(old.window, beams.parent, (at + 1) * self.width),
            token=old.token.at[:, at].set(beams.token),
            parent=old.parent.at[:, at].set(beams.parent),
            logp=old.logp.at[:, at].set(_of_token(logp, beams)),
            logp_raw=old.logp_raw.at[:, at].set(_of_token(logits, beams, pick_logp)),
            past=extend(old.past, beams.parent, beams.token, ~beams.filler),
            count=take(old.count, beams.parent) + ~beams.filler,
            rounds=old.rounds + 1,
        )
        new = jax.tree.map(lambda a, b: _where_rows(state.done, a, b), old, new)
        full = state.length + new.rounds >= state.limit
        ended = jnp.all(new.beams.ended | ~new.beams.valid, axis=1)
        return dataclasses.replace(
            state, extra=new, target_cache=cache, rounds=at + 1, done=state.done | full | ended
        )

    def finish(self, state: DecodeState) -> DecodeState:
        """Write the best beam as the text of each row that is done; others have none yet."""
        extra: BeamState = state.extra
        slots = state.tokens.shape[1]
        place, path = _best_path(extra)
        count = jnp.where(state.done, take(extra.count, place), 0)

        def along(history: Array) -> Array:
            return jnp.take_along_axis(history, path[:, :, None], axis=2)[:, :, 0]

        # Round r's token goes to slot length + r.
        index = jnp.arange(slots) - state.length[:, None]
        fresh = (index >= 0) & (index < count[:, None])

        def put(buffer: Array, values: Array) -> Array:
            return jnp.where(fresh, take(values, jnp.clip(index, 0, slots - 1)), buffer)

        last = jnp.broadcast_to(extra.rounds[:, None] - 1, index.shape)
        trace = Trace(
            logp=put(state.trace.logp, along(extra.logp)),
            logp_raw=put(state.trace.logp_raw, along(extra.logp_raw)),
            round=jnp.where(fresh, last, state.trace.round),  # all is committed by the last round
            place=state.trace.place,
            candidate=state.trace.candidate,
            log_ratio=state.trace.log_ratio,
            ending=jnp.where(fresh & (index == 0), _ending(extra, place)[:, None], 0),
        )
        tokens = put(state.tokens, along(extra.token))
        return dataclasses.replace(state, tokens=tokens, length=state.length + count, trace=trace)


def _ending(extra: BeamState, place: Int[Array, " B"]) -> Int[Array, " B"]:
    """Return why the text ended."""
    ended = take(extra.beams.ended, place)
    return jnp.where(ended, END, LENGTH)


def _best_path(extra: BeamState) -> tuple[Int[Array, " B"], Int[Array, "B R"]]:
    """Return the best place of the last round and its ancestors' places in every round."""
    score = extra.beams.logq / jnp.maximum(extra.count, 1)
    best = jnp.argmax(jnp.where(extra.beams.valid, score, -jnp.inf), axis=1)

    def back(place, r):
        here = r < extra.rounds  # later rounds do not exist: 0, and never read
        parent = take(extra.parent[:, r], place)
        return jnp.where(here, parent, place), jnp.where(here, place, 0)

    rounds = jnp.arange(extra.parent.shape[1])
    _, path = jax.lax.scan(back, best, rounds, reverse=True)
    return best, path.T


def _of_token(values: Float[Array, "B U V"], beams: Beams, read=pick) -> Float[Array, "B W"]:
    """Return the log-probability of each place's token after its parent; 0 for fillers."""
    return jnp.where(beams.filler, 0.0, read(values, beams.parent, beams.token))


def _where_rows(rows: Bool[Array, " B"], a: Array, b: Array) -> Array:
    """Return a's rows where `rows`, else b's."""
    return jnp.where(rows.reshape(-1, *(1,) * (a.ndim - 1)), a, b)
