"""Multi-token joint decoding: blocks chosen from the target's joint, which MTAD approximates."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import struct

from mtad_jax.decode.beams import Lattice, grow_beams
from mtad_jax.decode.commit import append, reach
from mtad_jax.decode.draft import pick, pick_logp, take
from mtad_jax.decode.request import (
    UNKNOWN,
    Request,
    check_depth,
    check_draw,
    check_draws,
    check_trees,
    check_whole,
)
from mtad_jax.decode.state import DEPTH, END, LENGTH, Controls, DecodeState, Trace
from mtad_jax.decode.target_beams.base import TargetBeams
from mtad_jax.models.protocol import BoundLM
from mtad_jax.types import Array, Float, Int

_MOST_BLOCKS = 4096  # that are enumerated, V^K


@struct.dataclass
class MTJD(TargetBeams):
    """Each step emits the block of K tokens that the target's joint prefers; no bonus. Lossy.

    The block is the likeliest beam after K steps of beam search, of beam sampling, or among all
    blocks there are. The law of a token is the warped p; the joint of beams and tokens is not
    warped again. A block that ends the text is shorter; such blocks compete by their joint, without
    a length term. `max_new_tokens` cuts a block that was chosen whole.

    A block takes K target calls: one for the last committed token, then K - 1 for the beams. So the
    counters hold one round a token: `Trace.round` rises by one with every token, nothing is drafted
    or accepted, and tokens per target call are 1. `Trace.ending` stands at the first token of each
    block.

    Draws: those of `grow_beams` on the target.

    Source: MTJD, arXiv 2407.09722, section 3. The paper leaves open how the joint is sharpened:
    here by the argmax of the block, exact or by beams.

    Attributes:
      block: K, tokens of a block, at least 1; static.
      width: W, beams, at least 1; with W >= V^(K-1) "search" is exact. 0 for "exact": all. Static.
      draw: "exact": all V^K blocks are weighed, at most 4096; "search": the W likeliest of each
        depth; "sample": W draws without replacement in proportion to the joint weights. Static.
    """

    block: int = struct.field(pytree_node=False)
    width: int = struct.field(pytree_node=False)
    draw: str = struct.field(pytree_node=False)

    @property
    def lookahead(self) -> int:
        """All levels of a block but the last are run."""
        return self.block - 1

    def scratch(self, max_new_tokens: int) -> int:
        """One slot for the last committed token and one for each place that is run."""
        if self.draw != "exact":
            return 1 + (self.block - 1) * self.width
        # The vocabulary is not known here, but it is at most the K-th root of the limit.
        vocab = max(v for v in range(1, _MOST_BLOCKS + 1) if v**self.block <= _MOST_BLOCKS)
        return sum(vocab**level for level in range(self.block))

    def check(self, request: Request) -> None:
        """Raise ValueError on settings out of range."""
        check_depth(self.block)
        check_whole("width", self.width)
        check_draw(self.draw, ("exact", "search", "sample"))
        if self.block > 1:
            check_trees(request)
        if self.draw != "sample":
            check_draws(request, 'use draw="sample"')
        if self.draw == "exact":
            self._check_exact(request)
            return
        check_block_width(self.block, self.width, request)

    def _check_exact(self, request: Request) -> None:
        """Raise ValueError on a width, or on more blocks than can be enumerated."""
        if self.width != 0:
            raise ValueError(
                f'width={self.width}: draw="exact" keeps all blocks: set width=0 or use '
                'draw="search"'
            )
        if request.vocab != UNKNOWN and request.vocab**self.block > _MOST_BLOCKS:
            raise ValueError(
                f"vocabulary={request.vocab} has {request.vocab}^{self.block} blocks of "
                f'depth={self.block} > {_MOST_BLOCKS}: lower depth or use draw="search"'
            )

    def step(
        self, target: BoundLM, draft: BoundLM | None, state: DecodeState, controls: Controls
    ) -> DecodeState:
        """Choose and commit one block."""
        first, vocab = state.length - 1, target.vocab_size
        logits, cache = target.model.apply(
            target.params,
            take(state.tokens, first[:, None]),
            positions=first[:, None],
            write_at=first,
            prefix=first,
            window=None,
            cache=state.target_cache,
        )
        most = vocab**self.block if self.draw == "exact" else self.width
        # No depth has more paths than its V^d.
        widths = tuple(min(most, vocab**level) for level in range(1, self.block + 1))
        lattice, cache = grow_beams(
            target, logits[:, :, :vocab], cache, state, controls, warp=controls.warp,
            widths=widths, draw="sample" if self.draw == "sample" else "search",
        )  # fmt: skip
        return _commit(target, state, lattice, cache, controls)


def _commit(
    target: BoundLM, state: DecodeState, lattice: Lattice, cache: Any, controls: Controls
) -> DecodeState:
    """Write the likeliest beam: tokens, trace and cache; nothing past the row's limit."""
    levels, best = lattice.levels, lattice.best
    depth = len(levels)
    parent = [jnp.zeros_like(best[0]), *best[:-1]]

    def along(of) -> Array:
        return jnp.stack([of(*item) for item in zip(range(depth), best, strict=True)], axis=1)

    tokens = along(lambda d, place: take(levels[d].token, place))
    text = along(lambda d, place: ~take(levels[d].filler, place))

    def chosen(values: list[Array], read=pick) -> Array:
        picked = [
            read(value, parent[d][:, None], tokens[:, d : d + 1])[:, 0]
            for d, value in enumerate(values)
        ]
        return jnp.stack(picked, axis=1)

    new, at_end, at_limit = reach(state, tokens, jnp.sum(text, axis=1), controls)
    logp, logp_raw = chosen(lattice.logp), chosen(lattice.logits, pick_logp)
    trace = block_trace(logp, logp_raw, state.rounds + jnp.arange(depth), at_end, at_limit)
    if depth > 1:
        # The last token is not in the cache: it is run as the next block's first place.
        run = lattice.nodes_of(best[:-1])
        span = 1 + sum(level.token.shape[1] for level in levels[:-1])
        cache = target.model.keep(cache, state.length[:, None] - 1 + run, state.length, span=span)
    state = dataclasses.replace(state, target_cache=cache)
    return append(state, tokens, trace, new=new, done=at_end | at_limit, rounds=depth)


def block_trace(
    logp: Float[Array, "B K"],
    logp_raw: Float[Array, "B K"],
    rounds: Int[Array, "..."],
    at_end: Array,
    at_limit: Array,
) -> Trace:
    """Return the trace of a block: nothing is drafted, and why it ended stands at its first token.

    `rounds` [] or [K] are those that the tokens are counted to.
    """
    ending = jnp.where(at_end, END, jnp.where(at_limit, LENGTH, DEPTH))
    zero = jnp.zeros(logp.shape, jnp.int32)
    return Trace(
        logp=logp,
        logp_raw=logp_raw,
        round=jnp.broadcast_to(rounds, logp.shape),
        place=zero,
        candidate=zero,
        log_ratio=jnp.zeros(logp.shape, jnp.float32),
        ending=jnp.where(jnp.arange(logp.shape[1]) == 0, ending[:, None], 0),
    )


def check_block_width(block: int, width: int, request: Request) -> None:
    """Raise ValueError on a width below 1 or above the number of blocks."""
    kept = min(request.top_k or request.vocab, request.vocab)
    if not 1 <= width <= kept**block:
        most = kept**block
        number = f"{most} = " if most < 10**20 else ""  # nobody reads hundreds of digits
        raise ValueError(
            f"width={width} must be between 1 and {number}the blocks of {block} out of {kept} "
            "tokens: keep at least one beam, and no more than that"
        )
