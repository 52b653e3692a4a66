"""Batches of token windows: a pure function of the seed and the step, so that resume is exact."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from mtad_jax.types import Array, Float, Int

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


class Batch(NamedTuple):
    """What one step learns from.

    Attributes:
      tokens: [B, T + 1] windows of the corpus.
      weight: [B, T] of the prediction of tokens 1 ... T in all means.
    """

    tokens: Int[Array, "B T+1"]
    weight: Float[Array, "B T"]


@dataclass(frozen=True)
class Corpus:
    """Documents one after the other.

    Attributes:
      tokens: [N] token ids.
      answers: [N] whether a token belongs to what a document is there for, not to the question
        before it.
    """

    tokens: np.ndarray
    answers: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)

    def batch(
        self,
        at: np.ndarray,
        prompt_weight: float,
        put: Callable[[np.ndarray], Array] = jnp.asarray,
    ) -> Batch:
        """Return the tokens at `at`, [rows, length + 1], and the weights of their predictions.

        `put` brings an array to the devices.
        """
        weight = np.where(self.answers[at[:, 1:]], 1.0, prompt_weight)
        return Batch(put(self.tokens[at].astype(np.int32)), put(weight.astype(np.float32)))


def windows_at(count: int, phases: tuple[Phase, ...], seed: int, step: int) -> np.ndarray:
    """Return which of `count` tokens the batch of a step holds: [rows, length + 1].

    Each pass over the data cuts it at its own random offset and shuffles the windows.
    """
    number, phase, step = phase_at(phases, step)
    windows = (count - 1) // phase.length - 1  # -1: room for the offset
    batches = windows // phase.rows
    epoch, batch = divmod(step, batches)
    rng = np.random.default_rng((seed, number, epoch))
    offset = rng.integers(phase.length)
    chosen = rng.permutation(windows)[batch * phase.rows : (batch + 1) * phase.rows]
    return offset + chosen[:, None] * phase.length + np.arange(phase.length + 1)


def eval_windows(count: int, rows: int, length: int, limit: int | None) -> Iterator[np.ndarray]:
    """Yield whole [rows, length + 1] batches of consecutive windows, `limit` windows at most."""
    windows = (count - 1) // length
    windows = windows if limit is None else min(windows, limit)
    rows = min(rows, windows)
    for first in range(0, windows - rows + 1, rows):
        yield (first + np.arange(rows))[:, None] * length + np.arange(length + 1)


def check(count: int, phases: tuple[Phase, ...], split: int) -> None:
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
        if count < need:
            raise ValueError(f"train.npy: {count} tokens are fewer than a batch's {need}")


def load(data_dir: Path, name: str) -> Corpus:
    """Read `name`.npy, memory mapped, and `name`_answers.npy; without that all are answers.

    Raises:
      ValueError: no such file, or the two are not of one length.
    """
    path = data_dir / f"{name}.npy"
    if not path.is_file():
        raise ValueError(f"no {path}: build it with python -m experiments.corpus")
    tokens, mask = np.load(path, mmap_mode="r"), data_dir / f"{name}_answers.npy"
    answers = np.load(mask, mmap_mode="r") if mask.is_file() else np.ones(len(tokens), bool)
    if len(answers) != len(tokens):
        raise ValueError(
            f"{mask}: {len(answers)} tokens, {path} has {len(tokens)}: build both anew"
        )
    return Corpus(tokens, answers)
