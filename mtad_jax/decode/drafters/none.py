"""No draft: each round commits one token of the target."""

from typing import Any

import jax.numpy as jnp
from flax import struct

from mtad_jax.decode.draft import DraftTree, take
from mtad_jax.decode.request import Request
from mtad_jax.decode.state import Controls, DecodeState
from mtad_jax.models.protocol import BoundLM


@struct.dataclass
class NoDraft:
    """Proposes nothing: each round commits the one token that the verifier draws."""

    depth = 0
    nodes = 1  # the last committed token
    needs_draft = False
    chain = True
    candidate = True  # of no tokens
    drawn = False
    deterministic = True

    def check(self, request: Request) -> None:
        """Nothing can be out of range."""

    def propose(
        self, lm: BoundLM | None, state: DecodeState, controls: Controls
    ) -> tuple[DraftTree, Any]:
        """Return the tree that is node 0 alone."""
        token = take(state.tokens, state.length - 1)[:, None]
        no = jnp.zeros(token.shape, bool)
        zero = jnp.zeros(token.shape, jnp.float32)
        draft = DraftTree(
            token, jnp.zeros_like(token), no, no, zero, jnp.zeros_like(state.length),
            None, None, None, depth=(0,), scratch=1,
        )  # fmt: skip
        return draft, state.draft_cache
