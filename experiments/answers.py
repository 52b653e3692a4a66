"""How many questions about unseen databases each model of a pair answers right by itself, greedily.

`python -m experiments.answers` prints the shares by number of tables and by form of the query, of
the shipped pair or of `--target` and `--draft`.
"""

from collections.abc import Callable, Iterable

from absl import flags

from experiments.bench.scores import wilson
from experiments.flags.models import check_reads_text, define_model_flags, load_models
from experiments.flags.settings import check_least
from experiments.tasks.shipped import Task, make_tasks
from experiments.tasks.text_to_sql import Example
from mtad_jax import Pipeline, Warp, cli, recipes

COLD = Warp(temperature=0.0)


def define_flags(values: flags.FlagValues) -> None:
    """Define the program's flags."""
    define_model_flags(values)
    number = flags.DEFINE_integer
    number("questions", 1000, "How many to ask.", flag_values=values)
    number("max_new_tokens", 100, "Most tokens of an answer.", flag_values=values)
    number("batch_size", 50, "Questions asked together.", flag_values=values)
    number("seed", 0, "Seed of the questions.", flag_values=values)


def answers(values: flags.FlagValues) -> None:
    """Run the program.

    Raises:
      ValueError: wrong input; nothing was compiled.
    """
    check_least(values, questions=1, max_new_tokens=1, batch_size=1)
    pipe = load_models(values)
    check_reads_text(pipe.target, values.target, "the questions are text")
    tasks = make_tasks(0, values.questions, values.seed)
    right = {"target": _right(Pipeline(pipe.target), tasks, values)}
    if pipe.draft is not None:
        check_reads_text(pipe.draft, values.draft, "the questions are text")
        right["draft"] = _right(Pipeline(pipe.draft), tasks, values)
    print("\n".join(table_lines(tasks, right)))


def _right(pipe: Pipeline, tasks: list[Task], values: flags.FlagValues) -> list[bool]:
    rows = pipe(
        [task.prompt for task in tasks], strategy=recipes.greedy(), warp=COLD,
        max_new_tokens=values.max_new_tokens, batch_size=values.batch_size,
    )  # fmt: skip
    return [bool(task.judge(row.text)) for task, row in zip(tasks, rows, strict=True)]


def table_lines(tasks: list[Task], right: dict[str, list[bool]]) -> list[str]:
    """Return the shares of right answers: all, by number of tables, by form of the query."""
    groups: dict[str, list[int]] = {"all": list(range(len(tasks)))}
    groups |= _grouped(tasks, lambda example: f"tables: {len(example.tables)}")
    groups |= _grouped(tasks, lambda example: example.form)
    lines = [f"{'greedy answers':<16}{'questions':>10}" + "".join(f"{n:>24}" for n in right)]
    for name, members in groups.items():
        shares = "".join(f"{_share(found[i] for i in members):>24}" for found in right.values())
        lines.append(f"{name:<16}{len(members):>10}{shares}")
    return [*lines, "", "right: the rows of the query are those asked for (95 % Wilson intervals)"]


def _grouped(tasks: list[Task], key: Callable[[Example], str]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for i, task in enumerate(tasks):
        assert task.example is not None
        groups.setdefault(key(task.example), []).append(i)
    return dict(sorted(groups.items()))


def _share(found: Iterable[bool]) -> str:
    marks = list(found)
    low, high = wilson(sum(marks), len(marks))
    return f"{sum(marks) / len(marks):.1%} ({low:.0%} to {high:.0%})"


def main(argv: list[str]) -> None:
    """Run the program on the command line's flags."""
    del argv
    answers(flags.FLAGS)


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    cli.run(main)
