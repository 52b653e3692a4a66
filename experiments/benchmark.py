"""Speed and quality of the decoding rules side by side, batch 1.

`python -m experiments.benchmark` prints a table and what it says about the project's aims;
`--suite=rules` prints one of every rule; `--suite=frontier` one of many settings of MTAD and MMTAD
between greedy speculation and beam search, and draws it. Timed is the decode loop alone, after
warm-up, with everything waited for; prefill and compiling are measured apart. Rules are
interleaved, and each pass over them has its own prompts: story openings, and questions about
databases that training has not seen; or those of `--prompts=FILE.jsonl`. Texts end where the model
ends them: tokens are those that a user gets.
"""

import dataclasses
import os
import platform
from collections.abc import Callable
from importlib import metadata
from typing import Any

import jax
from absl import flags
from tqdm import tqdm

from experiments.bench import frontier, plot
from experiments.bench import rules as benchmark_rules
from experiments.bench.measure import Bench, Rule, Sample
from experiments.bench.report import summary_lines, table_lines
from experiments.flags.models import INT8_FLAGS, MESH_FLAGS, define_model_flags, load_models
from experiments.flags.rules import read_candidates
from experiments.flags.settings import parse_ids
from experiments.flags.warp import TAU, define_warp_flags, read_warp
from experiments.launch import supervise
from experiments.rows.output import NoWriter, RowWriter
from experiments.rows.prompts import Prompt, encode_prompts, read_unseeded
from experiments.tasks.shipped import Task, find_stories, make_tasks
from mtad_jax import cli
from mtad_jax.decode.request import Request
from mtad_jax.decode.warp import Warp
from mtad_jax.devices.hosts import is_first

BEAM_WIDTH = 4
DEPTHS, WIDTHS = (1, 2, 3, 4, 6), (1, 2, 4)
FRONTIER_DEPTHS, FRONTIER_WIDTHS = (2, 4, 6, 8), (2, 4)
# The suites that a flag means something to.
_MEANINGFUL = {
    "depths": ("aims", "frontier"), "widths": ("aims", "frontier"), "rule": ("rules",),
    "plot": ("frontier",),
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
        given = values[flag].value
        if given and values.suite not in suites:
            shown = ",".join(map(str, given)) if isinstance(given, list) else given
            raise ValueError(
                f"--{flag}={shown} means nothing to --suite={values.suite}: leave it out or use "
                + " or ".join(f"--suite={name}" for name in suites)
            )
    for flag in ("openings", "questions"):
        number = values[flag].value
        if number is None:
            continue
        if values.prompts is not None:
            raise ValueError(
                f"--{flag}={number} counts built-in prompts: leave it or --prompts={values.prompts}"
                " out"
            )
        if number < 0:
            raise ValueError(f"--{flag}={number} must be >= 0")
        suite = dataclasses.replace(suite, **{flag: number})
    if not suite.openings + suite.questions:
        raise ValueError("--openings=0 and --questions=0 leave no prompts: ask at least one")
    for name in ("repeats", "max_new_tokens"):
        if (number := getattr(values, name)) < 1:
            raise ValueError(f"--{name}={number} must be >= 1")
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


def define_flags(values: flags.FlagValues) -> None:
    """Define the program's flags."""
    define_model_flags(values)
    define_warp_flags(values)
    number, items, text = flags.DEFINE_integer, flags.DEFINE_list, flags.DEFINE_string
    flags.DEFINE_enum(
        "suite", "aims", tuple(SUITES), "aims: depths and widths of speculative sampling, MTAD and "
        "MMTAD; rules: every rule, one setting each; frontier: MTAD and MMTAD, bonus drawn and "
        "chosen, beside greedy speculation and beam search.", flag_values=values,
    )  # fmt: skip
    for name, what in (("openings", "Built-in story openings"), ("questions", "Questions")):
        defaults = ", ".join(f"{getattr(s, name)} of {suite}" for suite, s in SUITES.items())
        number(name, None, f"{what} to ask. Default: {defaults}.", flag_values=values)
    text("prompts", None, "Prompts of your own instead: JSON lines with `prompt` or `prompt_ids`.",
         flag_values=values)  # fmt: skip
    text("plot", None, "Picture of --suite=frontier to write: a .png, .svg or .pdf.",
         flag_values=values)  # fmt: skip
    number("repeats", 6, "Passes over the rules, a share of prompts each.", flag_values=values)
    number("max_new_tokens", 100, "Most tokens a prompt gets.", flag_values=values)
    number("seed", 0, "Seed of prompts and draws.", flag_values=values)
    items("depths", None, "K of speculative sampling, MTAD, MMTAD. Default: "
          f"{str(DEPTHS)[1:-1]}.", flag_values=values)  # fmt: skip
    items("widths", None, f"W of MTAD and MMTAD. Default: {str(WIDTHS)[1:-1]}.", flag_values=values)
    flags.DEFINE_float("tau", TAU, "Threshold of MTAD and MMTAD.", flag_values=values)
    flags.DEFINE_multi_string(
        "rule", None, "Another rule for --suite=rules, with its settings: 'module:name depth=3'; "
        "repeatable.", flag_values=values,
    )  # fmt: skip
    text("data_dir", None, "Folder with corpora/fairytaleqa/test.txt. Default: built-in openings.",
         flag_values=values)  # fmt: skip
    text("output", None, "JSON lines to write: settings, then every sample.", flag_values=values)
    flags.DEFINE_bool("overwrite", False, "Replace an output that exists.", flag_values=values)
    supervise.define_host_flags(values)


def make_rules(warp: Warp, depths: list[int], widths: list[int], tau: float) -> list[Rule]:
    """Return the rules to compare, plain sampling first.

    MTAD and MMTAD start at depth 2: at depth 1 there is no joint. Drawn beams ("draw=sample") are
    shown at one depth. MTAD is shown with the widest beams only, MMTAD with all.
    """
    rules = [Rule.of("sample", warp)]
    rules += [Rule.of("speculative", warp, depth=k) for k in depths]
    joint = [k for k in depths if k > 1]
    middle = joint[-2:][:1]  # one below the deepest, where there are two
    at, wide = benchmark_rules.tau_setting(tau), max(widths)
    for name, every in (("mtad", [wide]), ("mmtad", widths)):
        grid = [(k, w, {}) for k in joint for w in every]
        grid += [(k, w, {"draw": "sample"}) for k in middle for w in every]
        rules += [Rule.of(name, warp, depth=k, width=w, **at, **draw) for k, w, draw in grid]
    rules.append(Rule.of("greedy", Warp(temperature=0.0)))
    rules += benchmark_rules.cooler_rules(warp)  # for honesty
    rules.append(Rule.of("beam", warp, width=min(BEAM_WIDTH, warp.top_k or BEAM_WIDTH)))
    return rules


def benchmark(values: flags.FlagValues) -> None:
    """Run the program.

    Raises:
      ValueError: wrong input.
      OSError: the output cannot be written.
    """
    suite = suite_of(values)
    plot.check_plot(values.plot)
    rules = _read_rules(values, suite)
    tasks, prompts = read_tasks(values, suite)
    writer = None
    if values.output is not None:
        kind = RowWriter if is_first() else NoWriter
        writer = kind(values.output, {}, overwrite=values.overwrite)
        writer.check()
    elif values.overwrite:
        raise ValueError("--overwrite needs --output=FILE.jsonl")
    bench = _open(values, tasks, prompts, rules)
    print(f"{_machine()}\n{_shown_tasks(values, tasks)}")
    compile_seconds, samples = measure(bench, tasks, rules, values.repeats)
    print("\n".join(suite.lines(rules, samples, compile_seconds)))
    if values.plot is not None and is_first():
        plot.draw(values.plot, rules, samples)
        print(f"drawn: {values.plot}")
    if writer is not None:
        with writer:
            about = _about(values, tasks, rules)
            writer.write([about | {"compile_seconds": compile_seconds}])
            writer.write([dataclasses.asdict(sample) for sample in samples])


def measure(
    bench: Bench, tasks: list[Task], rules: list[Rule], repeats: int
) -> tuple[dict[str, float], list[Sample]]:
    """Compile, then run all rules, with a progress bar; return compile seconds and samples."""
    quiet = not is_first()
    with tqdm(total=len(rules), desc="compiling", leave=False, disable=quiet) as bar:
        compile_seconds = {}
        for rule in rules:
            compile_seconds[rule.label] = bench.compile(rule)
            bar.update()
    total = len(rules) * len(tasks)
    with tqdm(total=total, desc="measuring", leave=False, disable=quiet) as bar:
        samples = bench.interleaved(rules, repeats, bar.update)
    return compile_seconds, judged(samples, tasks)


def judged(samples: list[Sample], tasks: list[Task]) -> list[Sample]:
    """Return the samples with what their tasks say of them."""
    return [dataclasses.replace(s, correct=tasks[s.prompt].judge(s.text)) for s in samples]


def _read_rules(values: flags.FlagValues, suite: Suite) -> list[Rule]:
    """Return the rules that the flags ask for, checked."""
    rules = suite.rules(values)
    for rule in rules:
        rule.strategy.check(Request(top_k=rule.warp.top_k, draft_top_k=rule.warp.top_k))
    return rules


def _aims_rules(values: flags.FlagValues) -> list[Rule]:
    """Return the rules of the suite `aims`."""
    depths, widths = _sizes(values, "depths", DEPTHS), _sizes(values, "widths", WIDTHS)
    if max(depths) < 2:
        raise ValueError(f"--depths={','.join(map(str, depths))} must hold a depth of 2 or more")
    return make_rules(read_warp(values), depths, widths, values.tau)


def _sizes(values: flags.FlagValues, name: str, default: tuple[int, ...]) -> list[int]:
    given = values[name].value
    return sorted(set(default if given is None else parse_ids(name, given)))


SUITES = {
    "aims": Suite(
        24, 24, _aims_rules,
        lambda rules, samples, compile_seconds: [
            *table_lines(rules, samples, compile_seconds), "", *summary_lines(samples)
        ],
    ),
    "rules": Suite(
        0, 300,
        lambda values: benchmark_rules.make_rules(
            read_warp(values), values.tau, read_candidates(values)
        ),
        lambda rules, samples, _: benchmark_rules.table_lines(rules, samples),
    ),
    "frontier": Suite(
        0, 300,
        lambda values: frontier.make_rules(
            read_warp(values), _sizes(values, "depths", FRONTIER_DEPTHS),
            _sizes(values, "widths", FRONTIER_WIDTHS),
        ),
        lambda rules, samples, _: frontier.lines_of(rules, samples),
    ),
}  # fmt: skip


def _open(
    values: flags.FlagValues, tasks: list[Task], prompts: list[Prompt], rules: list[Rule]
) -> Bench:
    """Load the models and check every prompt and rule against them."""
    if (values.target is None) != (values.draft is None):
        raise ValueError("give --target and --draft, or neither for the shipped pair")
    pipe = load_models(values)
    if pipe.target.tokenizer is None and values.prompts is None:
        raise ValueError(
            f"{values.target}: no tokenizer files, and the built-in prompts are text: give "
            "--prompts=FILE.jsonl with prompt_ids"
        )
    ids = []
    for rule in rules:
        call = {"strategy": rule.strategy, "max_new_tokens": values.max_new_tokens}
        ids = encode_prompts(pipe, prompts, **call)
        pipe.check(ids, warp=rule.warp, **call)
    kinds = [task.kind for task in tasks]
    return Bench(pipe, ids, kinds, values.max_new_tokens, values.seed)


def _shown_tasks(values: flags.FlagValues, tasks: list[Task]) -> str:
    """Return what is asked, on one line."""
    if values.prompts is not None:
        return f"{len(tasks)} prompts of {values.prompts}"
    questions = sum(task.kind == "sql" for task in tasks)
    stories = "held-out" if values.data_dir else "built-in"
    return (
        f"{len(tasks) - questions} {stories} stories, {questions} questions on held-out databases"
    )


def _about(values: flags.FlagValues, tasks: list[Task], rules: list[Rule]) -> dict[str, Any]:
    """Return what the samples depend on; `data_dir` None: the built-in openings."""
    names = ["suite", "target", "draft", *INT8_FLAGS, *MESH_FLAGS]
    names += ["repeats", "max_new_tokens", "seed", "tau", "data_dir", "prompts"]
    warp = rules[0].warp
    return {
        "machine": _machine(),
        **{name: getattr(values, name) for name in names},
        "openings": sum(task.kind == "story" for task in tasks),
        "questions": sum(task.kind == "sql" for task in tasks),
        "temperature": float(warp.temperature),
        "top_k": int(warp.top_k),
        "top_p": float(warp.top_p),
        "min_p": float(warp.min_p),
        "rules": [rule.label for rule in rules],
    }


def _machine() -> str:
    """Return what the numbers were measured on."""
    device = jax.devices()[0]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        f"mtad-jax {metadata.version('mtad-jax')}, jax {jax.__version__}, Python "
        f"{platform.python_version()}, {device.platform} ({device.device_kind}), {cores} CPU cores"
    )


def main(argv: list[str]) -> int:
    """Run the program on the command line's flags."""
    del argv
    return supervise.run(flags.FLAGS, define_flags, benchmark)


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    cli.run(main)
