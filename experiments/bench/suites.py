"""What `experiments.benchmark` compares: the suites, and what the flags make of them."""

import dataclasses
from collections.abc import Callable, Sequence

from absl import flags

from experiments.bench import frontier, report
from experiments.bench import rules as every_rule
from experiments.bench.measure import Rule, Sample
from experiments.flags.rules import read_candidates
from experiments.flags.settings import check_least, parse_ids
from experiments.flags.warp import read_warp
from experiments.rows.prompts import Prompt, read_unseeded
from experiments.tasks.shipped import OPENINGS, Task, find_stories, make_tasks

# The suites that a flag means something to.
_MEANINGFUL = {
    "depths": ("depths", "frontier"), "widths": ("depths", "frontier"), "tau": ("depths", "rules"),
    "rule": ("rules",), "plot": ("frontier",),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Suite:
    """A set of rules to compare, and how.

    Attributes:
      openings, questions: how many story openings and questions about databases it asks.
      rules: what is compared, from the flags.
      lines: what is printed of the samples.
    """

    openings: int
    questions: int
    rules: Callable[[flags.FlagValues], list[Rule]]
    lines: Callable[[list[Rule], list[Sample], dict[str, float]], list[str]]


def suite_of(values: flags.FlagValues) -> Suite:
    """Return the suite that the flags ask for.

    Raises:
      ValueError: numbers of prompts out of range, or flags that mean nothing to the suite.
    """
    suite = SUITES[values.suite]
    for flag, suites in _MEANINGFUL.items():
        if values[flag].present and values.suite not in suites:
            given = values[flag].value
            shown = ",".join(map(str, given)) if isinstance(given, list) else given
            raise ValueError(
                f"--{flag}={shown} means nothing to --suite={values.suite}: leave it out or use "
                + " or ".join(f"--suite={name}" for name in suites)
            )
    for flag in ("openings", "questions", "data_dir"):
        if (given := values[flag].value) is not None and values.prompts is not None:
            raise ValueError(
                f"--{flag}={given} is about built-in prompts: leave it or "
                f"--prompts={values.prompts} out"
            )
    check_least(values, openings=0, questions=0)
    for flag in ("openings", "questions"):
        if (number := values[flag].value) is not None:
            suite = dataclasses.replace(suite, **{flag: number})
    if not suite.openings + suite.questions:
        raise ValueError("--openings=0 and --questions=0 leave no prompts: ask at least one")
    if values.data_dir is None and suite.openings > len(OPENINGS):
        raise ValueError(
            f"--openings={suite.openings} must be <= {len(OPENINGS)}, the built-in ones, since "
            "repeats would pass for more evidence than they are: give --data_dir=DIR for others"
        )
    if values.data_dir is not None and not suite.openings:
        raise ValueError(
            f"--data_dir={values.data_dir} has stories, and --suite={values.suite} asks none: give "
            "--openings=N or leave it out"
        )
    check_least(values, repeats=1, max_new_tokens=1)
    return suite


def read_tasks(values: flags.FlagValues, suite: Suite) -> tuple[list[Task], list[Prompt]]:
    """Return the tasks, and their prompts as errors name them.

    Raises:
      ValueError: a row of the file cannot be used; fewer prompts than passes.
      OSError: the file, or the folder of stories, cannot be read.
    """
    if values.prompts is not None:
        prompts = read_unseeded(values.prompts, "every rule draws with the run's seed")
        tasks = [Task("own", str(prompt.value)) for prompt in prompts]
    else:
        data_dir = find_stories(values.data_dir)
        tasks = make_tasks(suite.openings, suite.questions, values.seed, data_dir)
        prompts = [Prompt(task.prompt, f"{task.kind} prompt {i}") for i, task in enumerate(tasks)]
    if values.repeats > len(tasks):
        raise ValueError(
            f"--repeats={values.repeats} must be <= {len(tasks)}, the number of prompts"
        )
    return tasks, prompts


def judged(samples: list[Sample], tasks: Sequence[Task]) -> list[Sample]:
    """Return the samples with what their tasks say of them."""
    return [dataclasses.replace(s, correct=tasks[s.prompt].judge(s.text)) for s in samples]


def _depths_rules(values: flags.FlagValues) -> list[Rule]:
    depths, widths = _depths(values, report.DEPTHS), _widths(values)
    return report.make_rules(read_warp(values), depths, widths or list(report.WIDTHS), values.tau)


def _frontier_rules(values: flags.FlagValues) -> list[Rule]:
    return frontier.make_rules(read_warp(values), _depths(values, frontier.DEPTHS), _widths(values))


def _depths(values: flags.FlagValues, default: tuple[int, ...]) -> list[int]:
    given = values.depths
    depths = sorted(set(default if given is None else parse_ids("depths", given)))
    if max(depths) < 2:
        raise ValueError(f"--depths={','.join(map(str, depths))} must hold a depth of 2 or more")
    return depths


def _widths(values: flags.FlagValues) -> list[int]:
    """Return the widths that were given; none: the suite's own."""
    given = values.widths
    return [] if given is None else sorted(set(parse_ids("widths", given)))


SUITES = {
    "depths": Suite(
        24, 24, _depths_rules,
        lambda rules, samples, compile_seconds: [
            *report.table_lines(rules, samples, compile_seconds), "",
            *report.summary_lines(samples),
        ],
    ),
    "rules": Suite(
        0, 300,
        lambda values: every_rule.make_rules(
            read_warp(values), values.tau, read_candidates(values)
        ),
        lambda rules, samples, _: every_rule.table_lines(rules, samples),
    ),
    "frontier": Suite(
        0, 300, _frontier_rules, lambda rules, samples, _: frontier.lines_of(rules, samples)
    ),
}  # fmt: skip
