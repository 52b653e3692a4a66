"""The prompts of a run decoded batch by batch, each text on a random stream of its own."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

from experiments.bench import measure
from experiments.flags.settings import RunSettings
from experiments.rows.prompts import Prompt
from mtad_jax.completions import Completion
from mtad_jax.pipeline import Pipeline


def decode_batches(
    pipe: Pipeline,
    prompts: Sequence[Prompt],
    ids: Sequence[list[int]],
    settings: RunSettings,
    batch_size: int,
    start: int = 0,
) -> Iterator[tuple[int, list[Completion], float]]:
    """Yield the index of each batch's first row, its rows and the seconds a row, from `start` on.

    A prompt has `settings.samples` rows. Batches have equally many prompts, the last one filled up
    with repeats that are dropped afterwards, so that nothing recompiles. A row's random stream is
    that of its index, or of its prompt's own seed: neither the batch size nor a resumed run changes
    its text. A resumed run forms the same batches, so that not even the rounding of
    log-probabilities differs.
    """
    compiled, samples = set(), settings.samples
    done = start // samples
    for first in range(done - done % batch_size, len(ids), batch_size):
        count = samples * min(batch_size, len(ids) - first)
        new = max(start - samples * first, 0)
        if new >= count:
            continue
        index = [min(i, len(ids) - 1) for i in range(first, first + batch_size)]
        batch = [ids[i] for i in index]
        call = settings.call() | random_streams(prompts, index, settings)
        size = measure.sizes(batch, settings)
        if size not in compiled:
            measure.warm_up(pipe, batch, settings)
            compiled.add(size)
        begin = time.perf_counter()
        rows = pipe(batch, **call)
        seconds = time.perf_counter() - begin
        yield samples * first + new, rows[new:count], seconds / count


def random_streams(
    prompts: Sequence[Prompt], index: Sequence[int], settings: RunSettings
) -> dict[str, Any]:
    """Return the seed and the row ids of the prompts `index` of a run: their own or by index."""
    samples = settings.samples
    seeds = [settings.seed if (own := prompts[i].seed) is None else own for i in index]
    row_ids = [
        s if prompts[i].seed is not None else samples * i + s for i in index for s in range(samples)
    ]
    return {"seed": seeds, "row_ids": row_ids}
