"""Batches of whole documents: a pure function of the seed and the step, so that resume is exact.

Documents are packed into rows, several a row, and see nothing of one another: the model is told
which token belongs to which. One that is longer than a row is cut.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments.training.export import BOS
from mtad_jax.types import Array, Float, Int


@dataclass(frozen=True)
class Phase:
    """A stretch of training with one batch shape.

    Attributes:
      steps: optimizer steps.
      rows: rows a batch.
      length: tokens a row predicts (it has one more, to shift by).
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
      tokens: [B, T + 1] rows.
      documents: [B, T + 1] which document of its row a token belongs to; they never fall.
      weight: [B, T] of the prediction of tokens 1 ... T in all means; 0 where the token before is
        of another document, and in padding.
    """

    tokens: Int[Array, "B T+1"]
    documents: Int[Array, "B T+1"]
    weight: Float[Array, "B T"]


@dataclass(frozen=True)
class Corpus:
    """Documents one after the other.

    Attributes:
      tokens: [N] token ids.
      answers: [N] whether a token belongs to what a document is there for, not to the question
        before it.
      begins: [documents] where each begins; None: at every BOS.
    """

    tokens: np.ndarray
    answers: np.ndarray
    begins: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def starts(self) -> np.ndarray:
        """Where the documents begin, and where the last one ends: [documents + 1]."""
        begins = np.flatnonzero(self.tokens == BOS) if self.begins is None else self.begins
        return np.union1d([0, len(self)], begins)

    def pieces(self, length: int, rng: np.random.Generator) -> np.ndarray:
        """Return start and stop of the documents, at most `length` tokens each: [pieces, 2].

        A longer one is cut at a random offset, and then every `length` tokens.
        """
        spans = np.stack([self.starts[:-1], self.starts[1:]], axis=1)
        long = np.diff(spans)[:, 0] > length
        cut = []
        for start, stop in spans[long]:
            inner = np.arange(start + rng.integers(1, length + 1), stop, length)
            edges = np.array([start, *inner, stop])
            cut.append(np.stack([edges[:-1], edges[1:]], axis=1))
        return np.concatenate([spans[~long], *cut])

    def rows(self, length: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Return the pieces of every row of `length` tokens, both in a random order."""
        pieces = rng.permutation(self.pieces(length, rng))
        packed = pack(np.diff(pieces)[:, 0], length)
        return [pieces[packed[i]] for i in rng.permutation(len(packed))]

    def batch(
        self,
        rows: list[np.ndarray],
        length: int,
        prompt_weight: float,
        put: Callable[[np.ndarray], Array] = jnp.asarray,
    ) -> Batch:
        """Return rows of `length` tokens, padded; `put` brings an array to the devices."""
        tokens = np.zeros((len(rows), length), np.int32)
        documents, weight = np.zeros_like(tokens), np.zeros(tokens.shape, np.float32)
        for row, pieces in enumerate(rows):
            at = 0
            for number, (start, stop) in enumerate(pieces):
                place = row, slice(at, at + stop - start)
                tokens[place] = self.tokens[start:stop]
                documents[place] = number
                weight[place] = np.where(self.answers[start:stop], 1.0, prompt_weight)
                weight[row, at] = 0.0
                at += stop - start
            documents[row, at:] = len(pieces)
        return Batch(put(tokens), put(documents), put(weight[:, 1:]))


def pack(lengths: np.ndarray, room: int) -> list[list[int]]:
    """Return which items share a row of `room` places: each goes where it leaves the least."""
    rows: list[list[int]] = []
    spare: list[list[int]] = [[] for _ in range(room + 1)]  # rows by the places that they have left
    for item, length in enumerate(lengths.tolist()):
        left = next((n for n in range(length, room + 1) if spare[n]), None)
        if left is None:
            left, row = room, len(rows)
            rows.append([])
        else:
            row = spare[left].pop()
        rows[row].append(item)
        spare[left - length].append(row)
    return rows


class Schedule:
    """Which rows the batch of a step holds: every document once a pass, but for the rows left over.

    Each pass packs the documents anew.
    """

    def __init__(self, corpus: Corpus, phases: tuple[Phase, ...], seed: int):
        """Keep what the batches are made of."""
        self._corpus, self._phases, self._seed = corpus, phases, seed
        self._packed: tuple[tuple[int, int], list[np.ndarray]] | None = None

    def at(self, step: int) -> tuple[list[np.ndarray], int]:
        """Return the pieces of a step's rows, and the tokens a row."""
        number, phase, step = phase_at(self._phases, step)
        # No packing has fewer rows than all tokens fill.
        batches = len(self._corpus) // (phase.length + 1) // phase.rows
        epoch, batch = divmod(step, batches)
        if self._packed is None or self._packed[0] != (number, epoch):
            rng = np.random.default_rng((self._seed, number, epoch))
            self._packed = (number, epoch), self._corpus.rows(phase.length + 1, rng)
        rows = self._packed[1][batch * phase.rows : (batch + 1) * phase.rows]
        return rows, phase.length + 1


def eval_rows(corpus: Corpus, phase: Phase, limit: int | None) -> Iterator[list[np.ndarray]]:
    """Yield all rows in batches, the same ones every time, `limit` rows at most.

    The last batch is filled up with rows of nothing.
    """
    rows = corpus.rows(phase.length + 1, np.random.default_rng(0))[:limit]
    rows += [np.zeros((0, 2), int)] * (-len(rows) % phase.rows)
    for first in range(0, len(rows), phase.rows):
        yield rows[first : first + phase.rows]


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
        need = phase.rows * (phase.length + 1)
        if count < need:
            raise ValueError(f"train.npy: {count} tokens are fewer than a batch's {need}")


def load(data_dir: Path, name: str) -> Corpus:
    """Read `name`.npy, memory mapped, and what lies beside it.

    `name`_answers.npy says which tokens are answers, without it all; `name`_starts.npy where the
    documents begin, without it at every BOS.

    Raises:
      ValueError: no such file, or they do not go together.
    """
    path = data_dir / f"{name}.npy"
    if not path.is_file():
        raise ValueError(
            f"no {path}: build it with python -m experiments.corpus or experiments.own_answers"
        )
    mask, begins = data_dir / f"{name}_answers.npy", data_dir / f"{name}_starts.npy"
    tokens = np.load(path, mmap_mode="r")
    answers = np.load(mask, mmap_mode="r") if mask.is_file() else np.ones(len(tokens), bool)
    if len(answers) != len(tokens):
        raise ValueError(
            f"{mask}: {len(answers)} tokens, {path} has {len(tokens)}: build both anew"
        )
    return Corpus(tokens, answers, np.load(begins) if begins.is_file() else None)


def save(data_dir: Path, name: str, corpus: Corpus) -> None:
    """Write a corpus as `load` reads it."""
    np.save(data_dir / f"{name}.npy", corpus.tokens)
    np.save(data_dir / f"{name}_answers.npy", corpus.answers)
    if corpus.begins is not None:
        np.save(data_dir / f"{name}_starts.npy", corpus.begins)
