"""Prompts in batches of one size: which prompts a batch decodes, and on which random streams."""

import dataclasses
import math
import sys
from collections.abc import Iterable, Iterator, Sequence

from jax.sharding import Mesh

from mtad_jax.decode.checks import check_count, check_seeds
from mtad_jax.devices.hosts import is_first


@dataclasses.dataclass(frozen=True)
class Batch:
    """Prompts that are decoded together.

    Attributes:
      index: which prompts; the last is repeated until the batch is full.
      rows: texts that belong to prompts: the first ones; the others are of repeats.
      seed: of each prompt in it.
      row_ids: of each text, repeats included: a repeat gets the text that its prompt gets.
    """

    index: Sequence[int]
    rows: int
    seed: Sequence[int]
    row_ids: Sequence[int]


def even_size(size: int, samples: int, mesh: Mesh | None) -> int:
    """Return the smallest number of prompts >= `size` whose texts the mesh splits evenly."""
    split = 1 if mesh is None else mesh.shape.get("data", 1)
    step = split // math.gcd(split, samples)
    return -(-size // step) * step


def make_batches(
    prompts: int,
    size: int | None,
    samples: int,
    *,
    seed: int | Sequence[int],
    row_ids: Sequence[int] | None,
    mesh: Mesh | None,
) -> list[Batch]:
    """Share prompts out; every text has the random stream that it has in one batch of all.

    Args:
      prompts: how many there are.
      size: prompts of a batch, rounded up to what the mesh splits evenly; None: all.
      samples: texts of each.
      seed: as a call's.
      row_ids: as a call's.
      mesh: that the target lies on.

    Raises:
      ValueError: a size below 1, or seeds or row ids that are not one for each.
    """
    size = prompts if size is None else check_count("batch_size", size, 1)
    size = even_size(size, samples, mesh)
    seeds, ids = check_seeds(seed, row_ids, prompts, samples)
    seeds, ids = seeds.reshape(prompts, samples), ids.reshape(prompts, samples)
    found = []
    for first in range(0, prompts, size):
        index = [min(i, prompts - 1) for i in range(first, first + size)]
        rows = samples * min(size, prompts - first)
        found.append(Batch(index, rows, seeds[index, 0].tolist(), ids[index].ravel().tolist()))
    return found


def with_progress(batches: Sequence[Batch]) -> Iterable[Batch]:
    """Give the batches one by one; on a terminal, several with a progress bar on stderr."""
    if len(batches) == 1 or not is_first() or not sys.stderr.isatty():
        return batches
    return _bar(batches)


def _bar(batches: Sequence[Batch]) -> Iterator[Batch]:
    from tqdm import tqdm  # takes a while, and most calls show nothing

    with tqdm(total=sum(batch.rows for batch in batches), unit="text", leave=False) as bar:
        for batch in batches:
            yield batch
            bar.update(batch.rows)
