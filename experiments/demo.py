"""What the project does, on the pair that ships with it: `make demo`.

One prompt continued by plain sampling, speculative sampling, MTAD and MMTAD, streamed; then a small
table of their speed and quality; then a question turned into SQL and run.
"""

import collections
import time
from collections.abc import Iterator

from absl import flags

from experiments.bench.measure import Bench, Rule
from experiments.bench.scores import Score, by_rule, score, shown_perplexity
from experiments.flags.models import define_model_flags, load_models
from experiments.flags.warp import TOP_K, TOP_P
from experiments.tasks.shipped import OPENINGS, Task, make_tasks
from experiments.tasks.sql_execution import run_select
from experiments.tasks.text_to_sql import build_database
from mtad_jax import cli, compilation, recipes
from mtad_jax.decode.loop import bucket
from mtad_jax.decode.warp import Warp

WARP = Warp(temperature=1.0, top_p=TOP_P, top_k=TOP_K)
RULES = (
    Rule("sample", recipes.sample(), WARP),
    Rule("speculative", recipes.speculative(3), WARP, 3),
    Rule("mtad", recipes.mtad(4, 2), WARP, 4, 2),
    Rule("mmtad", recipes.mmtad(4, 2), WARP, 4, 2),
)
WHAT = {
    "sample": "one token a target call",
    "speculative": "same law as sampling",
    "mtad": "lossy: likelier text",
    "mmtad": "lossy: likelier text, all beams verified at once",
}
NEW_TOKENS = 100
REPEATS = 5
SEED = 0
SQL_SEED = 1


def define_flags(values: flags.FlagValues) -> None:
    """Define the program's flags."""
    define_model_flags(values)


def demo(values: flags.FlagValues) -> None:
    """Run the program.

    Raises:
      ValueError: wrong models.
    """
    if (values.target is None) != (values.draft is None):
        raise ValueError("give --target and --draft, or neither for the shipped pair")
    pipe = load_models(values)
    if pipe.target.tokenizer is None:
        raise ValueError(f"{values.target}: no tokenizer files, and the prompts are text")
    query = make_tasks(2, SQL_SEED, None)[1]
    texts = [*OPENINGS[:REPEATS], query.prompt]
    kinds = ["story"] * REPEATS + ["sql"]
    bench = Bench(pipe, [pipe.encode(text) for text in texts], kinds, NEW_TOKENS, SEED)
    for rule in RULES:
        print(f"\n== {rule.label} ({WHAT[rule.name]}) ==")
        print("compiling ... ", end="", flush=True)
        begin, before = time.perf_counter(), compilation.counts()
        bench.decode(rule, 0)
        collections.deque(pieces(bench, rule), maxlen=0)
        print(
            f"{time.perf_counter() - begin:.0f} s ({compilation.counts() - before})\n{texts[0]}",
            end="",
            flush=True,
        )
        for piece in pieces(bench, rule):
            print(piece, end="", flush=True)
        print(flush=True)
    print_table(bench)
    print_query(bench, query)


def pieces(bench: Bench, rule: Rule) -> Iterator[str]:
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


def print_table(bench: Bench) -> None:
    """Time all rules on the stories, interleaved, and print what came out."""
    stories = Bench(
        bench.pipe, bench.prompts[:REPEATS], bench.kinds, bench.max_new_tokens, bench.seed
    )
    groups = by_rule(stories.interleaved(RULES, REPEATS))
    base = groups[RULES[0].label]
    print(f"\n{'rule':<20}{'tokens/s':>10}{'x plain':>10}{'tokens/round':>14}{'perplexity':>12}")
    for rule in RULES:
        line: Score = score(groups[rule.label], base)
        print(
            f"{rule.label:<20}{line.tokens_per_second:>10.0f}{line.ratio:>10.2f}"
            f"{line.tokens_per_call:>14.2f}{shown_perplexity(line.perplexity):>12}"
        )
    print(
        f"(medians of {REPEATS} prompts of up to {NEW_TOKENS} new tokens, batch 1, after warm-up)"
    )


def print_query(bench: Bench, task: Task) -> None:
    """Answer a question about a database that training has not seen, by MMTAD."""
    assert task.example is not None
    begin = time.perf_counter()
    sample = bench.decode(RULES[-1], REPEATS)
    seconds = time.perf_counter() - begin
    right = task.judge(sample.text)
    print(f"\n== {RULES[-1].label}: a question about a database not trained on ==")
    print(f"{task.prompt}{sample.text.strip()}")
    verdict = "the rows asked for" if right else f"not the rows of: {task.example.sql}"
    print(f"-- {verdict} ({seconds:.2f} s)")
    if right:
        connection = build_database(task.example.db_id)
        for row in run_select(sample.text.strip(), connection)[:5]:
            print("--", *row)
        connection.close()


def main(argv: list[str]) -> None:
    """Run the program on the command line's flags."""
    del argv
    demo(flags.FLAGS)


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    cli.run(main)
