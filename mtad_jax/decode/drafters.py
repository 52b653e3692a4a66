"""Where candidates come from: nothing, a chain sampled from the draft, or its beams."""

import dataclasses
import numbers
from typing import Any

import jax.numpy as jnp
from flax import struct

from mtad_jax.decode import random
from mtad_jax.decode.beams import Beams, Lattice, grow_beams
from mtad_jax.decode.draft import Draft, take
from mtad_jax.decode.logits import extend, history, law
from mtad_jax.decode.protocols import Request
from mtad_jax.decode.state import Controls, DecodeState
from mtad_jax.models.base import BoundLM
from mtad_jax.types import Array, Bool, Float, Int

_DEEPEST = 512  # so that keys of a round's steps stay apart (`keys.round_keys`: below 1024)


@struct.dataclass
class NoDraft:
    """Proposes nothing: each round commits the one token that the verifier draws."""

    @property
    def depth(self) -> int:
        """K = 0."""
        return 0

    @property
    def nodes(self) -> int:
        """Only the last committed token."""
        return 1

    @property
    def needs_draft(self) -> bool:
        """No draft model."""
        return False

    @property
    def chain(self) -> bool:
        """Trivially."""
        return True

    @property
    def candidate(self) -> bool:
        """It is one, of no tokens."""
        return True

    @property
    def drawn(self) -> bool:
        """No: nothing is."""
        return False

    def check(self, request: Request) -> None:
        """Nothing can be out of range."""

    def propose(
        self, lm: BoundLM | None, state: DecodeState, controls: Controls
    ) -> tuple[Draft, Any]:
        """Return the tree that is node 0 alone."""
        token = take(state.tokens, state.length - 1)[:, None]
        no = jnp.zeros(token.shape, bool)
        zero = jnp.zeros(token.shape, jnp.float32)
        draft = Draft(
            token, jnp.zeros_like(token), no, no, zero, jnp.zeros_like(state.length),
            None, None, None, depth=(0,), scratch=1,
        )  # fmt: skip
        return draft, state.draft_cache


@struct.dataclass
class Chain:
    """K tokens drawn one after the other from the warped draft distribution q.

    Drawn, not chosen: the lossless rules may use it. A chain that ends a text after e tokens is a
    chain of length e; its later nodes are invalid.

    Attributes:
      depth: K, at least 1; static.
    """

    depth: int = struct.field(pytree_node=False)

    @property
    def nodes(self) -> int:
        """Node 0 and K candidates."""
        return 1 + self.depth

    @property
    def needs_draft(self) -> bool:
        """A draft model is needed."""
        return True

    @property
    def chain(self) -> bool:
        """Yes."""
        return True

    @property
    def candidate(self) -> bool:
        """It is one."""
        return True

    @property
    def drawn(self) -> bool:
        """Yes."""
        return True

    def check(self, request: Request) -> None:
        """Raise ValueError on a depth below 1."""
        check_depth(self.depth)

    def propose(
        self, lm: BoundLM | None, state: DecodeState, controls: Controls
    ) -> tuple[Draft, Any]:
        """Return a chain with the distribution that each token was drawn from."""
        assert lm is not None
        logits, cache = last_logits(lm, state)
        past = history(state, controls, lm.vocab_size)
        only = jnp.zeros((state.length.shape[0], 1), jnp.int32)
        tokens, dists, valid, reference = [], [], [], [jnp.zeros_like(logits[:, 0])]
        alive = jnp.ones(state.length.shape, bool)
        for step in range(self.depth):
            logq = law(logits[:, None], past, controls, controls.draft_warp)[:, 0]
            keys = random.round_keys(state.key, state.length, random.DRAFT, step)
            token = random.categorical(keys, logq)
            value = jnp.where(alive, take(logq, token), 0.0)
            tokens, dists, valid = tokens + [token], dists + [logq], valid + [alive]
            reference.append(reference[-1] + value)
            alive &= ~controls.is_end(token)
            if step + 1 < self.depth:
                at = state.length + step
                logits, cache = lm.model.apply(
                    lm.params, token[:, None], positions=at[:, None], write_at=at, prefix=at,
                    window=None, cache=cache,
                )  # fmt: skip
                logits = logits[:, 0, : lm.vocab_size]
                past = extend(past, only, token[:, None])
        chosen = jnp.stack(valid, axis=1)
        draft = chain_draft(state, jnp.stack(tokens, axis=1), chosen, jnp.stack(reference, axis=1))
        return dataclasses.replace(draft, logq=jnp.stack(dists, axis=1)), cache


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

    @property
    def nodes(self) -> int:
        """Node 0 and W nodes a depth: the draft's own beam steps need them even for a chain."""
        return 1 + self.depth * self.width

    @property
    def needs_draft(self) -> bool:
        """A draft model is needed."""
        return True

    @property
    def chain(self) -> bool:
        """x* alone is one."""
        return self.keep == "best"

    @property
    def candidate(self) -> bool:
        """X*, of the whole lattice too."""
        return True

    @property
    def drawn(self) -> bool:
        """No: the beams choose."""
        return False

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
    ) -> tuple[Draft, Any]:
        """Return x* as a chain, or the whole lattice."""
        assert lm is not None
        logits, cache = last_logits(lm, state)
        lattice, cache = grow_beams(
            lm, logits[:, None], cache, state, controls, warp=controls.draft_warp,
            widths=(self.width,) * self.depth, draw=self.draw,
        )  # fmt: skip
        make = _best_path if self.keep == "best" else lattice_draft
        return make(state, lattice), cache


def last_logits(lm: BoundLM, state: DecodeState) -> tuple[Float[Array, "B V"], Any]:
    """Return the draft's logits after the committed text, and its cache.

    Runs the last *two* committed tokens: where a whole draft was accepted, its last token never
    went through the draft model, and this fills its slot. (A text of one token is followed by one
    token of scratch, which nobody sees.)
    """
    start = jnp.maximum(state.length - 2, 0)
    index = start[:, None] + jnp.arange(2)
    logits, cache = lm.model.apply(
        lm.params,
        take(state.tokens, index),
        positions=index,
        write_at=start,
        prefix=start,
        window=None,
        cache=state.draft_cache,
    )
    logits = take(logits, state.length - 1 - start)
    return logits[:, : lm.vocab_size], cache


def chain_draft(
    state: DecodeState,
    tokens: Int[Array, "B K"],
    valid: Bool[Array, "B K"],
    reference: Float[Array, "B K+1"],
) -> Draft:
    """Return node 0 and K nodes in a row; nodes past the chain's end are invalid fillers."""
    depth = tokens.shape[1]
    root = take(state.tokens, state.length - 1)[:, None]
    yes = jnp.ones(root.shape, bool)
    parent = jnp.maximum(jnp.arange(depth + 1) - 1, 0)
    return Draft(
        tokens=jnp.concatenate([root, tokens], axis=1),
        parent=jnp.broadcast_to(parent, (root.shape[0], depth + 1)),
        valid=jnp.concatenate([~yes, valid], axis=1),
        filler=jnp.concatenate([~yes, ~valid], axis=1),
        reference=reference,
        length=jnp.sum(valid, axis=1),
        logq=None,
        window=None,
        slot=None,
        depth=tuple(range(depth + 1)),
        scratch=depth + 1,
    )


def lattice_draft(state: DecodeState, lattice: Lattice) -> Draft:
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
    return Draft(
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


def _best_path(state: DecodeState, lattice: Lattice) -> Draft:
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


def check_whole(name: str, value: int) -> None:
    """Raise ValueError on a setting that is no integer: it is a size of arrays."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise ValueError(f"{name}={value!r} must be a whole number: write it as an integer")


def check_depth(depth: int) -> None:
    """Raise ValueError on a depth out of range."""
    check_whole("depth", depth)
    if depth < 1:
        raise ValueError(f"depth={depth} must be >= 1: draft at least one token a round")
    if depth > _DEEPEST:
        raise ValueError(f"depth={depth} must be <= {_DEEPEST}: lower depth")


def check_width(width: int, vocab: int, top_k: int) -> None:
    """Raise ValueError on a width below 1 or above the tokens that the warp keeps."""
    check_whole("width", width)
    most = min(vocab, top_k) if top_k else vocab
    if not 1 <= width <= most:
        name = f"top_k={top_k}" if top_k and top_k < vocab else f"vocabulary={vocab}"
        raise ValueError(f"width={width} must be between 1 and {name}: lower width")


def check_trees(request: Request) -> None:
    """Raise ValueError where a model runs chains only."""
    if not request.trees:
        raise ValueError(
            "this strategy drafts a tree of tokens, and a model runs chains only (its `trees` is "
            "False): use a strategy that drafts a chain, such as speculative"
        )


def check_draw(draw: str, known: tuple[str, ...] = ("search", "sample")) -> None:
    """Raise ValueError on an unknown way to choose beams."""
    if draw not in known:
        raise ValueError(f"draw={draw!r} must be {' or '.join(known)}")
