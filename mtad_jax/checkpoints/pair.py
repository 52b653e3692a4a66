"""A target and a draft of one tokenizer, whatever their embeddings are padded to."""

import dataclasses

from mtad_jax.checkpoints.load import LoadedModel
from mtad_jax.text.tokenizer import same_vocabulary


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
