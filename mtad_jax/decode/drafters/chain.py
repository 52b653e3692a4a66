"""A chain drawn token by token from the draft model."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import struct

from mtad_jax.decode import random
from mtad_jax.decode.draft import DraftTree, take
from mtad_jax.decode.drafters.base import OneChain, chain_draft, last_logits
from mtad_jax.decode.logits import extend, history, law
from mtad_jax.decode.request import (
    Request,
    check_depth,
)
from mtad_jax.decode.state import Controls, DecodeState
from mtad_jax.models.protocol import BoundLM


@struct.dataclass
class Chain(OneChain):
    """K tokens drawn one after the other from the warped draft distribution q.

    Drawn, not chosen: the lossless rules may use it. A chain that ends a text after e tokens is a
    chain of length e; its later nodes are invalid.

    Attributes:
      depth: K, at least 1; static.
    """

    depth: int = struct.field(pytree_node=False)

    def check(self, request: Request) -> None:
        """Raise ValueError on a depth below 1."""
        check_depth(self.depth)

    def propose(
        self, lm: BoundLM | None, state: DecodeState, controls: Controls
    ) -> tuple[DraftTree, Any]:
        """Return a chain with the distribution that each token was drawn from, and its logits."""
        assert lm is not None
        logits, cache = last_logits(lm, state)
        past = history(state, controls, lm.vocab_size)
        only = jnp.zeros((state.length.shape[0], 1), jnp.int32)
        tokens, dists, raw, valid = [], [], [], []
        reference = [jnp.zeros_like(logits[:, 0])]
        alive = jnp.ones(state.length.shape, bool)
        for step in range(self.depth):
            logq = law(logits[:, None], past, controls, controls.draft_warp)[:, 0]
            keys = random.round_keys(state.key, state.length, random.DRAFT, step)
            token = random.categorical(keys, logq)
            value = jnp.where(alive, take(logq, token), 0.0)
            tokens, dists, valid = tokens + [token], dists + [logq], valid + [alive]
            raw.append(logits)
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
        dists, raw = jnp.stack(dists, axis=1), jnp.stack(raw, axis=1)
        return dataclasses.replace(draft, logq=dists, logits=raw), cache
