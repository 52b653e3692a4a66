"""What int8 costs and saves: `python -m experiments.quantization`.

Each model, with weights, cache or both as int8, against itself in full precision, on texts that are
given token by token; then the pair decoding by MMTAD. The texts are text-to-SQL questions about
held-out databases with their answers, and held-out stories (without --data_dir: short openings).
"""

import dataclasses
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments.bench.measure import Bench, Rule
from experiments.bench.scores import perplexity_of, score, shown_perplexity
from experiments.flags.models import (
    INT8_FLAGS,
    check_reads_text,
    define_model_flags,
    load_models,
)
from experiments.flags.settings import check_least
from experiments.flags.warp import TOP_K, TOP_P
from experiments.tasks import stories
from experiments.tasks.shipped import Task, find_stories, make_tasks
from mtad_jax import cli
from mtad_jax.decode.warp import Warp
from mtad_jax.models.protocol import BoundLM
from mtad_jax.pipeline import Pipeline

FULL = ""
FORMS = (FULL, "weights", "kv", "weights,kv")
PAIRS = ((FULL, FULL), ("weights,kv", FULL), (FULL, "weights,kv"), ("weights,kv", "weights,kv"))


@dataclasses.dataclass(frozen=True)
class Change:
    """What one form of a model makes of the texts.

    Attributes:
      perplexity: exp of the mean over tokens of -log-probability.
      mean, worst: of the absolute change of the text's tokens' log-probability.
      same: share of positions whose likeliest token is that of full precision.
      weight_bytes: of the parameters.
      slot_bytes: of the cache, a row's slot.
    """

    perplexity: float
    mean: float
    worst: float
    same: float
    weight_bytes: int
    slot_bytes: int


def define_flags(values: flags.FlagValues) -> None:
    """Define the program's flags."""
    define_model_flags(values)
    number = flags.DEFINE_integer
    number("texts", 48, "Texts, half of them about databases.", flag_values=values)
    number(
        "tokens", 256, "Most tokens of a text; at most the models' positions.", flag_values=values
    )
    number("max_new_tokens", 100, "Most tokens that MMTAD adds to a prompt.", flag_values=values)
    number("depth", 4, "K of MMTAD.", flag_values=values)
    number("width", 4, "W of MMTAD.", flag_values=values)
    number("seed", 0, "Seed of texts and draws.", flag_values=values)
    flags.DEFINE_string(
        "data_dir", None, "Folder with corpora/fairytaleqa/test.txt. Default: built-in openings.",
        flag_values=values,
    )  # fmt: skip


def quantization(values: flags.FlagValues) -> None:
    """Run the program.

    Raises:
      ValueError: wrong input; nothing was compiled.
      OSError: a file cannot be read.
    """
    for flag in INT8_FLAGS:
        if values[flag].value:
            raise ValueError(f"--{flag} contradicts this program, which tries each: leave it out")
    check_least(values, texts=2, tokens=2, max_new_tokens=1)
    rule = _rule(values.depth, values.width)
    tasks = make_tasks(
        values.texts - values.texts // 2, values.texts // 2, values.seed,
        find_stories(values.data_dir),
    )  # fmt: skip
    pipe = load_models(values)
    models = {"target": pipe.target} | ({"draft": pipe.draft} if pipe.draft else {})
    lms = {name: found.lm for name, found in models.items()}
    _check_tokens(values.tokens, lms)
    check_reads_text(pipe.target, values.target, "the texts are text")
    texts = [pipe.encode(text)[: values.tokens] for text in held_out(tasks, values.data_dir)]
    print(f"{len(texts)} texts of {sum(map(len, texts))} tokens, {pipe.target.lm.dtype}\n")
    for line in change_lines(lms, texts):
        print(line, flush=True)
    if pipe.draft is not None:
        prompts = [pipe.encode(task.prompt) for task in tasks]
        kinds = [task.kind for task in tasks]
        bench = Bench(pipe, prompts, kinds, values.max_new_tokens, values.seed)
        for line in pair_lines(bench, rule):
            print(line, flush=True)


def _check_tokens(tokens: int, lms: dict[str, BoundLM]) -> None:
    """Raise ValueError where a text may be longer than what a model was made for."""
    name = min(lms, key=lambda name: lms[name].model.max_positions)
    most = lms[name].model.max_positions
    if tokens > most:
        raise ValueError(f"--tokens={tokens} > positions={most} of the {name}: lower it")


def _rule(depth: int, width: int) -> Rule:
    warp = Warp(temperature=1.0, top_k=TOP_K, top_p=TOP_P)
    return Rule.of("mmtad", warp, depth=depth, width=width)


def held_out(tasks: Sequence[Task], data_dir: str | None) -> list[str]:
    """Return the texts to score: questions with their answers, and stories as long as there are."""
    texts = [task.prompt + task.example.sql for task in tasks if task.example is not None]
    openings = [task.prompt for task in tasks if task.example is None]
    whole = openings if data_dir is None else stories.read_stories("test", data_dir)
    return texts + whole[: len(openings)]


def change_lines(models: dict[str, BoundLM], texts: Sequence[list[int]]) -> Iterable[str]:
    """Give the table of each model's forms against its full precision, a line at a time."""
    yield (
        "| model | int8 | perplexity | mean change | worst change | same top token | weights, MB | "
        "cache, bytes a slot |"
    )
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for name, lm in models.items():
        base = _score(lm, texts)
        for form in FORMS:
            found = change(lm.quantized(form), texts, base)
            yield (
                f"| {name} | {form or 'none'} | {shown_perplexity(found.perplexity, 4)} | "
                f"{found.mean:.4f} | {found.worst:.3f} | {found.same:.2%} | "
                f"{found.weight_bytes / 1e6:.1f} | {found.slot_bytes} |"
            )


def change(lm: BoundLM, texts: Sequence[list[int]], base: tuple[np.ndarray, np.ndarray]) -> Change:
    """Compare a form of a model with `base`, the log-probabilities and top tokens of another."""
    logp, top = _score(lm, texts)
    difference = np.abs(logp - base[0])
    slots = 1024
    cache = jax.eval_shape(lambda: lm.model.init_cache(1, slots, lm.dtype))
    return Change(
        perplexity=perplexity_of(float(logp.mean())),
        mean=float(difference.mean()),
        worst=float(difference.max()),
        same=float((top == base[1]).mean()),
        weight_bytes=_bytes(lm.params),
        slot_bytes=_bytes(cache) // slots,
    )


def _bytes(tree: object) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _score(lm: BoundLM, texts: Sequence[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return each next token's log-probability, and the likeliest token, of all texts in a row."""
    width = max(map(len, texts))
    logp, top = [], []
    for ids in texts:
        found = _next_tokens(lm, np.pad(ids, (0, width - len(ids)))[None].astype(np.int32))
        logp.append(np.asarray(found[0])[0, : len(ids) - 1])
        top.append(np.asarray(found[1])[0, : len(ids) - 1])
    return np.concatenate(logp), np.concatenate(top)


@jax.jit
def _next_tokens(lm: BoundLM, ids: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return [1, T - 1]: the next token's log-probability, and the likeliest one's id."""
    start, positions = jnp.zeros(1, jnp.int32), jnp.arange(ids.shape[1])[None]
    logits, _ = lm.model.apply(
        lm.params, ids, positions=positions, write_at=start, prefix=start, window=None,
        cache=lm.model.init_cache(1, ids.shape[1], lm.dtype),
    )  # fmt: skip
    logits = logits[:, :-1, : lm.vocab_size]
    logp = jax.nn.log_softmax(logits, axis=-1)
    return jnp.take_along_axis(logp, ids[:, 1:, None], axis=-1)[..., 0], logits.argmax(-1)


def pair_lines(bench: Bench, rule: Rule) -> Iterable[str]:
    """Give the table of what MMTAD makes of the prompts, a line a pair of forms."""
    yield f"\n{rule.label}, {len(bench.prompts)} prompts:\n"
    yield "| target int8 | draft int8 | tokens a target call | accepted | perplexity |"
    yield "| --- | --- | ---: | ---: | ---: |"
    for target, draft in PAIRS:
        found = dataclasses.replace(bench, pipe=_pair(bench.pipe, target, draft))
        line = score([found.decode(rule, i) for i in range(len(bench.prompts))])
        yield (
            f"| {target or 'none'} | {draft or 'none'} | {line.tokens_per_call:.2f} | "
            f"{line.acceptance:.1%} | {shown_perplexity(line.perplexity)} |"
        )


def _pair(pipe: Pipeline, target: str, draft: str) -> Pipeline:
    assert pipe.draft is not None
    forms = ((pipe.target, target), (pipe.draft, draft))
    return Pipeline(*(dataclasses.replace(m, lm=m.lm.quantized(form)) for m, form in forms))


def main(argv: list[str]) -> None:
    """Run the program on the command line's flags."""
    del argv
    quantization(flags.FLAGS)


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    cli.run(main)
