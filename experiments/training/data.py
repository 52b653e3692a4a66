"""Batches of token windows: a pure function of the seed and the step, so that resume is exact."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

VALIDATION = ("stories", "sql")


@dataclass(frozen=True)
class Phase:
    """A stretch of training with one batch shape.

    Attributes:
      steps: optimizer steps.
      rows: windows a batch.
      length: tokens a window predicts (the window has one more, to shift by).
    """

    steps: int
    rows: int
    length: int


def phase_at(phases: tuple[Phase, ...], step: int) -> tuple[int, Phase, int]:
    """Return the number of the phase that `step` is in, the phase, and the step within it."""
    for number, phase in enumerate(phases):
        if step < phase.steps:
            return number, phase, step
        step -= phase.steps
    raise IndexError("step is past the last phase")


def batch_at(tokens: np.ndarray, phases: tuple[Phase, ...], seed: int, step: int) -> np.ndarray:
    """Return the int32 [rows, length + 1] batch of a step.

    Each pass over the data cuts it at its own random offset and shuffles the windows.
    """
    number, phase, step = phase_at(phases, step)
    windows = (len(tokens) - 1) // phase.length - 1  # -1: room for the offset
    batches = windows // phase.rows
    epoch, batch = divmod(step, batches)
    rng = np.random.default_rng((seed, number, epoch))
    offset = rng.integers(phase.length)
    chosen = rng.permutation(windows)[batch * phase.rows : (batch + 1) * phase.rows]
    at = offset + chosen[:, None] * phase.length + np.arange(phase.length + 1)
    return tokens[at].astype(np.int32)


def eval_batches(
    tokens: np.ndarray, rows: int, length: int, limit: int | None
) -> Iterator[np.ndarray]:
    """Yield whole [rows, length + 1] batches of consecutive windows, `limit` windows at most."""
    windows = (len(tokens) - 1) // length
    windows = windows if limit is None else min(windows, limit)
    rows = min(rows, windows)
    for first in range(0, windows - rows + 1, rows):
        at = (first + np.arange(rows))[:, None] * length + np.arange(length + 1)
        yield tokens[at].astype(np.int32)


def check(tokens: np.ndarray, phases: tuple[Phase, ...], split: int) -> None:
    """Check that every phase can be cut from the data, and its batches into `split` parts.

    Raises:
      ValueError: it cannot.
    """
    for phase in phases:
        if phase.rows % split:
            raise ValueError(
                f"{phase.rows} rows a batch do not split over the mesh's data:{split}: change the "
                "rows of config.phases, or give --mesh a data axis that divides them"
            )
        need = (phase.rows + 2) * phase.length
        if len(tokens) < need:
            raise ValueError(f"train.npy: {len(tokens)} tokens are fewer than a batch's {need}")


def load_tokens(data_dir: Path, name: str) -> np.ndarray:
    """Read `name`.npy, memory mapped.

    Raises:
      ValueError: no such file.
    """
    path = data_dir / f"{name}.npy"
    if not path.is_file():
        raise ValueError(f"no {path}: build it with python -m experiments.corpus")
    return np.load(path, mmap_mode="r")
