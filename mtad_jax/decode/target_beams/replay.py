"""Several steps of the target's own beam search in one target call.

A draft model proposes a lattice below every live beam; one target call gives the logits at all its
nodes; then the steps of the beam search are replayed in it, for as long as their beams are nodes
whose logits are known. The draft decides how many steps a call is worth, never which beams they
keep.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import struct

from mtad_jax.decode.beams import beam_step, lattice_window
from mtad_jax.decode.draft import take
from mtad_jax.decode.logits import extend, law
from mtad_jax.decode.request import Request, check_depth, check_draws, check_trees, check_whole
from mtad_jax.decode.state import Controls, DecodeState
from mtad_jax.decode.target_beams.live import LiveBeams, advance
from mtad_jax.decode.warp import Warp
from mtad_jax.models.protocol import BoundLM
from mtad_jax.types import Array, Bool, Float, Int

# The draft only guides: what it proposes is not cut, since a beam that is missing ends the round.
_UNCUT = Warp()


@struct.dataclass
class NodeLattice:
    """The nodes of a round: the W live places, then L places a level, A levels.

    Node n has scratch slot `base + n` in both caches, counted from the last committed token's.

    Attributes:
      token: [B, N] the last token of each node.
      parent: [B, N] its parent; of the live places 0, and never looked at.
      open: [B, N] whether the node is a drafted token, which a path may go through.
      window: [B, N, S] the slots that it sees.
      base: [B] slot of node 0.
      width, lattice, ahead: W, L and A; static.
    """

    token: Int[Array, "B N"]
    parent: Int[Array, "B N"]
    open: Bool[Array, "B N"]
    window: Bool[Array, "B N S"]
    base: Int[Array, " B"]
    width: int = struct.field(pytree_node=False)
    lattice: int = struct.field(pytree_node=False)
    ahead: int = struct.field(pytree_node=False)

    @property
    def level(self) -> list[int]:
        """The level of every node; that of the live places is 0."""
        return [0] * self.width + [1 + n // self.lattice for n in range(self.lattice * self.ahead)]

    def find(
        self, level: int, parent: Int[Array, "B W"], token: Int[Array, "B W"]
    ) -> tuple[Int[Array, "B W"], Bool[Array, "B W"]]:
        """Return the node of a level that is `token` after node `parent`, and whether there is one.

        At most one is: a lattice keeps no pair twice.
        """
        if level > self.ahead:
            return jnp.zeros_like(token), jnp.zeros(token.shape, bool)
        first = self.width + (level - 1) * self.lattice

        def of(values: Array) -> Array:
            return values[:, None, first : first + self.lattice]

        same = of(self.open) & (of(self.parent) == parent[:, :, None])
        same &= of(self.token) == token[:, :, None]
        return first + jnp.argmax(same, axis=2), jnp.any(same, axis=2)


def check_lattice(width: int, ahead: int, lattice: int, request: Request) -> None:
    """Raise ValueError on levels or a width of the lattice out of range, or on several samples."""
    check_trees(request)
    check_draws(request, 'use beam with draw="sample"')
    check_depth(ahead, "ahead")
    check_whole("lattice", lattice)
    if not width <= lattice <= width * request.vocab:
        raise ValueError(
            f"lattice={lattice} must be between width={width} and {width} times the vocabulary: "
            "each level has to hold all live beams"
        )


def run_lattice(
    target: BoundLM,
    draft: BoundLM,
    state: DecodeState,
    live: LiveBeams,
    controls: Controls,
    *,
    ahead: int,
    lattice: int,
) -> tuple[NodeLattice, Float[Array, "B N V"], DecodeState]:
    """Draft a lattice below the live beams, and run the target on it once.

    Returns:
      The nodes, the target's logits after each, and the state with all of them in both caches.
    """
    nodes, draft_cache = _draft_lattice(draft, state, live, controls, ahead, lattice)
    first = state.length - 1
    logits, target_cache = target.model.apply(
        target.params,
        nodes.token,
        positions=(first + live.steps)[:, None] + jnp.asarray(nodes.level),
        write_at=first + nodes.base,
        prefix=first,
        window=nodes.window,
        cache=state.target_cache,
    )
    state = dataclasses.replace(state, target_cache=target_cache, draft_cache=draft_cache)
    return nodes, logits[:, :, : target.vocab_size], state


def keep_nodes(
    target: BoundLM,
    draft: BoundLM,
    state: DecodeState,
    source: Int[Array, "B M"],
    dest: Int[Array, " B"],
    span: int,
) -> DecodeState:
    """Copy slots of both caches, alike; see `CausalLM.keep`."""
    return dataclasses.replace(
        state,
        target_cache=target.model.keep(state.target_cache, source, dest, span=span),
        draft_cache=draft.model.keep(state.draft_cache, source, dest, span=span),
    )


def _draft_lattice(
    draft: BoundLM,
    state: DecodeState,
    live: LiveBeams,
    controls: Controls,
    ahead: int,
    lattice: int,
) -> tuple[NodeLattice, Any]:
    """Run beam steps of the draft from the live beams, with the weights that the target gave them.

    All levels are run, the last one for the cache alone: each may become a live place.
    """
    first, width = state.length - 1, live.count.shape[1]
    base = live.steps * width
    levels, windows, cache = [live.beams], [live.window], state.draft_cache
    past, slot = live.past, base
    for level in range(ahead + 1):
        beams, window = levels[-1], windows[-1]
        logits, cache = draft.model.apply(
            draft.params,
            beams.token,
            positions=jnp.broadcast_to((first + live.steps + level)[:, None], beams.token.shape),
            write_at=first + slot,
            prefix=first,
            window=window,
            cache=cache,
        )
        if level == ahead:
            break
        slot = slot + beams.token.shape[1]
        logq = law(logits[:, :, : draft.vocab_size], past, controls, _UNCUT)
        levels.append(beam_step(beams, logq, lattice, None, controls))
        beams = levels[-1]
        windows.append(lattice_window(window, beams.parent, slot))
        past = extend(past, beams.parent, beams.token, ~beams.filler)
    starts = [0, *(width + i * lattice for i in range(ahead - 1))]
    parents = [level.parent + start for level, start in zip(levels[1:], starts, strict=True)]
    none = jnp.zeros_like(live.beams.parent)
    found = NodeLattice(
        token=jnp.concatenate([level.token for level in levels], axis=1),
        parent=jnp.concatenate([none, *parents], axis=1),
        open=jnp.concatenate([none > 0, *(b.valid & ~b.filler for b in levels[1:])], axis=1),
        window=jnp.concatenate(windows, axis=1),
        base=base,
        width=width,
        lattice=lattice,
        ahead=ahead,
    )
    return found, cache


@struct.dataclass
class Walk:
    """Where a replay stands.

    Attributes:
      live: the beams.
      node: [B, W] the node of each place; meaningless where it is not `known`.
      known: [B, W] whether the place is a node, so that the logits after it are there.
    """

    live: LiveBeams
    node: Int[Array, "B W"]
    known: Bool[Array, "B W"]

    @property
    def ready(self) -> Bool[Array, " B"]:
        """Whether the next step can be taken: no place that it extends is unknown."""
        beams = self.live.beams
        return jnp.all(self.known | beams.ended | ~beams.valid, axis=1)


def first_walk(live: LiveBeams) -> Walk:
    """Return the replay before its first step: each live place is a node."""
    node = jnp.broadcast_to(jnp.arange(live.count.shape[1]), live.count.shape)
    return Walk(live, node, jnp.ones(node.shape, bool))


def walk_on(
    walk: Walk, level: int, logits: Float[Array, "B N V"], nodes: NodeLattice, controls: Controls
) -> Walk:
    """Take one step of the beam search, to places that are nodes of `level` where they are any."""
    live = advance(walk.live, take(logits, walk.node), None, controls)
    beams = live.beams
    node, known = nodes.find(level, take(walk.node, beams.parent), beams.token)
    return Walk(live, node, known & ~beams.filler)
