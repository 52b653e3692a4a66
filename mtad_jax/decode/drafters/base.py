"""What drafters share: the draft model's first call, and chains of nodes."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from mtad_jax.decode.draft import DraftTree, take
from mtad_jax.decode.state import Controls, DecodeState
from mtad_jax.models.protocol import BoundLM
from mtad_jax.types import Array, Bool, Float, Int


class OneChain:
    """What holds of every draft that is a chain drawn from q; see `Drafter`."""

    depth: int
    needs_draft = True
    chain = True
    candidate = True
    drawn = True
    deterministic = False

    @property
    def nodes(self) -> int:
        """Node 0 and K candidates."""
        return 1 + self.depth


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
) -> DraftTree:
    """Return node 0 and K nodes in a row; nodes past the chain's end are invalid fillers."""
    depth = tokens.shape[1]
    root = take(state.tokens, state.length - 1)[:, None]
    yes = jnp.ones(root.shape, bool)
    parent = jnp.maximum(jnp.arange(depth + 1) - 1, 0)
    return DraftTree(
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


def point_chain(
    state: DecodeState,
    tokens: Int[Array, "B K"],
    inside: Bool[Array, "B K"],
    controls: Controls,
    vocab: int,
) -> DraftTree:
    """Return what was found, not drawn, as a chain from point masses, cut after an end token.

    `inside[b, k]` says which tokens were found: a row's first ones.
    """
    ends = jnp.cumsum(controls.is_end(tokens), axis=1)
    before = jnp.pad(ends, ((0, 0), (1, 0)))[:, :-1]
    reference = jnp.zeros((tokens.shape[0], tokens.shape[1] + 1), jnp.float32)
    draft = chain_draft(state, tokens, inside & (before == 0), reference)
    own = tokens[:, :, None] == jnp.arange(vocab)
    return dataclasses.replace(draft, logq=jnp.where(own, 0.0, -jnp.inf))


def ancestors(parent: Int[np.ndarray, " N"]) -> Bool[np.ndarray, "N N"]:
    """Return which nodes of a fixed tree each node sees: its ancestors and itself."""
    sees = np.eye(len(parent), dtype=bool)
    for node in range(1, len(parent)):
        sees[node] |= sees[parent[node]]
    return sees
