"""Speed and quality of the decoding rules side by side, batch 1.

`python -m experiments.benchmark` prints a table of depths and widths;
`--suite=rules` prints one of every rule; `--suite=frontier` one of many settings of MTAD and MMTAD
between greedy speculation and beam search, and draws it. Timed is the decode loop alone, after
warm-up, with everything waited for; prefill and compiling are measured apart. Rules are
interleaved, and each pass over them has its own prompts: story openings, and questions about
databases that training has not seen; or those of `--prompts=FILE.jsonl`. Texts end where the model
ends them: tokens are those that a user gets.
"""

import contextlib
import dataclasses
from typing import Any

from absl import flags
from tqdm import tqdm

from experiments.bench import frontier, plot, report
from experiments.bench.facts import machine_line, run_facts
from experiments.bench.measure import Bench, Rule, Sample
from experiments.bench.suites import SUITES, Suite, judged, read_tasks, suite_of
from experiments.flags.models import (
    BUILT_IN_ARE_TEXT,
    INT8_FLAGS,
    MESH_FLAGS,
    check_pair,
    check_reads_text,
    define_model_flags,
    load_models,
)
from experiments.flags.warp import TAU, define_warp_flags
from experiments.launch import supervise
from experiments.rows.output import NoWriter, RowWriter
from experiments.rows.prompts import Prompt, encode_prompts
from experiments.tasks.shipped import Task
from mtad_jax import cli
from mtad_jax.decode.request import Request
from mtad_jax.devices.hosts import is_first


def define_flags(values: flags.FlagValues) -> None:
    """Define the program's flags."""
    define_model_flags(values)
    define_warp_flags(values)
    number, items, text = flags.DEFINE_integer, flags.DEFINE_list, flags.DEFINE_string
    flags.DEFINE_enum(
        "suite", "depths", tuple(SUITES), "depths: depths and widths of speculative sampling, MTAD "
        "and MMTAD; rules: every rule, one setting each; frontier: MTAD and MMTAD, bonus drawn and "
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
    for name, what in (("depths", "K of speculative sampling and MTAD"), ("widths", "W of MTAD")):
        parts = ((suite, getattr(module, name.upper())) for suite, module in
                 (("depths", report), ("frontier", frontier)))  # fmt: skip
        defaults = "; ".join(f"{str(sizes)[1:-1]} of {suite}" for suite, sizes in parts)
        items(name, None, f"{what}. Default: {defaults}.", flag_values=values)
    flags.DEFINE_float(
        "tau", TAU, "Threshold of MTAD and MMTAD; --suite=frontier has its own.", flag_values=values
    )
    flags.DEFINE_multi_string(
        "rule", None, "Another rule for --suite=rules, with its settings: 'module:name depth=3'; "
        "repeatable.", flag_values=values,
    )  # fmt: skip
    text("data_dir", None, "Folder with corpora/fairytaleqa/test.txt. Default: built-in openings.",
         flag_values=values)  # fmt: skip
    text("output", None, "JSON lines to write, one a sample, with settings in a file beside them.",
         flag_values=values)  # fmt: skip
    flags.DEFINE_bool("overwrite", False, "Replace an output that exists.", flag_values=values)
    supervise.define_host_flags(values)


def benchmark(values: flags.FlagValues) -> None:
    """Run the program.

    Raises:
      ValueError: wrong input.
      OSError: the output cannot be written.
    """
    suite = suite_of(values)
    plot.check_plot(values.plot, values.overwrite)
    rules = _read_rules(values, suite)
    tasks, prompts = read_tasks(values, suite)
    writer = None
    if values.output is not None:
        kind = RowWriter if is_first() else NoWriter
        writer = kind(values.output, {}, overwrite=values.overwrite, again="start again")
        writer.check()
    elif values.overwrite and values.plot is None:
        raise ValueError("--overwrite needs --output=FILE.jsonl or --plot=FILE.png")
    bench = _open(values, tasks, prompts, rules)
    print(f"{machine_line()}\n{_shown_tasks(values, tasks)}")
    measured = None
    try:
        # Open from the start, so that a folder which takes no file is told of before the work.
        with writer or contextlib.nullcontext():
            measured = compile_seconds, samples = measure(bench, tasks, rules, values.repeats)
            if writer is not None:
                facts = run_facts(bench.pipe, config=_about(values, tasks, rules), seed=values.seed)
                writer.describe(facts | {"compile_seconds": compile_seconds})
                writer.write([dataclasses.asdict(sample) for sample in samples])
    finally:
        if measured is not None:  # shown even where the disk has no room for it
            compile_seconds, samples = measured
            print("\n".join(suite.lines(rules, samples, compile_seconds)))
    if values.plot is not None and is_first():
        plot.draw(values.plot, rules, samples)
        print(f"drawn: {values.plot}")


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


def _read_rules(values: flags.FlagValues, suite: Suite) -> list[Rule]:
    """Return the rules that the flags ask for, checked."""
    rules = suite.rules(values)
    for rule in rules:
        rule.strategy.check(Request(top_k=rule.warp.top_k, draft_top_k=rule.warp.top_k))
    return rules


def _open(
    values: flags.FlagValues, tasks: list[Task], prompts: list[Prompt], rules: list[Rule]
) -> Bench:
    """Load the models and check every prompt and rule against them."""
    check_pair(values, both=True)
    pipe = load_models(values)
    if values.prompts is None:
        check_reads_text(pipe.target, values.target, BUILT_IN_ARE_TEXT)
    # That which looks ahead furthest needs the most positions: what fits it fits all.
    furthest = max(rules, key=lambda rule: rule.strategy.lookahead).strategy
    ids = encode_prompts(pipe, prompts, strategy=furthest, max_new_tokens=values.max_new_tokens)
    for rule in rules:
        call = {"strategy": rule.strategy, "max_new_tokens": values.max_new_tokens}
        pipe.check(ids, batch_size=1, warp=rule.warp, **call)
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
        **{name: getattr(values, name) for name in names},
        "openings": sum(task.kind == "story" for task in tasks),
        "questions": sum(task.kind == "sql" for task in tasks),
        "temperature": float(warp.temperature),
        "top_k": int(warp.top_k),
        "top_p": float(warp.top_p),
        "min_p": float(warp.min_p),
        "rules": [rule.label for rule in rules],
    }


def main(argv: list[str]) -> int:
    """Run the program on the command line's flags."""
    del argv
    return supervise.run(flags.FLAGS, define_flags, benchmark)


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    cli.run(main)
