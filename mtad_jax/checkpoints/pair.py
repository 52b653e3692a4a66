"""A target and a draft of one tokenizer, whatever their embeddings are padded to."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtad_jax.checkpoints.load import LoadedModel
from mtad_jax.models.early_exit import early_exit
from mtad_jax.text.tokenizer import same_vocabulary

EARLY_EXIT = "early_exit:"
"""What a draft is called that is the target's own first layers: `early_exit:4`."""


def exit_layers(draft: str | Path | None) -> int | None:
    """Return N where a draft is called `early_exit:N`; None: it is a folder, or none.

    Raises:
      ValueError: N is no whole number.
    """
    if not isinstance(draft, str) or not draft.startswith(EARLY_EXIT):
        return None
    count = draft.removeprefix(EARLY_EXIT)
    if not re.fullmatch("[0-9]+", count):
        raise ValueError(f"draft={draft}: write a number of layers, such as {EARLY_EXIT}2")
    return int(count)


def exit_early(target: LoadedModel, layers: int) -> LoadedModel:
    """Return the draft that is a target's own first layers; see `early_exit`.

    Raises:
      ValueError: as `early_exit`.
    """
    lm = early_exit(target.lm, layers)
    return dataclasses.replace(target, lm=lm, config=with_layers(target.config, layers))


def with_layers(config: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """Return the `config.json` of a model cut to so many layers, of the kinds of its first ones."""
    if "text_config" in config:  # a language model within another one
        return {**config, "text_config": with_layers(config["text_config"], layers)}
    kinds = config.get("layer_types")
    own = {} if kinds is None else {"layer_types": kinds[:layers]}
    return {**config, "num_hidden_layers": layers, **own}


def with_one_vocabulary(target: LoadedModel, draft: LoadedModel) -> tuple[LoadedModel, LoadedModel]:
    """Return both models with the same number of real token ids, where that can be.

    A draft without a tokenizer takes the target's. Where the smaller embedding has no rows for the
    tokenizer's last tokens, and all of them are special ones (a text model beside one that sees
    images), neither model has them.

    Raises:
      ValueError: their tokenizers differ, naming the first token that does.
    """
    names = target.tokenizer
    if names and draft.tokenizer:
        same_vocabulary(names, draft.tokenizer)
    vocab, other = target.lm.vocab_size, draft.lm.vocab_size
    if names is None or vocab == other:
        return target, draft
    if draft.tokenizer is None:
        return target, _cut(draft, vocab) if draft.lm.model.vocab_size >= vocab else draft
    least = min(vocab, other)
    if not names.special_ids.issuperset(range(least, max(vocab, other))):
        return target, draft
    return _cut(target, least), _cut(draft, least)


def _cut(model: LoadedModel, vocab: int) -> LoadedModel:
    return dataclasses.replace(model, lm=dataclasses.replace(model.lm, vocab=vocab))
