"""The training loop: batches in, checkpoints and log lines out."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from experiments.training import data as train_data
from experiments.training import step as train_step
from experiments.training.data import Batch, Corpus, Phase, Schedule
from experiments.training.export import EOS
from experiments.training.objective import read_objective
from experiments.training.student import build_student, check_frozen, first_params
from mtad_jax.devices.sharding import by_rows, make_mesh, replicated
from mtad_jax.models.linen import LinenLM
from mtad_jax.models.protocol import BoundLM

Metrics = Mapping[str, float]


def check_counts(config: Any) -> None:
    """Check the numbers of a recipe that say how much and how often.

    Raises:
      ValueError: one is too small, or there is no phase.
    """
    for name in ("log_every", "eval_every", "eval_rows", "save_every"):
        if config[name] < 1:
            raise ValueError(f"config.{name}={config[name]} must be >= 1")
    if not config.phases:
        raise ValueError(
            "config.phases is empty: give (steps, rows, length), e.g. ((100, 8, 256),)"
        )
    for phase in config.phases:
        for name, least in (("steps", 0), ("rows", 1), ("length", 1)):
            if (value := getattr(Phase(*phase), name)) < least:
                raise ValueError(f"config.phases: {name}={value} of {phase} must be >= {least}")


class Trainer:
    """One run on a mesh.

    Attributes:
      config: the recipe.
      model: what is trained.
      state: the latest `TrainState`.
      total: steps of the whole schedule.
    """

    def __init__(
        self,
        config: Any,
        data_dir: Path,
        output: Path,
        target: BoundLM | None,
        log: Callable[[str], None],
        mesh: Mesh | None = None,
        *,
        ends: tuple[int, ...] = (EOS,),
        first: BoundLM | None = None,
    ):
        """Build the model and its optimizer; with no mesh, rows are split over all devices.

        Args:
          config: the recipe.
          data_dir: of the arrays.
          output: folder for the checkpoints.
          target: the teacher, if the recipe's losses have one.
          log: takes lines.
          mesh: of `make_mesh`.
          ends: end tokens, which a drafted block ends with.
          first: the model of `config.init_from`, if it names one.

        Raises:
          ValueError: the data, the model, the mesh and the recipe do not go together.
        """
        check_counts(config)
        self.config, self._log = config, log
        self._mesh = mesh = make_mesh({"data": jax.device_count()}) if mesh is None else mesh
        self._phases = tuple(Phase(*phase) for phase in config.phases)
        self.total = sum(phase.steps for phase in self._phases)
        self.model = build_student(config, target, first)
        laid = _lay_out(self.model, mesh)
        objective = read_objective(config, self.model.vocab_size, target, ends)
        rows = mesh.shape["data"]
        self._train, self._held_out = _read_data(
            data_dir, config.held_out, objective.vocab, self._phases, rows
        )
        optimizer = train_step.make_optimizer(config)
        params = first_params(config, self.model, target, first)
        check_frozen(config, params)
        state = train_step.init_state(params, optimizer)
        where = train_step.state_shardings(laid, optimizer, state)
        self.state: train_step.TrainState = jax.device_put(state, where)
        objective = dataclasses.replace(objective, target=jax.device_put(target, replicated(mesh)))
        self._step = train_step.make_step(laid, optimizer, config, objective, where)
        self._eval = train_step.make_eval(laid, objective)
        self._checkpoints = ocp.CheckpointManager(
            (output / "checkpoints").absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=2, save_interval_steps=config.save_every
            ),
        )

    def train(self) -> None:
        """Train from the latest checkpoint, or from the start, to the end of the schedule."""
        schedule = Schedule(self._train, self._phases, self.config.seed)
        metrics, since, tokens = [], time.monotonic(), 0  # since the last log line
        for step in range(self._restore(), self.total):
            rows, length = schedule.at(step)
            self.state, row = self._step(self.state, self._batch(self._train, rows, length))
            metrics.append(row)
            tokens += sum(int(np.diff(pieces).sum()) for pieces in rows)
            done = step + 1
            if done % self.config.log_every == 0 or done == self.total:
                text = _text(_mean(metrics))  # waits for the steps, so the clock is right
                seconds = time.monotonic() - since
                speed = f"{tokens / seconds:.0f} tokens/s, {seconds / len(metrics):.2f} s a step"
                self._log(f"step {done}/{self.total} {text} {speed}")
                metrics, since, tokens = [], time.monotonic(), 0
            self._save(done)
            if done % self.config.eval_every == 0 and done < self.total:
                self.evaluate(self.config.eval_rows)
        self._checkpoints.wait_until_finished()

    def evaluate(self, limit: int | None = None) -> dict[str, Metrics]:
        """Return (and log) the mean metrics on each held-out set, on `limit` rows or all."""
        first = self._phases[0]
        out = {}
        for name, held_out in self._held_out.items():
            found, weights = [], []
            for rows in train_data.eval_rows(held_out, first, limit):
                batch = self._batch(held_out, rows, first.length + 1)
                found.append(self._eval(self.state.params, batch))
                weights.append(float(batch.weight.sum()))
            out[name] = _mean(found, weights)
            self._log(f"held-out {name}: {_text(out[name])}")
        return out

    def close(self) -> None:
        """Stop the checkpoint threads."""
        self._checkpoints.close()

    def _batch(self, corpus: Corpus, rows: list[np.ndarray], length: int) -> Batch:
        """Return the batch of some rows on the mesh, where they are split."""
        weight, mesh = self.config.prompt_weight, self._mesh
        return corpus.batch(rows, length, weight, lambda x: jax.device_put(x, by_rows(mesh, x)))

    def _restore(self) -> int:
        """Load the latest checkpoint, if any, and return the steps done."""
        latest = self._checkpoints.latest_step()
        if latest is None:
            return 0
        like = jax.tree.map(ocp.utils.to_shape_dtype_struct, self.state)
        restored = self._checkpoints.restore(latest, args=ocp.args.StandardRestore(like))
        self.state = cast(train_step.TrainState, restored)
        self._log(f"resumed from step {latest}")
        return latest

    def _save(self, done: int) -> None:
        """Checkpoint in the background, if it is time to."""
        args = ocp.args.StandardSave(self.state)
        self._checkpoints.save(done, args=args, force=done == self.total)


def _lay_out(model: LinenLM, mesh: Mesh) -> LinenLM:
    laid = model.on(mesh)
    if laid.kv_repeat > 1:  # repeated heads would be trained apart
        heads = model.config.num_kv_heads
        raise ValueError(
            f"mesh axis model:{mesh.shape['model']} is more than num_kv_heads={heads}, and "
            f"training repeats no heads: use at most model:{heads}, and give the other devices to "
            "another axis"
        )
    return laid


def _read_data(
    data_dir: Path, held_out: Sequence[str], vocab_size: int, phases: tuple[Phase, ...], split: int
) -> tuple[Corpus, dict[str, Corpus]]:
    """Return the training tokens and the held-out sets, checked; `split`: parts of a batch."""
    train = train_data.load(data_dir, "train")
    others = {name: train_data.load(data_dir, f"val_{name}") for name in held_out}
    train_data.check(len(train), phases, split)
    for name, corpus in {"train": train, **others}.items():
        if (most := corpus.tokens.max()) >= vocab_size:
            raise ValueError(f"{name}: token {most}, but vocab_size is {vocab_size}")
    return train, others


def _mean(metrics: list[dict], weights: list[float] | None = None) -> dict[str, float]:
    """Return the means over batches, which weigh alike or as told."""
    names = metrics[0] if metrics else ()
    values = {name: [np.asarray(row[name]) for row in metrics] for name in names}
    return {name: float(np.average(found, weights=weights)) for name, found in values.items()}


def _text(metrics: Metrics) -> str:
    return " ".join(f"{name} {value:.4f}" for name, value in metrics.items())
