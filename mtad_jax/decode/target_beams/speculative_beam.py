"""Speculative beam search: beam search on the target, several steps a target call."""

import jax.numpy as jnp
from flax import struct

from mtad_jax.decode.request import Request
from mtad_jax.decode.state import Controls, DecodeState
from mtad_jax.decode.target_beams.beam_search import BeamSearch, close_round
from mtad_jax.decode.target_beams.live import LiveBeams, where_rows
from mtad_jax.decode.target_beams.replay import (
    check_lattice,
    first_walk,
    keep_nodes,
    run_lattice,
    walk_on,
)
from mtad_jax.models.protocol import BoundLM


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
        nodes, logits, state = run_lattice(target, draft, state, live, controls, **size)

        walk, source, going = first_walk(live), [], ~state.done
        for level in range(1, self.ahead + 2):
            new = walk_on(walk, level, logits, nodes, controls)
            walk = where_rows(going, new, walk)
            # Where the places of this step are in the caches now; a step later they are run there.
            own = level * self.width + jnp.arange(self.width)
            there = going[:, None] & walk.known
            source.append(jnp.where(there, walk.node, own))
            full = state.length + walk.live.steps >= state.limit
            going &= walk.ready & ~full & ~walk.live.over

        # The last level's places are none of the lattice.
        first = state.length - 1 + nodes.base
        moved = first[:, None] + jnp.concatenate(source[: self.ahead], axis=1)
        span = 1 + self.ahead * self.lattice
        state = keep_nodes(target, draft, state, moved, first + self.width, span)
        return close_round(state, walk.live)
