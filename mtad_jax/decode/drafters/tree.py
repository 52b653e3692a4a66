"""A k-ary tree of candidates drawn from the draft model, the draft of the lossless tree rules."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from mtad_jax.decode import random
from mtad_jax.decode.draft import DraftTree, pick, take
from mtad_jax.decode.drafters.base import ancestors, last_logits
from mtad_jax.decode.logits import extend, history, law
from mtad_jax.decode.request import Request, check_nodes, check_trees, check_whole
from mtad_jax.decode.state import Controls, DecodeState
from mtad_jax.models.protocol import BoundLM
from mtad_jax.types import Array, Bool, Float, Int


@struct.dataclass
class Tree:
    """A tree whose children are drawn from the warped draft distribution q at their parent.

    Drawn, not chosen, and kept in draw order: the lossless rules may use it. Level d holds
    `branching[0] * ... * branching[d-1]` nodes, levels contiguous after node 0; node j of a level
    is a child of node j // branching[d-1] of the level above. Children of a node that ended the
    text, or that is invalid, are invalid. n chains drawn independently are `(n, 1, ..., 1)`.

    Draws: noise for the children of level d - 1's U nodes comes from
    `round_keys(key, length, DRAFT, d - 1)`, Gumbel of shape (U, branching[d-1], V) with
    replacement (each child the largest log q + noise of its own row), (U, V) without (the
    children are the largest, in falling order).

    Source: SpecInfer, arXiv 2305.09781 (with replacement); multi-candidate speculative decoding,
    arXiv 2401.06706 (without).

    Attributes:
      branching: children of each node of level 0, 1, ..., K - 1; static.
      replace: whether siblings are drawn with replacement; equal ones then stay separate. Without,
        a child that q's support cannot give is invalid. Static.
    """

    branching: tuple[int, ...] = struct.field(pytree_node=False)
    replace: bool = struct.field(pytree_node=False)

    needs_draft = True
    chain = False  # it is run with a window, even with one child a node
    candidate = False  # each node has its own log q(path)
    drawn = True
    deterministic = False

    @property
    def depth(self) -> int:
        """K, levels below node 0."""
        return len(self.branching)

    @property
    def nodes(self) -> int:
        """Node 0 and all levels."""
        return sum(self.sizes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Nodes of level 0 (one), 1, ..., K."""
        return tuple(math.prod(self.branching[:d]) for d in range(self.depth + 1))

    def check(self, request: Request) -> None:
        """Raise ValueError on a branching out of range, or a model that runs chains only."""
        name = f"branching={self.branching}"
        if not self.branching:
            raise ValueError(f"{name} must have at least one level, such as (4, 2, 2)")
        for count in self.branching:
            check_whole("branching", count)
        if set(self.branching[1:]) <= {1}:
            name += " (chains or width of its recipe)"
        if min(self.branching) < 1:
            raise ValueError(f"{name} must be >= 1 at every level: raise its smallest factor")
        most, bound = request.vocab, f"vocabulary={request.vocab}"
        if not self.replace and 0 < request.draft_top_k < most:
            most, bound = request.draft_top_k, f"top_k={request.draft_top_k}"
        if max(self.branching) > most:
            raise ValueError(f"{name} must be at most {bound} at every level: lower branching")
        check_nodes(name, self.nodes, "branching")
        check_trees(request)

    def propose(
        self, lm: BoundLM | None, state: DecodeState, controls: Controls
    ) -> tuple[DraftTree, Any]:
        """Return the tree with the distribution that each node's children were drawn from."""
        assert lm is not None
        logits, cache = last_logits(lm, state)
        logits, past = logits[:, None], history(state, controls, lm.vocab_size)
        batch, levels, dists = state.length.shape[0], [_root(state)], []
        window = jnp.broadcast_to(ancestors(self._parents()), (batch, self.nodes, self.nodes))
        first = 1
        for step, count in enumerate(self.branching):
            logq = law(logits, past, controls, controls.draft_warp)  # --> [B, U, V]
            keys = random.round_keys(state.key, state.length, random.DRAFT, step)
            token, given = _children(logq, keys, count, self.replace)
            parent = jnp.repeat(jnp.arange(logq.shape[1]), count)
            parent = jnp.broadcast_to(parent, token.shape)
            valid = given & take(levels[-1].alive, parent)
            value = jnp.where(valid, pick(logq, parent, token), 0.0)
            reference = take(levels[-1].reference, parent) + value
            levels.append(_Level(token, valid, valid & ~controls.is_end(token), reference))
            dists.append(logq)
            last = first + token.shape[1]
            if step + 1 < self.depth:
                at = state.length + step
                logits, cache = lm.model.apply(
                    lm.params,
                    token,
                    positions=jnp.broadcast_to(at[:, None], token.shape),
                    write_at=state.length - 1 + first,
                    prefix=state.length - 1,
                    window=window[:, first:last],
                    cache=cache,
                )
                logits = logits[:, :, : lm.vocab_size]
                past = extend(past, parent, token)
            first = last
        return self._draft(levels, dists, window), cache

    def _parents(self) -> Int[np.ndarray, " N"]:
        """Return the parent of every node; the same in every row."""
        parents, first = [np.zeros(1, int)], 0
        for size, count in zip(self.sizes, self.branching, strict=False):
            parents.append(first + np.repeat(np.arange(size), count))
            first += size
        return np.concatenate(parents)

    def _draft(
        self, levels: list["_Level"], dists: list[Array], window: Bool[Array, "B N N"]
    ) -> DraftTree:
        """Return the levels as one tree."""

        def every(field: str) -> Array:
            return jnp.concatenate([getattr(level, field) for level in levels], axis=1)

        tokens, sizes = every("token"), self.sizes
        return DraftTree(
            tokens=tokens,
            parent=jnp.broadcast_to(jnp.asarray(self._parents()), tokens.shape),
            valid=every("valid"),
            filler=jnp.zeros(tokens.shape, bool),
            reference=every("reference"),
            length=sum(level.valid[:, 0] for level in levels[1:]),  # type: ignore[arg-type]
            logq=jnp.concatenate(dists, axis=1),
            window=window,
            slot=None,
            depth=tuple(level for level, size in enumerate(sizes) for _ in range(size)),
            scratch=self.nodes,
        )


@struct.dataclass
class _Level:
    """The nodes of one level.

    Attributes:
      token: [B, U] each node's token.
      valid: [B, U] whether it was drawn; node 0 was not.
      alive: [B, U] whether it may have children.
      reference: [B, U] log q of its path.
    """

    token: Int[Array, "B U"]
    valid: Bool[Array, "B U"]
    alive: Bool[Array, "B U"]
    reference: Float[Array, "B U"]


def _root(state: DecodeState) -> _Level:
    """Return level 0: the last committed token."""
    token = take(state.tokens, state.length - 1)[:, None]
    no = jnp.zeros(token.shape, bool)
    return _Level(token, no, ~no, jnp.zeros(token.shape, jnp.float32))


def _children(
    logq: Float[Array, "B U V"], keys: Array, count: int, replace: bool
) -> tuple[Int[Array, "B C"], Bool[Array, "B C"]]:
    """Draw `count` children of each of U nodes, in draw order, and whether each could be drawn."""
    batch, places, vocab = logq.shape
    if replace:
        noise = random.gumbel(keys, (places, count, vocab))
        logq = logq[:, :, None]
        token = jnp.argmax(jnp.where(logq > -jnp.inf, logq + noise, -jnp.inf), axis=-1)
        return token.reshape(batch, -1), jnp.ones((batch, places * count), bool)
    noise = random.gumbel(keys, (places, vocab))
    score, token = jax.lax.top_k(jnp.where(logq > -jnp.inf, logq + noise, -jnp.inf), count)
    return token.reshape(batch, -1), (score > -jnp.inf).reshape(batch, -1)
