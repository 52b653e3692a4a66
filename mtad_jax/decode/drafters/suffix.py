"""Suffix lookup: what followed the longest end of the text that came before, or in a corpus."""

from typing import Any

import jax.numpy as jnp
from flax import struct

from mtad_jax.decode.draft import DraftTree, take
from mtad_jax.decode.drafters.base import OneChain, point_chain
from mtad_jax.decode.drafters.corpus import Corpus, check_longest, last_match
from mtad_jax.decode.drafters.lookup import repetition
from mtad_jax.decode.request import Request, check_depth
from mtad_jax.decode.state import Controls, DecodeState
from mtad_jax.models.protocol import BoundLM
from mtad_jax.types import Array, Bool, Int


@struct.dataclass
class Suffix(OneChain):
    """What followed the longest suffix of the text that occurs before its end, or in the corpus.

    A suffix is the last n tokens, n from `longest` down to 1; where not even the last token occurs,
    nothing is drafted. An occurrence is followed by at least one token of its own text. The longest
    suffix wins, and of its occurrences the most recent one: the last in the text itself, else the
    last of the corpus's last document that has one. It is as if the corpus stood before the
    prompt. The draft is shorter than K where the occurrence's text or document ends before, and is
    cut after an end token. It is drawn from a point mass, so the lossless rules may use it.

    Draws: none.

    Source: the longest suffix in the text and in a corpus: SAM decoding, arXiv 2411.10666; a suffix
    array over a corpus: REST, arXiv 2311.08252. Both choose among the occurrences of a suffix in
    other ways (an early one; a tree of the frequent ones).

    Attributes:
      depth: K, at least 1; static.
      longest: tokens of a match that count, at least 1; static.
      corpus: as `build_corpus` gives it; None: the text alone. Traced.
    """

    depth: int = struct.field(pytree_node=False)
    longest: int = struct.field(pytree_node=False)
    corpus: Corpus | None = None

    needs_draft = False
    deterministic = True

    def check(self, request: Request) -> None:
        """Raise ValueError on a depth or a match out of range, or another model's corpus."""
        check_depth(self.depth)
        check_longest(self.longest)
        if self.corpus is None:
            return
        if self.longest > self.corpus.longest:
            raise ValueError(
                f"longest={self.longest} > {self.corpus.longest}, by which the corpus was built: "
                "lower longest, or build the corpus with it"
            )
        if int(self.corpus.largest) >= request.vocab:
            raise ValueError(
                f"corpus holds id {int(self.corpus.largest)}, outside [0, {request.vocab - 1}]: "
                "give one of this model's tokenizer"
            )

    def propose(
        self, lm: BoundLM | None, state: DecodeState, controls: Controls
    ) -> tuple[DraftTree, Any]:
        """Return the continuation as a chain; of `lm`, the target, only its vocabulary is read."""
        assert lm is not None
        tokens, inside, matched = repetition(state, self.longest, self.depth)
        if self.corpus is not None:
            there, longer = last_match(self.corpus, self._end(state))
            better = (longer > matched)[:, None]
            theirs, within = _follow(self.corpus, there, self.depth)
            tokens = jnp.where(better, theirs, tokens)
            inside = jnp.where(better, within, inside)
        return point_chain(state, tokens, inside, controls, lm.vocab_size), state.draft_cache

    def _end(self, state: DecodeState) -> Int[Array, "B M"]:
        """Return the last tokens of the text, the last one first; -1 before its begin."""
        index = state.length[:, None] - 1 - jnp.arange(self.longest)
        return jnp.where(index >= 0, take(state.tokens, jnp.maximum(index, 0)), -1)


def _follow(
    corpus: Corpus, place: Int[Array, " B"], depth: int
) -> tuple[Int[Array, "B K"], Bool[Array, "B K"]]:
    """Return the K tokens after a place, and which of them are of its document."""
    index = place[:, None] + 1 + jnp.arange(depth)
    tokens = corpus.tokens.at[index].get(mode="clip")  # the last one ends a document
    return jnp.maximum(tokens, 0), jnp.cumprod(tokens >= 0, axis=1) == 1
