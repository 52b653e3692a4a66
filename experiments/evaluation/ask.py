"""One rule on one task: problems in batches, turn by turn, every answer judged, a row each."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import jax

from experiments.bench import measure
from experiments.bench.energy import Meter
from experiments.evaluation.points import Point
from experiments.flags.settings import RunSettings
from experiments.rows.completion import row_of
from experiments.tasks.base import Problem, Task, conversation
from mtad_jax.completions import Completion
from mtad_jax.decode.checks import check_positions, check_rows
from mtad_jax.pipeline import Pipeline

MOST_TURNS = 64


@dataclasses.dataclass
class Asker:
    """Asks one task's problems by one rule.

    Attributes:
      pipe: the models.
      task: where the problems are from.
      problems: what is asked.
      point: the rule, its warp and its batch size.
      style: "plain" or "chat".
      samples: texts a problem.
      max_new_tokens: most tokens of an answer.
      seed: of all draws. A text's random stream is that of its problem, sample and turn, so that
        neither the batch size nor a resumed run changes it.
      meter: of energy.
    """

    pipe: Pipeline
    task: Task
    problems: Sequence[Problem]
    point: Point
    style: str
    samples: int
    max_new_tokens: int
    seed: int
    meter: Meter
    _compiled: set[tuple[int, int, int]] = dataclasses.field(default_factory=set, init=False)

    @property
    def batches(self) -> int:
        """How many batches there are."""
        return -(-len(self.problems) * self.samples // self.point.batch_size)

    def rows_in(self, batch: int) -> int:
        """Return how many rows a batch has: one a turn of each of its texts."""
        return sum(len(self.problems[unit // self.samples].turns) for unit in self._units(batch))

    def ask(self, batch: int) -> list[dict[str, Any]]:
        """Return a batch's rows, text by text and turn by turn; see `docs/records.md`."""
        units = self._units(batch)
        answers: dict[int, list[str]] = {unit: [] for unit in units}
        rows: dict[int, list[dict[str, Any]]] = {unit: [] for unit in units}
        for turn in range(max(len(self._problem(unit).turns) for unit in units)):
            asked = [unit for unit in units if turn < len(self._problem(unit).turns)]
            prompts = [self.prompt(self._problem(unit), answers[unit]) for unit in asked]
            fits = [self._fits(ids) for _, ids in prompts]
            chosen = [unit for unit, ok in zip(asked, fits, strict=True) if ok]
            told = [prompt for prompt, ok in zip(prompts, fits, strict=True) if ok]
            for unit, row in zip(chosen, self._decode(chosen, told, turn, batch), strict=True):
                rows[unit].append(row)
                answers[unit].append(row["text"])
            for unit, (text, ids), ok in zip(asked, prompts, fits, strict=True):
                if not ok:
                    rows[unit].append(self._named(unit, turn, batch) | _no_room(text, ids))
                    answers[unit].append("")
        for unit in units:
            rows[unit][-1]["scores"] = self.task.score(self._problem(unit), answers[unit])
        return [row for unit in units for row in rows[unit]]

    def prompt(self, problem: Problem, answers: Sequence[str]) -> tuple[str, list[int]]:
        """Return the next turn's prompt as text and as token ids.

        Raises:
          ValueError: the model has no chat template, or its template refuses the conversation.
        """
        messages = conversation(problem, answers)
        if self.style == "chat":
            text = self.pipe.render(messages)
            return text, self.pipe.encode_rendered(text)
        text = self.task.plain(messages)
        return text, self.pipe.encode(text)

    def settings(self) -> RunSettings:
        """Return what a batch is decoded with."""
        return RunSettings(
            strategy=self.point.strategy,
            warp=self.point.warp,
            draft_warp=self.point.draft_warp,
            max_new_tokens=self.max_new_tokens,
            min_new_tokens=0,
            eos_id=None,
            stop=self.task.stop if self.style == "plain" else (),
            banned_ids=None,
            repetition_penalty=None,
            samples=1,
            seed=self.seed,
        )

    def check(self) -> None:
        """Check every problem's first prompt, and a whole batch, before anything is compiled.

        Raises:
          ValueError: one that the models cannot take, or the rule not the settings; names it.
        """
        call = self.settings().call()
        longest: list[int] = []
        for problem in self.problems:
            if len(problem.turns) > MOST_TURNS:
                raise ValueError(
                    f"{self.task.name} {problem.id}: {len(problem.turns)} turns, more than "
                    f"{MOST_TURNS}"
                )
            try:
                _, ids = self.prompt(problem, ())
                self.pipe.check([ids], **call)
            except ValueError as error:
                raise ValueError(f"{self.task.name} {problem.id}: {error}") from error
            longest = max(longest, ids, key=len)
        try:
            check_rows(self.point.batch_size, self.pipe.target.lm.mesh)
            self.pipe.check([longest] * self.point.batch_size, **call)
        except ValueError as error:
            size = self.point.batch_size
            raise ValueError(f"{self.point.label}, batch_size={size}: {error}") from error

    def _units(self, batch: int) -> range:
        """Return the texts of a batch: problem * samples + sample."""
        first, size = batch * self.point.batch_size, self.point.batch_size
        return range(first, min(first + size, len(self.problems) * self.samples))

    def _problem(self, unit: int) -> Problem:
        return self.problems[unit // self.samples]

    def _fits(self, ids: list[int]) -> bool:
        """Whether a later turn's conversation still has room; a first one's was checked."""
        pipe, strategy = self.pipe, self.point.strategy
        draft = pipe.draft.lm if pipe.draft and strategy.needs_draft else None
        try:
            check_positions(
                pipe.target.lm, draft, len(ids), self.max_new_tokens, strategy.lookahead
            )
        except ValueError:
            return False
        return True

    def _decode(
        self, units: list[int], prompts: list[tuple[str, list[int]]], turn: int, batch: int
    ) -> list[dict[str, Any]]:
        """Decode one turn of some texts; the batch is filled up, so that sizes stay the same."""
        if not units:
            return []
        spare = self.point.batch_size - len(units)
        ids = [ids for _, ids in prompts] + [prompts[-1][1]] * spare
        streams = [unit * MOST_TURNS + turn for unit in units] + [
            units[-1] * MOST_TURNS + turn
        ] * spare
        call: dict[str, Any] = self.settings().call() | {"row_ids": streams}
        compile_seconds = self._warm_up(ids)
        with self.meter.window() as energy:
            timed = self.pipe.timed(ids, **call)
        share = len(units)
        joules = None if energy.joules is None else energy.joules / share
        return [
            self._named(unit, turn, batch)
            | {"prompt": text}
            | _kept(row)
            | {
                "scores": {},
                "prefill_seconds": timed.prefill_seconds / share,
                "decode_seconds": timed.seconds / share,
                "joules": joules,
                "compile_seconds": compile_seconds / share,
                "peak_memory_bytes": peak_memory(),
            }
            for unit, (text, _), row in zip(units, prompts, timed.completions, strict=False)
        ]

    def _warm_up(self, ids: list[list[int]]) -> float:
        """Compile what a batch runs if that is still to do; return the seconds that it took."""
        size = measure.sizes(ids, self.settings())
        if size in self._compiled:
            return 0.0
        begin = time.perf_counter()
        measure.warm_up(self.pipe, ids, self.settings())
        self._compiled.add(size)
        return time.perf_counter() - begin

    def _named(self, unit: int, turn: int, batch: int) -> dict[str, Any]:
        """Return what tells a row from the others."""
        problem = self._problem(unit)
        return {
            "task": self.task.name,
            "strategy": self.point.label,
            "id": problem.id,
            "category": problem.category,
            "turn": turn,
            "sample": unit % self.samples,
            "batch": batch,
        }


def _kept(row: Completion) -> dict[str, Any]:
    """Return a text as the records have it."""
    rounds = row.stats.rounds
    found = row_of(row)
    found["stats"]["accepted_at"] = [
        round(share * rounds) for share in row.stats.acceptance_by_position
    ]
    found["pieces"] = row.pieces or None
    found["blocks"] = [
        [block.start, block.tokens, block.accepted, block.candidate] for block in row.blocks
    ]
    return found


def _no_room(text: str, ids: list[int]) -> dict[str, Any]:
    """Return the row of a turn whose conversation has grown past the model's positions."""
    return {
        "prompt": text, "prompt_ids": ids, "tokens": [], "text": "", "logp_raw": [], "logp": [],
        "stats": {"rounds": 0, "accepted": 0, "drafted": 0, "accepted_at": [], "endings": {}},
        "pieces": None, "blocks": [], "finish_reason": "positions", "scores": {},
        "prefill_seconds": 0.0, "decode_seconds": 0.0, "joules": None, "compile_seconds": 0.0,
        "peak_memory_bytes": None,
    }  # fmt: skip


def peak_memory() -> int | None:
    """Return the most bytes that the first device has held so far; None where it does not say."""
    stats = jax.devices()[0].memory_stats()
    return None if stats is None else stats.get("peak_bytes_in_use")
