"""The paper's tables in miniature: each figure of the paper beside the same figure of a pair.

`python -m experiments.reproduce --output=RUN` runs `configs/eval/reproduce.py` on the shipped pair
as `experiments.evaluate` does (a stopped run goes on by the same command), then writes
`RUN/reproduce.md` and prints it. Another config: `--config=configs/eval/llama2.py`.
"""

from pathlib import Path
from typing import Any

from absl import flags

from experiments import evaluate
from experiments.evaluation import paper
from experiments.evaluation.folder import RunFolder
from experiments.evaluation.rows import TaskRows
from experiments.evaluation.summary import summary_lines
from mtad_jax import cli
from mtad_jax.checkpoints.atomic import new_file

CONFIG = Path(__file__).resolve().parents[1] / "configs/eval/reproduce.py"
REPORT = "reproduce.md"


def define_flags(values: flags.FlagValues) -> None:
    """Define the program's flags: `experiments.evaluate`'s, with a config of its own."""
    evaluate.define_flags(values, config=str(CONFIG))


def reproduce(values: flags.FlagValues) -> int:
    """Run the program; return the exit code.

    Raises:
      ValueError: as `experiments.evaluate`.
      OSError: as `experiments.evaluate`.
    """
    code, folder, files, summary = evaluate.run_by_flags(values)
    if code:
        return code
    lines = report_lines(folder, files, summary)
    path = folder.path / REPORT
    with new_file(path, overwrite=True) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(["", *lines, "", f"written: {path}"]))
    return 0


def report_lines(
    folder: RunFolder, files: dict[str, list[TaskRows]], summary: list[dict[str, Any]]
) -> list[str]:
    """Return the report as Markdown."""
    settings = folder.settings
    device, energy = settings["device"], settings["energy"]
    rows = {
        task: {file.asker.point.label: file.read() for file in group}
        for task, group in files.items()
    }
    missing = energy["source"] is None
    reasons = {"joules": "unavailable"}
    return [
        "# The paper's figures, and those of this run",
        "",
        f"`{settings['command']}`, on {device['processor'] or device['kind']}, "
        f"{device['cpu_cores']} CPU cores, {device['count']} x {device['kind']}. Ratios have 95 % "
        "intervals over problems. Agrees: clear of 1 on the paper's side and at least as far; "
        "agrees, but less: nearer to 1; not shown: 1 is in the interval. First and final "
        "abstract: of the first and the last version of arXiv 2407.09722; published logs: those "
        "that came with its code.",
        "",
        *paper.claim_lines(rows, reasons),
        "",
        *([f"Energy is unavailable: {energy['reason']}.", ""] if missing else []),
        "All strategies, the ablations of depth, width and tau among them:",
        "",
        "```",
        *summary_lines(summary),
        "```",
    ]


def main(argv: list[str]) -> int:
    """Run the program on the command line's flags."""
    del argv
    return reproduce(flags.FLAGS)


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    cli.run(main)
