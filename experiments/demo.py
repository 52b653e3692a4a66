"""What the project does, on the pair that ships with it: `make demo`.

A question about a small database that training has not seen, answered by six decoding rules while
one looks on: what the draft proposed, what the target added, whether the query gives the right
rows. Then the same rules on 60 such questions, as a table.
"""

import collections
import os
import sys
import time
from collections.abc import Iterator

from absl import flags
from tqdm import tqdm

from experiments.bench.measure import Bench, Rule
from experiments.bench.rules import CHOSEN
from experiments.bench.scores import by_rule, score, shown_perplexity
from experiments.bench.suites import judged
from experiments.flags.models import check_pair, check_reads_text, define_model_flags, load_models
from experiments.flags.settings import check_least
from experiments.flags.warp import TOP_K, TOP_P
from experiments.tasks.shipped import Task, make_tasks
from experiments.tasks.sql_execution import run_select
from experiments.tasks.text_to_sql import build_database
from mtad_jax import cli, compilation
from mtad_jax.completions import Piece
from mtad_jax.decode.loop import bucket
from mtad_jax.decode.warp import Warp

WARP = Warp(temperature=1.0, top_p=TOP_P, top_k=TOP_K)
GREEDY = Warp(temperature=0.0)
DEPTH, WIDTH = 4, 4
RULES = (
    Rule.of("sample", WARP),
    Rule.of("greedy", GREEDY),
    Rule.of("speculative", GREEDY, "greedy", depth=DEPTH),
    Rule.of("mtad", WARP, depth=DEPTH, width=WIDTH),
    Rule.of("mmtad", WARP, depth=DEPTH, width=WIDTH),
    Rule.of("mmtad", WARP, depth=DEPTH, width=WIDTH, **CHOSEN),
)
WHAT = (
    "the target alone, drawn",
    "the target alone, its likeliest token",
    "greedy's text, drafted",
    "likelier blocks; a drawn token after each",
    "the same over all beams of the draft",
    "the same, deterministic: the likeliest token after each",
)
NEW_TOKENS = 100
REPEATS = 5
SEED = 0
GREEN, PLAIN = "\033[32m", "\033[0m"


def define_flags(values: flags.FlagValues) -> None:
    """Define the program's flags."""
    define_model_flags(values)
    flags.DEFINE_integer("questions", 60, "Questions of the table.", flag_values=values)


def demo(values: flags.FlagValues) -> None:
    """Run the program.

    Raises:
      ValueError: wrong models, or too few questions.
    """
    check_pair(values, both=True)
    check_least(values, questions=REPEATS)
    pipe = load_models(values)
    check_reads_text(pipe.target, values.target, "the prompts are text")
    tasks = make_tasks(0, values.questions, SEED)
    ids = [pipe.encode(task.prompt) for task in tasks]
    bench = Bench(pipe, ids, [task.kind for task in tasks], NEW_TOKENS, SEED)
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    drafted, own = (f"{GREEN}green{PLAIN}", "plain") if coloured else ("plain", "in [brackets]")
    print(
        f"A question about a small database that training has not seen:\n\n{tasks[0].prompt}\n"
        "Each rule answers it. Tokens that the draft proposed and the target kept are "
        f"{drafted};\nthose that the target made itself are {own}."
    )
    for rule, what in zip(RULES, WHAT, strict=True):
        show(bench, rule, what, tasks[0], coloured)
    print_table(bench, tasks)


def show(bench: Bench, rule: Rule, what: str, task: Task, coloured: bool) -> None:
    """Stream one rule's answer to the first question, and say whether its rows are right."""
    print(f"\n== {rule.label}: {what} ==")
    print("compiling ... ", end="", flush=True)
    begin, before = time.perf_counter(), compilation.counts()
    sample = bench.decode(rule, 0)
    collections.deque(pieces(bench, rule), maxlen=0)
    print(f"{time.perf_counter() - begin:.0f} s ({compilation.counts() - before})")
    for piece in pieces(bench, rule):
        print(marked(piece, coloured), end="", flush=True)
    print(
        f"\n-- {verdict(task, sample.text)}; {sample.tokens} tokens, {sample.rounds} target calls"
    )


def pieces(bench: Bench, rule: Rule) -> Iterator[Piece]:
    """Give the first prompt's continuation while it is made."""
    longest = max(map(len, bench.prompts))
    scratch = rule.strategy.scratch(bench.max_new_tokens)
    return bench.pipe.stream(
        bench.prompts[0],
        strategy=rule.strategy,
        warp=rule.warp,
        max_new_tokens=bench.max_new_tokens,
        seed=bench.seed,
        slots=bucket(longest + bench.max_new_tokens + scratch),
    )


def marked(piece: Piece, coloured: bool) -> str:
    """Return a piece with its drafted tokens in green or, without colours, the others bracketed."""
    if coloured:
        return "".join(
            f"{GREEN}{text}{PLAIN}" if drafted else text for text, drafted in piece.spans
        )
    return "".join(text if drafted else f"[{text}]" for text, drafted in piece.spans)


def verdict(task: Task, text: str) -> str:
    """Return what a query gives, beside what was asked for."""
    assert task.example is not None
    if not task.judge(text):
        return f"WRONG, not the rows of: {task.example.sql}"
    connection = build_database(task.example.db_id)
    rows = [" ".join(map(str, row)) for row in run_select(text.strip(), connection)]
    connection.close()
    return "right: " + ", ".join(rows[:5]) + ", ..." * (len(rows) > 5)


def print_table(bench: Bench, tasks: list[Task]) -> None:
    """Ask all questions by all rules, interleaved, and print what came out."""
    print()
    with tqdm(total=len(RULES) * len(tasks), desc="asking", leave=False) as bar:
        groups = by_rule(judged(bench.interleaved(RULES, REPEATS, bar.update), tasks))
    base = groups[RULES[0].label]
    print(
        f"{f'{len(tasks)} questions':<44}{'right':>7}{'perplexity':>12}{'tokens a call':>15}"
        f"{'tokens/s':>10}{'x sampling':>12}"
    )
    for rule in RULES:
        line = score(groups[rule.label], base)
        print(
            f"{rule.label:<44}{line.correct / line.judged:>7.0%}"
            f"{shown_perplexity(line.perplexity, 3):>12}{line.tokens_per_call:>15.2f}"
            f"{line.tokens_per_second:>10.0f}{line.ratio:>12.2f}"
        )
    print(f"(speeds: medians of {REPEATS} passes, one question at a time, after warm-up)")


def main(argv: list[str]) -> None:
    """Run the program on the command line's flags."""
    del argv
    demo(flags.FLAGS)


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    cli.run(main)
