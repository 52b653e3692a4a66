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

import numpy as np
from absl import flags
from tqdm import tqdm

import mtad_jax
from experiments.benchmark_tasks import make_tasks
from experiments.prompts import Prompt, encode_prompts, read_prompts
from experiments.settings import (
    TEMPERATURE,
    TOP_K,
    TOP_P,
    check_models,
    define_model_flags,
    define_warp_flags,
    load_models,
    read_warp,
)
from mtad_jax import cli, recipes
from mtad_jax.atomic import new_file
from mtad_jax.calibration.candidates import shown
from mtad_jax.calibration.decide import Floor, check_floor
from mtad_jax.calibration.report import Calibration
from mtad_jax.pipeline import Pipeline

_BUILT_IN = 16  # prompts, half story openings and half questions about databases
_WARP = {"temperature": TEMPERATURE, "top_k": TOP_K, "top_p": TOP_P, "min_p": 0.0}


def define_flags(values: flags.FlagValues) -> None:
    """Define the program's flags."""
    define_model_flags(values)
    define_warp_flags(values)
    number, real, text = flags.DEFINE_integer, flags.DEFINE_float, flags.DEFINE_string
    text("prompts", None, "JSON lines with `prompt` or `prompt_ids`. Default: built-in prompts.",
         flag_values=values)  # fmt: skip
    number("max_new_tokens", 64, "Most tokens a prompt gets.", flag_values=values)
    number("batch_size", 1, "Prompts decoded together, as later in use.", flag_values=values)
    text("floor", "lossless", "Least quality: lossless; the highest perplexity allowed, as a "
         "multiple of plain decoding's, such as 1.0; or none.", flag_values=values)  # fmt: skip
    real("margin", 0.03, "Gain in speed that is worth a change.", flag_values=values)
    real("budget_s", 600.0, "Seconds after which nothing new is begun.", flag_values=values)
    text("output", None, "JSON file to write: the choice and the table.", flag_values=values)
    flags.DEFINE_bool("overwrite", False, "Replace an output that exists.", flag_values=values)
    flags.DEFINE_bool("progress", True, "Show on stderr what is done.", flag_values=values)


def calibrate(values: flags.FlagValues) -> None:
    """Run the program.

    Raises:
      ValueError: wrong input; nothing was compiled or written.
      OSError: a file cannot be read or written.
    """
    floor = read_floor(values.floor)
    warp = read_warp(values)
    check_models(values, values.draft is not None)
    _check_output(values)
    given = None if values.prompts is None else read_prompts(values.prompts)
    pipe = load_models(values)
    ids, length = _prompts(pipe, given, values.max_new_tokens)
    with tqdm(bar_format="{desc} [{elapsed}]", disable=not values.progress, leave=False) as bar:
        found = mtad_jax.calibrate(
            pipe.target.lm,
            pipe.draft.lm if pipe.draft else None,
            ids,
            length,
            floor=floor,
            margin=values.margin,
            budget_s=values.budget_s,
            batch_size=values.batch_size,
            progress=bar.set_description_str,
            warp=warp,
            max_new_tokens=values.max_new_tokens,
            eos_id=pipe.target.eos_ids,
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
    """Return the command that continues a prompt as was found best."""
    words = ["python -m experiments.generate", f"--strategy={found.name}"]
    words += [f"--{name}={shown(value)}" for name, value in found.settings.items()]
    models = ["target", "draft"] if found.choice.needs_draft else ["target"]
    for name in (*models, *_WARP):
        value = values[name].value
        if value is not None and value != _WARP.get(name):
            words.append(f"--{name}={shlex.quote(str(value))}")
    return " ".join([*words, '--prompt="..."'])


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
    pipe: Pipeline, given: list[Prompt] | None, max_new_tokens: int
) -> tuple[np.ndarray, list[int]]:
    """Return the prompts' ids, padded on the right, and their lengths."""
    if given is None:
        if pipe.target.tokenizer is None:
            raise ValueError(
                "the target has no tokenizer files and the built-in prompts are text: give "
                "--prompts=FILE.jsonl with prompt_ids"
            )
        tasks = make_tasks(_BUILT_IN, 0, None)
        given = [Prompt(task.prompt, f"{task.kind} prompt {i}") for i, task in enumerate(tasks)]
    strategy = recipes.sample()
    ids = encode_prompts(pipe, given, strategy=strategy, max_new_tokens=max_new_tokens)
    padded = np.zeros((len(ids), max(map(len, ids))), np.int32)
    for row, prompt in zip(padded, ids, strict=True):
        row[: len(prompt)] = prompt
    return padded, [len(prompt) for prompt in ids]


def main(argv: list[str]) -> None:
    """Run the program on the command line's flags."""
    del argv
    calibrate(flags.FLAGS)


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    cli.run(main)
