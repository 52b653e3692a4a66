"""Measure which decoding rule pays on these models, this machine and these prompts.

`python -m experiments.calibrate` prints a table of all rules, the choice with its measured gain,
and the command line that uses it. Plain decoding is chosen where nothing beats it.
`docs/calibrate.md` says how it is measured.
"""

import dataclasses
import json
import math
import os
import shlex
from pathlib import Path
from typing import Any

from absl import flags
from tqdm import tqdm

from experiments import generate
from experiments.flags.models import (
    BUILT_IN_ARE_TEXT,
    MESH_FLAGS,
    check_models,
    check_reads_text,
    define_model_flags,
    load_models,
)
from experiments.flags.rules import read_candidates
from experiments.flags.settings import define_control_flags, read_controls, setting_flags
from experiments.flags.warp import (
    define_draft_warp_flags,
    define_warp_flags,
    first_draft_warp_flag,
    read_draft_warp,
    read_warp,
)
from experiments.launch import supervise
from experiments.rows.prompts import Prompt, encode_prompts, read_unseeded
from experiments.tasks.shipped import make_tasks
from mtad_jax import cli, recipes
from mtad_jax.calibration.candidates import default_candidates, shown
from mtad_jax.calibration.decide import Floor, check_floor
from mtad_jax.calibration.report import Calibration
from mtad_jax.checkpoints.atomic import new_file
from mtad_jax.pipeline import Pipeline
from mtad_jax.registry import flag_of

_BUILT_IN = 16  # prompts, half story openings and half questions about databases


def define_flags(values: flags.FlagValues) -> None:
    """Define the program's flags."""
    define_model_flags(values)
    define_warp_flags(values)
    define_draft_warp_flags(values)
    define_control_flags(values, max_new_tokens=64)
    number, real, text = flags.DEFINE_integer, flags.DEFINE_float, flags.DEFINE_string
    text("prompts", None, "JSON lines with `prompt` or `prompt_ids`. Default: built-in prompts.",
         flag_values=values)  # fmt: skip
    number("batch_size", 1, "Prompts decoded together, as later in use.", flag_values=values)
    flags.DEFINE_multi_string(
        "rule", None, "A rule that competes beside those of docs/calibrate.md, with its settings: "
        "'module:name depth=3'; repeatable.", flag_values=values,
    )  # fmt: skip
    text("floor", "lossless", "Least quality: lossless; the highest perplexity allowed, as a "
         "multiple of plain decoding's, such as 1.0; or none.", flag_values=values)  # fmt: skip
    real("margin", 0.03, "Gain in speed that is worth a change.", flag_values=values)
    real("budget_s", 600.0, "Seconds after which nothing new is begun.", flag_values=values)
    text("output", None, "JSON file to write: the choice and the table.", flag_values=values)
    flags.DEFINE_bool("overwrite", False, "Replace an output that exists.", flag_values=values)
    flags.DEFINE_bool("progress", True, "Show on stderr what is done.", flag_values=values)
    supervise.define_host_flags(values)


def calibrate(values: flags.FlagValues) -> None:
    """Run the program.

    Raises:
      ValueError: wrong input; nothing was compiled or written.
      OSError: a file cannot be read or written.
    """
    floor = read_floor(values.floor)
    settings = _read_settings(values)
    check_models(values, values.draft is not None)
    rules = read_candidates(values)
    _check_output(values)
    given = (
        None
        if values.prompts is None
        else read_unseeded(
            values.prompts, "a calibration draws every text several times, with seeds of its own"
        )
    )
    pipe = load_models(values)
    ids = _prompts(pipe, values.target, given, values.max_new_tokens)
    with tqdm(bar_format="{desc} [{elapsed}]", disable=not values.progress, leave=False) as bar:
        found = pipe.calibrate(
            ids,
            candidates=[*rules, *default_candidates(draft=pipe.draft is not None)],
            floor=floor,
            margin=values.margin,
            budget_s=values.budget_s,
            batch_size=values.batch_size,
            progress=bar.set_description_str,
            **settings,
        )
    command = command_line(found, values)
    print(f"{found}\n\n{command}")
    if values.output is not None:
        with new_file(values.output, overwrite=values.overwrite) as path:
            path.write_text(json.dumps(as_json(found, command), indent=1) + "\n", encoding="utf-8")


def read_floor(text: str) -> Floor:
    """Return the floor that --floor asks for.

    Raises:
      ValueError: neither lossless, nor none, nor a number of at least 1.
    """
    if text in ("lossless", "none"):
        return None if text == "none" else text
    try:
        floor = float(text)
    except ValueError:
        floor = math.nan
    if math.isnan(floor):
        raise ValueError(f"--floor={text} must be lossless, none, or a number >= 1 such as 1.0")
    check_floor(floor)
    return floor


def command_line(found: Calibration, values: flags.FlagValues) -> str:
    """Return the command that decodes as was found best: all that differs from its defaults."""
    words = ["python -m experiments.generate", f"--strategy={found.name}"]
    words += [f"--{flag_of(name)}={shown(value)}" for name, value in found.settings.items()]
    theirs = flags.FlagValues()
    generate.define_flags(theirs)
    for name in (*setting_flags(), *MESH_FLAGS, "batch_size"):
        without = "draft" in name and not found.choice.needs_draft
        if name in values and not without and values[name].value != theirs[name].value:
            words.append(shlex.quote(values[name].serialize()))
    if values.batch_size == 1:
        return " ".join([*words, '--prompt="..."'])
    prompts = "IN.jsonl" if values.prompts is None else shlex.quote(values.prompts)
    return " ".join([*words, f"--prompts={prompts} --output=OUT.jsonl"])


def as_json(found: Calibration, command: str) -> dict[str, Any]:
    """Return all that was found as JSON holds it."""
    rows = [
        {
            "strategy": row.candidate.name,
            "settings": dict(row.candidate.settings),
            "predicted": row.predicted,
            "speed": row.speed and dataclasses.asdict(row.speed),
            "quality": row.quality and dataclasses.asdict(row.quality),
            "verdict": row.verdict,
        }
        for row in found.rows
    ]
    return {
        "strategy": found.name,
        "settings": dict(found.settings),
        "command": command,
        "speed": dataclasses.asdict(found.speed),
        "quality": dataclasses.asdict(found.quality),
        "plain_tokens_per_second": found.plain_tokens_per_second,
        "floor": found.floor,
        "margin": found.margin,
        "programs": found.programs,
        "seconds": found.seconds,
        "rows": rows,
    }


def _read_settings(values: flags.FlagValues) -> dict[str, Any]:
    """Return the settings of the texts, as `mtad_jax.calibrate` takes them.

    Raises:
      ValueError: flags contradict each other, or a value is out of range.
    """
    settings = read_controls(values)
    warp = read_warp(values)
    draft_warp = read_draft_warp(values, warp)
    if draft_warp is not None and values.target is not None and values.draft is None:
        raise ValueError(
            f"{first_draft_warp_flag(values)} means nothing without a draft model: leave it out or "
            "give --draft=DIR"
        )
    return settings | {"warp": warp, "draft_warp": draft_warp}


def _check_output(values: flags.FlagValues) -> None:
    """Raise ValueError where the output may not be written; before any work."""
    if values.output is None:
        if values.overwrite:
            raise ValueError("--overwrite needs --output=FILE.json")
        return
    if Path(values.output).is_dir():
        raise ValueError(f"{values.output}: --output is a folder: give a file name")
    if os.path.lexists(values.output) and not values.overwrite:
        raise ValueError(f"{values.output}: output exists: use another name or --overwrite")


def _prompts(
    pipe: Pipeline, target: str | None, given: list[Prompt] | None, max_new_tokens: int
) -> list[list[int]]:
    """Return the prompts' ids."""
    if given is None:
        check_reads_text(pipe.target, target, BUILT_IN_ARE_TEXT)
        tasks = make_tasks(_BUILT_IN // 2, _BUILT_IN // 2, 0)
        given = [Prompt(task.prompt, f"{task.kind} prompt {i}") for i, task in enumerate(tasks)]
    strategy = recipes.sample()
    return encode_prompts(pipe, given, strategy=strategy, max_new_tokens=max_new_tokens)


def main(argv: list[str]) -> None:
    """Run the program on the command line's flags."""
    del argv
    supervise.check_alone(flags.FLAGS, "times decide a calibration, and they differ between hosts")
    calibrate(flags.FLAGS)


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    cli.run(main)
