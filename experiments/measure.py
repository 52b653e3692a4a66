"""Timing of decoding rules: after warm-up, interleaved, and with everything waited for."""

from collections.abc import Sequence

import jax
import numpy as np

import mtad_jax
from experiments.settings import Settings
from mtad_jax.decode.loop import bucket
from mtad_jax.pipeline import Pipeline


def sizes(batch: Sequence[list[int]], settings: Settings) -> tuple[int, int, int]:
    """Return what a batch compiles as: rows, prompt width and cache slots."""
    longest = max(map(len, batch))
    scratch = settings.strategy.scratch(settings.max_new_tokens)
    return len(batch), bucket(longest), bucket(longest + settings.max_new_tokens + scratch)


def warm_up(pipe: Pipeline, batch: Sequence[list[int]], settings: Settings) -> None:
    """Compile what a call on this batch runs: one round of it is enough."""
    length = [len(ids) for ids in batch]
    padded = np.zeros((len(batch), max(length)), np.int32)
    for row, ids in zip(padded, batch, strict=True):
        row[: len(ids)] = ids
    eos = pipe.target.eos_ids if settings.eos_id is None else settings.eos_id
    steps = mtad_jax.stream(
        pipe.target.lm,
        padded,
        length,
        strategy=settings.strategy,
        draft=pipe.draft.lm if pipe.draft and settings.strategy.needs_draft else None,
        warp=settings.warp,
        max_new_tokens=settings.max_new_tokens,
        eos_id=eos,
        seed=settings.seed,
        rounds=1,
    )
    jax.block_until_ready(next(steps))
