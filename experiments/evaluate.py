"""Any rules on any tasks, on any pair: answers, scores, perplexity, speed and energy, on record.

`python -m experiments.evaluate --config=configs/eval/quick.py --output=RUN` asks the tasks of a
config by its rules and writes a folder of rows, settings and a summary (`docs/records.md`), and
prints a table. Any field can be set on the command line: `--config.seed=1`,
`--config.strategies="('sample', 'mmtad depth=4 width=4')"`,
`--config.task='gsm8k path=test.jsonl'`.

A run that was stopped, however, goes on by the same command: complete files stay, and the one in
work goes on after its last whole batch.
"""

import hashlib
import json
import signal
import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any

from absl import flags
from ml_collections import config_flags
from tqdm import tqdm

from experiments.bench import energy, facts
from experiments.evaluation.ask import Asker
from experiments.evaluation.config import check_config, read_tasks
from experiments.evaluation.folder import RunFolder
from experiments.evaluation.points import Point, read_points
from experiments.evaluation.rows import TaskRows
from experiments.evaluation.summary import summary_lines, summary_of
from experiments.tasks.base import Problem, Task
from mtad_jax import cli
from mtad_jax.devices.sharding import make_mesh
from mtad_jax.pipeline import Pipeline


class _Terminated(BaseException):
    """The process was asked to end, as before its machine is taken away."""


def define_flags(values: flags.FlagValues, config: str | None = None) -> None:
    """Define the program's flags; `config` is that flag's default."""
    config_flags.DEFINE_config_file(
        "config", config, "What to ask and by which rules, e.g. configs/eval/quick.py; "
        "--config.seed=1 and so on change it.", flag_values=values,
    )  # fmt: skip
    flags.DEFINE_string("output", None, "Folder of the run.", flag_values=values)
    flags.DEFINE_bool("overwrite", False, "Drop an earlier run in --output.", flag_values=values)
    flags.DEFINE_bool(
        "allow_code_execution", False, "Let HumanEval and MBPP run code that the model wrote, in "
        "a process with limits.", flag_values=values,
    )  # fmt: skip


def evaluate(values: flags.FlagValues) -> int:
    """Run the program; return the exit code.

    Raises:
      ValueError: wrong input; nothing was compiled or written.
      OSError: a file cannot be read or written.
    """
    return run_by_flags(values)[0]


def run_by_flags(
    values: flags.FlagValues,
) -> tuple[int, RunFolder, dict[str, list[TaskRows]], list[dict[str, Any]]]:
    """Run the program; return its exit code, and the run with its files and summary."""
    for name in ("config", "output"):
        if values[name].value is None:
            raise ValueError(f"--{name} is missing")
    config = values.config
    check_config(config)
    tasks = read_tasks(config, allow_code=values.allow_code_execution)
    points = read_points(config.strategies, config.sweep, config.warp, config.batch_size)
    problems = {name: read_problems(name, task) for name, task in tasks.items()}
    pipe = open_models(config, points)
    with energy.open_meter(facts.devices_of(pipe)) as meter:
        askers = {
            name: [_asker(pipe, task, problems[name], point, config, meter) for point in points]
            for name, task in tasks.items()
        }
        for asker in (asker for row in askers.values() for asker in row):
            asker.check()
        idle = meter.idle_watts(config.idle_seconds) if config.idle_seconds else None
        settings = facts.run_facts(
            pipe, config=config.to_dict(), seed=config.seed, energy=meter.about(idle)
        )
        settings["problems"] = {name: _digest(found) for name, found in problems.items()}
        digests = {p.label: facts.digest_of_arrays(p.strategy) for p in points}
        settings["rules"] = {label: digest for label, digest in digests.items() if digest}
        folder = RunFolder(values.output, settings, overwrite=values.overwrite)
        folder.begin()
        return run(folder, askers)


def open_models(config: Any, points: list[Point]) -> Pipeline:
    """Open the pair that a config names.

    Raises:
      ValueError: as `Pipeline.load`; a rule that drafts without a draft.
    """
    how = {
        "mesh": make_mesh(config.mesh) if config.mesh else None,
        "shard_draft": config.shard_draft,
        "target_int8": config.target_int8,
        "draft_int8": config.draft_int8,
    }
    if not config.target:
        if config.dtype:
            raise ValueError(f"config.dtype={config.dtype} needs config.target: leave it out")
        return Pipeline.shipped(draft=config.draft or None, **how)
    for point in points:
        if point.strategy.needs_draft and not config.draft:
            raise ValueError(
                f"{point.label}: it drafts, and config.draft is empty: give a folder, or rules "
                "without a draft model"
            )
    return Pipeline.load(config.target, config.draft or None, dtype=config.dtype or None, **how)


def run(
    folder: RunFolder, askers: Mapping[str, list[Asker]]
) -> tuple[int, RunFolder, dict[str, list[TaskRows]], list[dict[str, Any]]]:
    """Ask all that is left, summarize, and print the table; see `run_by_flags`."""
    files = {
        task: [TaskRows(folder.rows(task, i, a.point.label), a) for i, a in enumerate(row)]
        for task, row in askers.items()
    }
    everything = [rows for row in files.values() for rows in row]
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        total = sum(rows.asker.batches for rows in everything)
        with tqdm(total=total, unit="batch", disable=None) as bar:
            for rows in everything:
                bar.set_description(f"{rows.asker.task.name}: {rows.asker.point.label}"[:60])
                rows.ask_all(bar.update)
    except (KeyboardInterrupt, _Terminated) as error:
        done = sum(rows.written for rows in everything)
        code = cli.INTERRUPTED if isinstance(error, KeyboardInterrupt) else cli.TERMINATED
        what = "interrupted" if code == cli.INTERRUPTED else "terminated"
        again = "the same command without --overwrite" if folder.overwrite else "the same command"
        print(f"error: {what}; {done} rows are in {folder.path}: {again} goes on", file=sys.stderr)
        return code, folder, files, []
    finally:
        signal.signal(signal.SIGTERM, before)
    source = folder.settings["energy"]["source"] or folder.settings["energy"]["reason"]
    summary = [entry for row in files.values() for entry in summary_of(row, source)]
    folder.write_summary(summary)
    print("\n".join(summary_lines(summary)))
    print(f"rows, settings and summary: {folder.path}")
    return 0, folder, files, summary


def read_problems(name: str, task: Task) -> list[Problem]:
    """Return a task's problems.

    Raises:
      ValueError: two of them have one id.
    """
    found = list(task.prompts())
    times = Counter(problem.id for problem in found)
    repeated = next((key for key, count in times.items() if count > 1), None)
    if repeated is not None:
        raise ValueError(
            f"{name}: {times[repeated]} problems have the id {repeated!r}: give each its own in "
            "the task's file"
        )
    return found


def _digest(problems: list[Problem]) -> str:
    """Return a hash of all that is asked, and of what answers are judged by."""
    said = [[p.id, p.turns, p.reference, p.shots, p.system] for p in problems]
    return hashlib.sha256(json.dumps(said, default=str).encode()).hexdigest()[:12]


def _terminate(number: int, frame: object) -> None:
    raise _Terminated


def _asker(
    pipe: Pipeline, task: Task, problems: list[Problem], point: Point, config: Any, meter: Any
) -> Asker:
    return Asker(
        pipe=pipe,
        task=task,
        problems=problems,
        point=point,
        style=config.style,
        samples=config.samples,
        max_new_tokens=config.max_new_tokens or task.max_new_tokens,
        seed=config.seed,
        meter=meter,
    )


def main(argv: list[str]) -> int:
    """Run the program on the command line's flags."""
    del argv
    return evaluate(flags.FLAGS)


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    cli.run(main)
