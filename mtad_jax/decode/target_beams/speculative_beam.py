"""Speculative beam search: beam search on the target, several steps a target call."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import struct

from mtad_jax.decode.request import Request
from mtad_jax.decode.state import Controls, DecodeState
from mtad_jax.decode.target_beams.beam_search import BeamSearch, close_round
from mtad_jax.decode.target_beams.live import LiveBeams, where_rows
from mtad_jax.decode.target_beams.replay import (
    check_lattice,
    draft_lattice,
    first_walk,
    run_lattice,
    walk_on,
)
from mtad_jax.models.protocol import BoundLM
from mtad_jax.types import Array


@struct.dataclass
class SpeculativeBeam(BeamSearch):
    """`BeamSearch` by search, token for token, with up to A + 1 steps a target call. Lossy.

    Lossless against beam search: a draft decides only how many steps a call is worth. All levels
    of its lattice and the live beams are W + A L nodes of one target call.

    Attributes:
      ahead: A, levels of the draft's lattice, at least 1; static.
      lattice: L, its places a level, at least W; static.
    """

    ahead: int = struct.field(pytree_node=False)
    lattice: int = struct.field(pytree_node=False)

    needs_draft = True

    @property
    def lookahead(self) -> int:
        """All levels are run below the live beams, which may be at the limit but for one."""
        return self.ahead

    def scratch(self, max_new_tokens: int) -> int:
        """W slots a step, the first and the last included, and the lattice."""
        return self.width * (max_new_tokens + 1) + self.ahead * self.lattice

    def check(self, request: Request) -> None:
        """Raise ValueError on settings out of range."""
        super().check(request)
        check_lattice(self.width, self.ahead, self.lattice, request)

    def step(
        self, target: BoundLM, draft: BoundLM | None, state: DecodeState, controls: Controls
    ) -> DecodeState:
        """Draft a lattice, run the target on it once, and replay the steps that it covers."""
        assert draft is not None
        live: LiveBeams = state.extra.live
        size = {"ahead": self.ahead, "lattice": self.lattice}
        nodes, draft_cache = draft_lattice(draft, state, live, controls, **size)
        logits, target_cache = run_lattice(target, state, live, nodes)

        walk, source = first_walk(live), []
        going, start = ~state.done, live.steps * self.width
        for level in range(1, self.ahead + 2):
            new = walk_on(walk, level, logits, nodes, controls)
            walk = jax.tree.map(functools.partial(where_rows, going), new, walk)
            # Where the places of this step are in the caches now; a step later they are run there.
            own = start[:, None] + level * self.width + jnp.arange(self.width)
            there = going[:, None] & walk.known
            source.append(jnp.where(there, nodes.base[:, None] + walk.node, own))
            full = state.length + walk.live.steps >= state.limit
            going &= walk.ready & ~full & ~walk.live.over

        # The last level's places are none of the lattice.
        moved = (state.length - 1)[:, None] + jnp.concatenate(source[: self.ahead], axis=1)
        dest = state.length - 1 + start + self.width
        span = 1 + self.ahead * self.lattice

        def keep(lm: BoundLM, cache: Array) -> Array:
            return lm.model.keep(cache, moved, dest, span=span)

        state = dataclasses.replace(
            state,
            target_cache=keep(target, target_cache),
            draft_cache=keep(draft, draft_cache),
        )
        return close_round(state, walk.live)
