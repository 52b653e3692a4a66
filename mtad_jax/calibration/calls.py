"""Which model calls a round of a rule makes, without running a model."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtad_jax.decode.loop import empty_state, kinds_of
from mtad_jax.decode.protocols import Strategy
from mtad_jax.decode.state import Controls
from mtad_jax.models.protocol import BoundLM
from mtad_jax.types import Array, Bool, Float, Int, Params


@dataclasses.dataclass(frozen=True)
class Calls:
    """The calls of one round.

    Attributes:
      target: tokens of each call of the target, a row.
      draft: tokens of each call of the draft, a row.
    """

    target: tuple[int, ...]
    draft: tuple[int, ...]


def round_calls(
    strategy: Strategy, target: BoundLM, draft: BoundLM | None, controls: Controls
) -> Calls:
    """Return the calls of one round: the rule is traced with models that only take notes.

    A rule calls the draft once a level. A draft that may stop early loops, and a loop is traced
    once whatever its length: its call stands for all levels that are missing, so that such a round
    counts as long as it can get.
    """
    notes: tuple[list[int], list[int]] = [], []
    shadow = _shadow(target, notes[0])
    shadow_draft = None if draft is None else _shadow(draft, notes[1])
    ids, one = np.zeros((1, 2), np.int32), np.ones((1,), np.int32)
    controls = dataclasses.replace(
        controls, min_length=None if controls.min_length is None else jnp.asarray(one)
    )

    def one_round() -> Array:
        state = empty_state(
            shadow, shadow_draft, strategy, controls, ids, one, 4 * one, one.astype(np.uint32), one,
            kinds=kinds_of(strategy), slots=8 + strategy.scratch(4),
        )  # fmt: skip
        return strategy.step(shadow, shadow_draft, state, controls).length

    jax.eval_shape(one_round)
    called, drafted = notes
    drafted += drafted[-1:] * (strategy.depth - len(drafted))
    return Calls(tuple(called), tuple(drafted[: strategy.depth]))


def _shadow(lm: BoundLM, notes: list[int]) -> BoundLM:
    """Return a stand-in for a model that notes its calls."""
    return BoundLM({"none": jnp.zeros((1,))}, _Shadow(lm.vocab_size, lm.model.trees, notes))


@dataclasses.dataclass(frozen=True, eq=False)
class _Shadow:
    """A `CausalLM` without a model: every logit is 0, and each call's size is noted."""

    vocab_size: int
    trees: bool
    calls: list[int]
    max_positions: int = 2**30

    def init_cache(self, batch: int, slots: int, dtype: jnp.dtype) -> Any:
        return jnp.zeros((batch,), dtype)

    def apply(
        self,
        params: Params,
        tokens: Int[Array, "B T"],
        *,
        positions: Int[Array, "B T"],
        write_at: Int[Array, " B"],
        prefix: Int[Array, " B"],
        window: Bool[Array, "B T R"] | None,
        cache: Any,
    ) -> tuple[Float[Array, "B T V"], Any]:
        self.calls.append(tokens.shape[1])
        return jnp.zeros((*tokens.shape, self.vocab_size)), cache

    def keep(
        self, cache: Any, source: Int[Array, "B M"], dest: Int[Array, " B"], *, span: int
    ) -> Any:
        return cache
