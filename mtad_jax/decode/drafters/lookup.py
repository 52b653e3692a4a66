"""Prompt lookup: the text's own repetitions as the draft, without a draft model."""

from typing import Any

import jax.numpy as jnp
from flax import struct

from mtad_jax.decode.draft import DraftTree, take
from mtad_jax.decode.drafters.base import OneChain, point_chain
from mtad_jax.decode.request import Request, check_depth, check_whole
from mtad_jax.decode.state import Controls, DecodeState
from mtad_jax.models.protocol import BoundLM
from mtad_jax.types import Array, Bool, Int


@struct.dataclass
class Lookup(OneChain):
    """What followed the last earlier occurrence of the text's last n tokens.

    n is `ngram`, or the largest below it that occurs; where not even the last token does, nothing
    is drafted. The occurrence may overlap the text's end, but at least one token follows it. The
    draft is shorter than K where the continuation runs into the end of the text, and is cut after
    an end token. It is drawn from a point mass, so the lossless rules may use it.

    Draws: none.

    Source: Saxena 2023, github.com/apoorvumang/prompt-lookup-decoding. Its code takes the first
    occurrence that has enough tokens behind it; here it is the last, the nearest to the text's end.

    Attributes:
      depth: K, at least 1; static.
      ngram: the longest n, at least 1 and at most the tokens of the shortest prompt; static.
    """

    depth: int = struct.field(pytree_node=False)
    ngram: int = struct.field(pytree_node=False)

    needs_draft = False
    deterministic = True

    def check(self, request: Request) -> None:
        """Raise ValueError on a depth or an n-gram out of range."""
        check_depth(self.depth)
        check_whole("ngram", self.ngram)
        if self.ngram < 1:
            raise ValueError(f"ngram={self.ngram} must be >= 1: look for at least one token")
        if self.ngram > request.shortest:
            raise ValueError(
                f"ngram={self.ngram} > {request.shortest} = the shortest prompt: lower ngram or "
                "use longer prompts"
            )

    def propose(
        self, lm: BoundLM | None, state: DecodeState, controls: Controls
    ) -> tuple[DraftTree, Any]:
        """Return the continuation as a chain; of `lm`, the target, only its vocabulary is read."""
        assert lm is not None
        tokens, inside, _ = repetition(state, self.ngram, self.depth)
        return point_chain(state, tokens, inside, controls, lm.vocab_size), state.draft_cache


def repetition(
    state: DecodeState, ngram: int, depth: int
) -> tuple[Int[Array, "B K"], Bool[Array, "B K"], Int[Array, " B"]]:
    """Return K tokens after the occurrence, which of them are of the text, and its n; 0: none."""
    place, matched = last_occurrence(state.tokens, state.length, ngram)
    index = place[:, None] + 1 + jnp.arange(depth)
    tokens = take(state.tokens, jnp.minimum(index, state.length[:, None] - 1))
    return tokens, index < state.length[:, None], matched


def last_occurrence(
    tokens: Int[Array, "B S"], length: Int[Array, " B"], ngram: int
) -> tuple[Int[Array, " B"], Int[Array, " B"]]:
    """Return the slot in which the longest, then last, occurrence ends, and its n.

    An occurrence of the last n <= `ngram` tokens ends at least one slot before the text does. Where
    there is none: the last slot, which nothing follows, and 0.
    """
    slots = tokens.shape[1]
    slot = jnp.arange(slots)
    run = slot < length[:, None] - 1
    matched = jnp.zeros(tokens.shape, jnp.int32)  # tokens that agree, counted backwards
    for back in range(ngram):
        earlier = jnp.pad(tokens, ((0, 0), (back, 0)), constant_values=-1)[:, :slots]
        run &= earlier == take(tokens, jnp.maximum(length - 1 - back, 0))[:, None]
        matched += run
    place = jnp.argmax(matched * slots + slot, axis=1)
    return place, take(matched, place)
