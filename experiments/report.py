"""A page about runs of `experiments.evaluate`: scores, speed, acceptance, energy, texts.

`python -m experiments.report RUN... --output=DIR` reads the folders of one or more runs and writes
DIR/report.html, one file that needs no other and no network, and its pictures beside it. Everything
is made from the rows, so that a run that was cut short, or goes on, is shown as far as it is.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from experiments.flags.settings import check_least
from experiments.reporting import drawing
from experiments.reporting.page import Shown, page_html
from experiments.reporting.pictures import pictures
from experiments.reporting.runs import Run, read_runs
from mtad_jax import cli
from mtad_jax.checkpoints.atomic import new_folder
from mtad_jax.plots.base import check_matplotlib

PAGE = "report.html"


def define_flags(values: flags.FlagValues) -> None:
    """Define the program's flags."""
    flags.DEFINE_string("output", None, "Folder to make.", flag_values=values)
    flags.DEFINE_bool("overwrite", False, "Replace a report that exists.", flag_values=values)
    flags.DEFINE_integer(
        "texts", 1, "Problems of each task whose texts are shown, token by token.",
        flag_values=values,
    )  # fmt: skip


def report(values: flags.FlagValues, paths: Sequence[str]) -> None:
    """Run the program.

    Raises:
      ValueError: wrong input; nothing was written.
      OSError: a run cannot be read, or the report not written.
    """
    if not paths:
        raise ValueError("no runs are given: name one or more folders that evaluate has written")
    if not values.output:
        raise ValueError("--output is missing: give the folder to make")
    check_least(values, texts=0)
    check_matplotlib(f"--output={values.output}")
    runs = read_runs(paths)
    with new_folder(values.output, overwrite=values.overwrite, marker=PAGE) as folder:
        write_report(folder, runs, values.texts)
    print(f"written: {Path(values.output) / PAGE}")


def write_report(folder: Path, runs: Sequence[Run], texts: int) -> None:
    """Write page and pictures.

    Args:
      folder: an empty one.
      runs: what they are about.
      texts: how many problems of each task to show with their texts.
    """
    from matplotlib import rc_context

    tasks: dict[str, list[drawing.Line]] = {}
    for line in drawing.numbered(runs):
        tasks.setdefault(line.entry.task, []).append(line)
    shown: dict[str, list[Shown]] = {}
    with rc_context({"text.parse_math": False}):  # a $ in a name is no formula
        for i, (task, lines) in enumerate(tasks.items(), start=1):
            stem = re.sub(r"[^\w-]+", "-", task)
            shown[task] = []
            for picture in pictures(lines):
                file = folder / f"{i}-{stem}-{picture.name}.png"
                picture.figure.savefig(file, dpi=drawing.DPI)
                shown[task].append(Shown(file, picture.title, picture.note))
    # Half a surrogate pair, which JSON can hold, is nothing that UTF-8 has.
    page = page_html(runs, tasks, shown, texts).encode("utf-8", errors="replace")
    (folder / PAGE).write_bytes(page)


def main(argv: list[str]) -> None:
    """Run the program on the command line's flags and runs."""
    report(flags.FLAGS, argv[1:])


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    cli.run(main, positional=True)
