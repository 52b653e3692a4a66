"""What a recipe minimizes: a weighted sum of losses of the text and of drafted blocks."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp

from experiments.training import losses
from experiments.training.blocks import (
    Blocks,
    Score,
    Text,
    block_logits,
    choose_places,
    draft_blocks,
    read_blocks,
)
from experiments.training.data import Batch
from experiments.training.losses import DRAFTED, LOSSES, TEXT, Places
from mtad_jax.models.linen import LinenLM, in_documents
from mtad_jax.models.protocol import BoundLM
from mtad_jax.types import Array, Float, Key, Params

Metrics = dict[str, Float[Array, ""]]


@dataclass(frozen=True)
class Objective:
    """The losses of a run, and what they need.

    Attributes:
      weights: of the losses, by name.
      blocks: how blocks are drafted, and the rule that they are for.
      target: what the model is compared with; None: with nothing.
      vocab: real tokens; rows past them are padding, and count nowhere.
      ends: end tokens, which a drafted block ends with.
    """

    weights: Mapping[str, float]
    blocks: Blocks
    target: BoundLM | None
    vocab: int
    ends: tuple[int, ...]

    def total(self, metrics: Metrics) -> Float[Array, ""]:
        """Return what is minimized, of what `measure` has found."""
        return sum((w * metrics[name] for name, w in self.weights.items()), jnp.zeros(()))

    def measure(
        self,
        model: LinenLM,
        params: Params,
        target_params: Params | None,
        batch: Batch,
        key: Key[Array, ""],
    ) -> Metrics:
        """Return the losses of a batch by name, and what tells of acceptance.

        There is always `cross_entropy`; with a target `kl` and `overlap`, the probability that
        speculative sampling accepts one token of the model (Leviathan et al. 2023); where blocks
        are drafted `accepted`, how many tokens of one MTAD takes. (The target's parameters are
        given apart, since they are no constants of a program.)
        """
        scores: list[Score] = [functools.partial(model.window_logits, params)]
        if self.target is not None and target_params is not None:
            theirs = cast(LinenLM, self.target.model)
            scores.append(functools.partial(theirs.window_logits, target_params))
        if losses.needs_drafts(self.weights):
            fixed = functools.partial(model.window_logits, jax.lax.stop_gradient(params))
            places = self._with_blocks(fixed, scores, batch, key)
        else:
            places = {TEXT: self._of_text(scores, batch)}
        names = ["cross_entropy", *(["kl"] if len(scores) > 1 else []), *self.weights]
        rule = self.blocks.rule
        found = {
            name: LOSSES[name].of(places[LOSSES[name].where], rule) for name in dict.fromkeys(names)
        }
        if len(scores) > 1:
            text = places[TEXT]
            found["overlap"] = losses.mean(losses.overlap(text), text.weight)
        if DRAFTED in places:
            found["accepted"] = losses.accepted(places[DRAFTED], rule)
        return found

    def _of_text(self, scores: Sequence[Score], batch: Batch) -> Places:
        """Return the models' laws over the text."""
        tokens, documents = batch.tokens[:, :-1], batch.documents[:, :-1]
        laws = [self._law(score(tokens, *in_documents(documents))) for score in scores]
        return _text_places(laws, batch)

    def _with_blocks(
        self, drafter: Score, scores: Sequence[Score], batch: Batch, key: Key[Array, ""]
    ) -> dict[str, Places]:
        """Return both models' laws over the text, and over blocks that `drafter` proposes in it."""
        place_key, draw_key = jax.random.split(key)
        at, weighs = choose_places(batch.weight, self.blocks.anchors, place_key)
        text = Text(batch.tokens[:, :-1], batch.documents[:, :-1], at)

        def real(*asked: Array) -> Array:
            return drafter(*asked)[..., : self.vocab]

        block = draft_blocks(real, text, self.blocks, self.ends, draw_key)
        both = [block_logits(score, text, block.tokens) for score in scores]
        logq, logp = (self._law(after) for _, after in both)
        weight = (weighs[..., None] & block.inside).astype(jnp.float32)
        return {
            TEXT: _text_places([self._law(of_text) for of_text, _ in both], batch),
            DRAFTED: Places(logq, logp, block.tokens, weight, block.inside),
        }

    def _law(self, logits: Float[Array, "*N V"]) -> Float[Array, "*N V"]:
        return jax.nn.log_softmax(logits[..., : self.vocab])


def read_objective(
    config: Any, rows: int, target: BoundLM | None, ends: tuple[int, ...]
) -> Objective:
    """Return the objective of a recipe, checked.

    Args:
      config: the recipe.
      rows: of the model's token table.
      target: the teacher, if there is one.
      ends: end tokens.

    Raises:
      ValueError: a loss or a setting of the blocks cannot be, a loss needs a target and there is
        none, or the target has tokens that the model has not.
    """
    weights = losses.read_losses(config.losses)
    if losses.needs_target(weights) != (target is not None):
        raise ValueError(
            "--target goes with losses that compare with it (all but cross_entropy), and only with "
            f"them: config.losses has {', '.join(weights)}"
        )
    vocab = rows if target is None else target.vocab_size
    if vocab > rows:
        raise ValueError(
            f"config.model.vocab_size={rows} must be >= {vocab}, the number of the target's tokens"
        )
    blocks = read_blocks(config.block, vocab)
    shortest = min(length for _, _, length in config.phases)
    if losses.needs_drafts(weights) and blocks.anchors > shortest:
        raise ValueError(
            f"config.block.anchors={blocks.anchors} must be <= {shortest}, the tokens a row of "
            "config.phases"
        )
    return Objective(weights, blocks, target, vocab, ends)


def _text_places(laws: Sequence[Float[Array, "B T V"]], batch: Batch) -> Places:
    logq, logp = (*laws, None)[:2]
    assert logq is not None
    inside = batch.documents[:, 1:] == batch.documents[:, :-1]
    return Places(logq, logp, batch.tokens[:, 1:], batch.weight, inside)
