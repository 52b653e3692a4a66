"""Speculative MTJD: the blocks that the target's joint prefers, several steps a target call."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from mtad_jax.decode.commit import append, reach, write_block
from mtad_jax.decode.draft import take
from mtad_jax.decode.request import Request, check_depth, check_whole
from mtad_jax.decode.state import Controls, DecodeState
from mtad_jax.decode.target_beams.base import TargetBeams
from mtad_jax.decode.target_beams.live import (
    LiveBeams,
    along,
    best_place,
    empty_beams,
    first_places,
    own_slots,
    path_back,
    where_rows,
)
from mtad_jax.decode.target_beams.mtjd import block_trace, check_block_width
from mtad_jax.decode.target_beams.replay import (
    Walk,
    check_lattice,
    first_walk,
    keep_nodes,
    run_lattice,
    walk_on,
)
from mtad_jax.models.protocol import BoundLM
from mtad_jax.types import Array, Bool, Int


@struct.dataclass
class SpeculativeMTJD(TargetBeams):
    """`MTJD` by search, token for token, with up to A + 1 steps a target call. Lossy.

    Lossless against MTJD: a draft decides only how many steps a call is worth. A call goes on from
    block to block, as long as the chosen block is a path of the draft's lattice.

    `Trace.round` is the target call that completed a token's block, so tokens a target call are
    those of the text over its rounds; `Trace.ending` stands at the first token of each block, as
    MTJD's. Nothing counts as drafted or accepted.

    Attributes:
      block: K, tokens of a block, at least 1; static.
      width: W, beams of the target, at least 1; static.
      ahead: A, levels of the draft's lattice, at least 1; static.
      lattice: L, its places a level, at least W; static.
    """

    block: int = struct.field(pytree_node=False)
    width: int = struct.field(pytree_node=False)
    ahead: int = struct.field(pytree_node=False)
    lattice: int = struct.field(pytree_node=False)

    needs_draft = True

    @property
    def lookahead(self) -> int:
        """The rest of a block, and all levels below it."""
        return self.block - 1 + self.ahead

    def scratch(self, max_new_tokens: int = 0) -> int:
        """W slots a step of a block, and below them the lattice, or the text of a round."""
        return self.block * self.width + max(self.ahead * self.lattice, self.block + self.ahead)

    def check(self, request: Request) -> None:
        """Raise ValueError on settings out of range."""
        check_depth(self.block)
        check_whole("width", self.width)
        check_block_width(self.block, self.width, request)
        check_lattice(self.width, self.ahead, self.lattice, request)

    def start(self, state: DecodeState, controls: Controls, vocab: int) -> DecodeState:
        """Add the empty path."""
        size = {"width": self.width, "steps": self.block, "slots": self.scratch()}
        return dataclasses.replace(state, extra=empty_beams(state, controls, vocab, **size))

    def step(
        self, target: BoundLM, draft: BoundLM | None, state: DecodeState, controls: Controls
    ) -> DecodeState:
        """Draft a lattice, run the target on it once, and replay the steps that it covers."""
        assert draft is not None
        live: LiveBeams = state.extra
        size = {"ahead": self.ahead, "lattice": self.lattice}
        nodes, logits, state = run_lattice(target, draft, state, live, controls, **size)

        first = state.length - 1
        walk, where = first_walk(live), self._nowhere(state)
        going = ~state.done
        for level in range(1, self.ahead + 2):
            new = walk_on(walk, level, logits, nodes, controls)
            seen = where.after(new, nodes.base)
            full = going & ((new.live.steps == self.block) | new.live.over)
            place = best_place(new.live.beams.logq, new.live)
            path = path_back(new.live, place)
            state = _commit(state, new.live, place, path, full, controls)
            new, seen = where_rows(full, _restart(new, seen, place, path), (new, seen))
            walk, where = where_rows(going, (new, seen), (walk, where))
            going &= walk.ready & ~state.done

        source = first[:, None] + where.sources()
        state = keep_nodes(target, draft, state, source, first + 1, self.scratch())
        return dataclasses.replace(state, extra=walk.live, rounds=state.rounds + 1)

    def _nowhere(self, state: DecodeState) -> "_Slots":
        """Return the slots of a round's start: nothing was committed, all places are in order."""
        batch = state.length.shape[0]
        order = jnp.arange((self.block + 1) * self.width).reshape(-1, self.width)
        # What one round can commit: the rest of a block, and a step for each level and the last.
        most = self.block + self.ahead
        text = jnp.broadcast_to(1 + jnp.arange(most), (batch, most))
        places = jnp.broadcast_to(order, (batch, *order.shape))
        return _Slots(text, jnp.zeros((batch,), jnp.int32), places)


@struct.dataclass
class _Slots:
    """Where keys and values lie now, counted from the slot of node 0's text at the round's start.

    Attributes:
      text: [B, C] slot of each token that this round committed.
      count: [B] how many it did.
      place: [B, K + 1, W] slot of each place of steps 0 ... K of the block that is open.
    """

    text: Int[Array, "B C"]
    count: Int[Array, " B"]
    place: Int[Array, "B K+1 W"]

    def after(self, walk: Walk, base: Int[Array, " B"]) -> "_Slots":
        """Return the slots after a step; those of places that are no nodes are never read."""
        now = jnp.arange(self.place.shape[1]) == walk.live.steps[:, None]
        slot = base[:, None] + walk.node
        place = jnp.where(now[:, :, None], slot[:, None], self.place)
        return dataclasses.replace(self, place=place)

    def sources(self) -> Int[Array, "B M"]:
        """Return what belongs into slots 1, 2, ...: the text, then the places of the block."""
        batch, text = self.text.shape
        flat = self.place[:, :-1].reshape(batch, -1)  # a whole block is not open
        index = jnp.arange(text + flat.shape[1] - 1)
        # The places' first slot is that of the last token committed.
        of_place = jnp.clip(index + 1 - self.count[:, None], 0, flat.shape[1] - 1)
        of_text = jnp.broadcast_to(jnp.minimum(index, text - 1), (batch, len(index)))
        return jnp.where(
            index < self.count[:, None], take(self.text, of_text), take(flat, of_place)
        )


def _commit(
    state: DecodeState,
    live: LiveBeams,
    place: Int[Array, " B"],
    path: Int[Array, "B K"],
    full: Bool[Array, " B"],
    controls: Controls,
) -> DecodeState:
    """Write the path to `place` as the text of the rows whose block is `full`."""
    tokens = along(live.token, path)
    new, at_end, at_limit = reach(state, tokens, take(live.count, place), controls)
    logp, logp_raw = along(live.logp, path), along(live.logp_raw, path)
    trace = block_trace(logp, logp_raw, state.rounds, at_end, at_limit)
    new = jnp.where(full, new, 0)
    return append(state, tokens, trace, new=new, done=full & (at_end | at_limit), rounds=0)


def _restart(
    walk: Walk, slots: _Slots, place: Int[Array, " B"], path: Int[Array, "B K"]
) -> tuple[Walk, _Slots]:
    """Return the beams and slots after the block along `path`, to `place`: the empty path."""
    live, (batch, width) = walk.live, walk.node.shape

    def every(values: Array) -> Array:
        return jnp.repeat(take(values, place)[:, None], width, axis=1)

    fresh = dataclasses.replace(
        live,
        beams=first_places(every(live.beams.token)),
        window=own_slots(batch, width, live.window.shape[2]),
        past=jax.tree.map(every, live.past),
        count=jnp.zeros_like(live.count),
        steps=jnp.zeros_like(live.steps),
    )
    block = along(slots.place[:, 1:], path)
    text = write_block(slots.text, block, slots.count)
    # The last token is in the caches only where it is a node; if not, nothing goes on from it.
    ends = every(take(slots.place, live.steps))  # of [B, W]: the slot of the block's last token
    last = jnp.concatenate([ends[:, None], slots.place[:, 1:]], axis=1)
    again = Walk(fresh, every(walk.node), every(walk.known))
    return again, _Slots(text, slots.count + live.steps, last)
