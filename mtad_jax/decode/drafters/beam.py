"""Beams over the draft model: MTAD's draft."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import struct

from mtad_jax.decode.beams import Beams, Lattice, grow_beams
from mtad_jax.decode.draft import DraftTree, take
from mtad_jax.decode.drafters.base import chain_draft, last_logits
from mtad_jax.decode.request import (
    Request,
    check_depth,
    check_draw,
    check_trees,
    check_width,
)
from mtad_jax.decode.state import Controls, DecodeState
from mtad_jax.models.protocol import BoundLM
from mtad_jax.types import Array, Int


@struct.dataclass
class Beam:
    """Beams over the draft model for K steps, from the empty path (algorithms: MTAD, step 1).

    At each depth every pair of a valid beam and a token with q > 0 has the log-weight
    log q(path) + log q(token | path); W pairs stay. An ended path offers itself, unchanged. The
    candidate x* is the valid beam with the largest log q at depth K.

    Source: MTAD, arXiv 2407.09722. Its public single-sequence code weighs beams by a softmax of
    probabilities instead, so that its candidate is not the likeliest beam.

    Attributes:
      depth: K, at least 1; static.
      width: W, at least 1 and at most the tokens that the warp keeps; static.
      draw: "search": the W largest pairs; "sample": W draws without replacement in proportion to
        the joint weights (Gumbel top-W). Static.
      keep: "best": only x* is verified, a chain (MTAD); "tree": the whole lattice, beams that were
        pruned later included (MMTAD). Static.
    """

    depth: int = struct.field(pytree_node=False)
    width: int = struct.field(pytree_node=False)
    draw: str = struct.field(pytree_node=False)
    keep: str = struct.field(pytree_node=False)

    needs_draft = True
    candidate = True
    drawn = False  # the beams choose

    @property
    def deterministic(self) -> bool:
        """A search draws nothing."""
        return self.draw == "search"

    @property
    def nodes(self) -> int:
        """Node 0 and W nodes a depth: the draft's own beam steps need them even for a chain."""
        return 1 + self.depth * self.width

    @property
    def chain(self) -> bool:
        """x* alone is one."""
        return self.keep == "best"

    def check(self, request: Request) -> None:
        """Raise ValueError on a depth, width, draw or keep out of range."""
        check_depth(self.depth)
        check_width(self.width, request.vocab, request.draft_top_k)
        check_trees(request)
        check_draw(self.draw)
        if self.keep not in ("best", "tree"):
            raise ValueError(f"keep={self.keep!r} must be best or tree")

    def propose(
        self, lm: BoundLM | None, state: DecodeState, controls: Controls
    ) -> tuple[DraftTree, Any]:
        """Return x* as a chain, or the whole lattice."""
        assert lm is not None
        logits, cache = last_logits(lm, state)
        lattice, cache = grow_beams(
            lm, logits[:, None], cache, state, controls, warp=controls.draft_warp,
            widths=(self.width,) * self.depth, draw=self.draw,
        )  # fmt: skip
        make = _best_path if self.keep == "best" else lattice_draft
        return make(state, lattice), cache


def lattice_draft(state: DecodeState, lattice: Lattice) -> DraftTree:
    """Return every place of every depth as a node; x*'s ancestors are the reference."""
    levels, best = lattice.levels, lattice.best
    width = levels[0].token.shape[1]
    root = take(state.tokens, state.length - 1)[:, None]
    no = jnp.zeros(root.shape, bool)
    reference = [jnp.zeros(root.shape, jnp.float32)]
    parent = [jnp.zeros_like(root)]
    for step, (level, place) in enumerate(zip(levels, best, strict=True)):
        at_depth = take(level.logq, place)[:, None]
        reference.append(jnp.repeat(at_depth, width, axis=1))
        parent.append(level.parent + max(1 + (step - 1) * width, 0))
    return DraftTree(
        tokens=jnp.concatenate([root] + [level.token for level in levels], axis=1),
        parent=jnp.concatenate(parent, axis=1),
        valid=jnp.concatenate([no] + [level.valid for level in levels], axis=1),
        filler=jnp.concatenate([no] + [level.filler for level in levels], axis=1),
        reference=jnp.concatenate(reference, axis=1),
        length=_text_length(levels, best),
        logq=None,
        window=jnp.concatenate(lattice.windows, axis=1),
        slot=None,
        depth=(0, *(1 + step for step in range(len(levels)) for _ in range(width))),
        scratch=1 + len(levels) * width,
    )


def _best_path(state: DecodeState, lattice: Lattice) -> DraftTree:
    """Return x* as a chain; its slots in the draft's cache are still those of the lattice."""
    levels, best = lattice.levels, lattice.best

    def along(field: str) -> Array:
        picked = [take(getattr(b, field), i) for b, i in zip(levels, best, strict=True)]
        return jnp.stack(picked, axis=1)

    root = jnp.zeros((state.length.shape[0], 1))
    reference = jnp.concatenate([root, along("logq")], axis=1)
    slot = jnp.pad(lattice.nodes_of(best), ((0, 0), (1, 0)))
    draft = chain_draft(state, along("token"), ~along("filler"), reference)
    scratch = 1 + sum(level.token.shape[1] for level in levels)
    return dataclasses.replace(draft, slot=slot, scratch=scratch)


def _text_length(levels: list[Beams], places: list[Int[Array, " B"]]) -> Int[Array, " B"]:
    """Return how many tokens of a path are text."""
    return sum(~take(b.filler, i) for b, i in zip(levels, places, strict=True))  # type: ignore
