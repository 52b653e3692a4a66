"""Continue a prompt, or a file of prompts.

`python -m experiments.generate --prompt="Once upon a time"` streams the text to stdout and prints a
line of statistics to stderr. `--prompts=IN.jsonl --output=OUT.jsonl` writes a row a prompt, or with
`--samples=N` N rows a prompt, numbered by `sample`; what is finished of an interrupted run stays in
`OUT.jsonl.partial`, and `--resume` goes on from there. `OUT.jsonl.settings.json` says what the rows
were made with (docs/records.md). A prompt's row may have its own `seed`: then
its texts are the same in any file. No other setting is a row's own: a key such as `max_new_tokens`
is refused. All other keys (`id`, `question`, ...) are repeated in the output row.

With `--chat` a prompt is what a user says, put as the target's chat template has it; rows may have
`messages`, a whole conversation, instead. With neither prompt nor prompts the conversation is held
here, turn by turn.

`seconds` of an output row is the wall time of its batch divided by the rows in it, prompt and
text handling included. Compiling is not in it: the first batch of a new size is run for two
rounds before the clock starts.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
from absl import flags
from tqdm import tqdm

from experiments.bench import measure
from experiments.bench.facts import digest_of_arrays, run_facts
from experiments.bench.scores import perplexity_of, shown_perplexity
from experiments.flags.chat import Chat, define_chat_flags, read_chat
from experiments.flags.models import MESH_FLAGS, check_models, load_models
from experiments.flags.rules import read_rule
from experiments.flags.settings import (
    RunSettings,
    define_setting_flags,
    parse_ids,
    read_settings,
    resolved_flags,
)
from experiments.launch import supervise
from experiments.rows.completion import row_of
from experiments.rows.decode import decode_batches
from experiments.rows.output import NoWriter, RowWriter
from experiments.rows.prompts import Prompt, encode_prompts, prompt_text, read_prompts
from experiments.rows.turns import converse
from mtad_jax import cli, compilation
from mtad_jax.completions import Completion
from mtad_jax.devices.hosts import from_first, is_first
from mtad_jax.pipeline import Pipeline

SOURCES = ("prompt", "prompt_ids", "prompts")
OUTPUT_FLAGS = ("overwrite", "resume")
OUTPUT_KEYS = (
    "sample", "prompt", "prompt_ids", "tokens", "text", "logp_raw", "logp", "stats", "seconds",
    "finish_reason", "rule",
)  # fmt: skip
"""What an output row has beside the keys of its prompt's row."""
FREE_FLAGS = (*MESH_FLAGS, "batch_size")  # a run may go on with others: no text depends on them


def define_flags(values: flags.FlagValues) -> None:
    """Define the program's flags; not at import, so that importing it adds none."""
    text, switch = flags.DEFINE_string, flags.DEFINE_bool
    text("prompt", None, "Text to continue.", flag_values=values)
    flags.DEFINE_list("prompt_ids", None, "Token ids to continue: 1,2,3.", flag_values=values)
    text("prompts", None, "JSON lines with `prompt` or `prompt_ids`.", flag_values=values)
    text("output", None, "JSON lines to write, a row a text.", flag_values=values)
    flags.DEFINE_integer("batch_size", 1, "Prompts decoded together.", flag_values=values)
    switch("overwrite", False, "Replace an output that exists.", flag_values=values)
    switch("resume", False, "Go on after an interrupted run's rows.", flag_values=values)
    supervise.define_host_flags(values)
    define_chat_flags(values)
    define_setting_flags(values)


def generate(values: flags.FlagValues) -> int:
    """Run the program and return its exit code.

    Raises:
      ValueError: wrong input; nothing was compiled or written.
      OSError: a file cannot be read or written.
    """
    settings = read_settings(values)
    check_models(values, settings.strategy.needs_draft)
    chat = read_chat(values)
    prompts = _read_prompts(values, chat)
    writer, config = None, _row_settings(values, settings, prompts, chat)
    if values.output is not None:
        kind = RowWriter if is_first() else NoWriter
        writer = kind(
            values.output,
            config,
            free=FREE_FLAGS,
            overwrite=values.overwrite,
            resume=values.resume,
        )
        writer.check()
    pipe = load_models(values)
    if chat and not prompts:
        return converse(
            pipe, chat, lambda ids: pipe.check([ids], **settings.call()),
            lambda ids: stream_text(pipe, ids, settings),
        )  # fmt: skip
    template = chat.template if chat else None
    ids = encode_prompts(
        pipe,
        prompts,
        strategy=settings.strategy,
        max_new_tokens=settings.max_new_tokens,
        chat_template=template,
    )
    # All prompts at once: what a late batch would refuse is refused before the first.
    pipe.check(ids, batch_size=values.batch_size, **settings.call())
    if writer is None:
        stream_text(pipe, ids[0], settings)
        return 0
    writer.describe(run_facts(pipe, config=config, seed=values.seed))
    rule = read_rule(values)
    texts = [prompt_text(pipe, prompt, template) for prompt in prompts]
    return write_rows(pipe, prompts, texts, ids, settings, writer, values.batch_size, rule)


def stream_text(pipe: Pipeline, ids: list[int], settings: RunSettings) -> Completion | None:
    """Print one prompt's continuation while it is made; its ids where there is no tokenizer.

    Returns:
      The continuation; None where nobody reads on.
    """
    measure.warm_up(pipe, [ids], settings)
    begin = time.perf_counter()
    stream = pipe.stream(ids, **settings.call())
    try:
        for piece in stream:
            print(piece, end="", flush=True)
        seconds = time.perf_counter() - begin
        row = stream.completion
        assert row is not None
        print("" if pipe.target.tokenizer else ",".join(map(str, row.tokens)), flush=True)
    except BrokenPipeError:  # the reader has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if jax.process_count() > 1:  # the others print nothing, go on, and need this one's part
            for _ in stream:
                pass
        return None
    if is_first():
        print(f"{summary(row, seconds)[:-1]}; {compilation.counts()}]", file=sys.stderr)
    return row


def summary(row: Completion, seconds: float) -> str:
    """Return a line that says how a row was decoded."""
    count = len(row.tokens)
    calls = count / max(row.stats.rounds, 1)
    perplexity = shown_perplexity(perplexity_of(sum(row.logp_raw) / max(count, 1)))
    return (
        f"[{count} tokens in {seconds:.2f} s: {count / seconds:.0f} tokens/s, {calls:.2f} tokens a "
        f"target call, perplexity {perplexity}, finished by {row.finish_reason}]"
    )


def write_rows(
    pipe: Pipeline,
    prompts: Sequence[Prompt],
    texts: Sequence[str | None],
    ids: Sequence[list[int]],
    settings: RunSettings,
    writer: RowWriter,
    batch_size: int,
    rule: dict[str, Any],
) -> int:
    """Decode all prompts in order and write a row for each text; return the exit code.

    `texts` are the prompts', None of those that are ids. Every row says its `rule`, as `read_rule`
    gives it: a plan takes its acceptance from there.
    """
    samples = settings.samples
    total = samples * len(ids)
    try:
        with writer, tqdm(total=total, unit="text", disable=not is_first()) as bar:
            start = bar.initial = bar.n = from_first(writer.count)
            batches = decode_batches(pipe, prompts, ids, settings, batch_size, start)
            for first, rows, seconds in batches:
                writer.write(
                    [
                        prompts[i // samples].keys
                        | ({"sample": i % samples} if samples > 1 else {})
                        | {"prompt": texts[i // samples]}
                        | row_of(row)
                        | {"seconds": seconds, "rule": rule}
                        for i, row in enumerate(rows, first)
                    ]
                )
                bar.set_postfix_str(str(compilation.counts()), refresh=False)
                bar.update(len(rows))
    except KeyboardInterrupt:
        kept = f"{writer.count} of {total} rows are in {writer.partial}: --resume goes on"
        print(f"error: interrupted; {kept if writer.count else 'no row kept'}", file=sys.stderr)
        return cli.INTERRUPTED
    return 0


def _read_prompts(values: flags.FlagValues, chat: Chat | None) -> list[Prompt]:
    """Return the prompts of whichever source was given; none: a conversation here.

    Raises:
      ValueError: none or several sources, flags that go with another one, or wrong rows.
    """
    given = [name for name in SOURCES if values[name].value is not None]
    if chat and not given:
        supervise.check_alone(values, "a conversation turn by turn is held at one terminal")
        if values.output is not None:
            raise ValueError(f"--output={values.output} with --chat needs --prompt or --prompts")
    elif len(given) != 1:
        found = " contradicts ".join(f"--{name}" for name in given) or "no prompt"
        raise ValueError(f"{found}: give one of --prompt, --prompt_ids, --prompts")
    if values.batch_size < 1:
        raise ValueError(f"--batch_size={values.batch_size} must be >= 1")
    if values.output is None:
        if values.prompts is not None:
            raise ValueError("--prompts needs --output=FILE.jsonl for its rows")
        if values.samples > 1:
            raise ValueError(f"--samples={values.samples} needs --output=FILE.jsonl for its rows")
        for name in OUTPUT_FLAGS:
            if values[name].value:
                raise ValueError(f"--{name} needs --output=FILE.jsonl")
    if values.prompts is not None:
        prompts = read_prompts(values.prompts, chat=chat is not None)
        _check_keys(prompts)
        return [chat.conversation(prompt) for prompt in prompts] if chat else prompts
    if values.batch_size > 1:
        raise ValueError(f"--batch_size={values.batch_size} needs --prompts: this is one prompt")
    if values.prompt is not None:
        prompt = Prompt(values.prompt, "--prompt")
        return [chat.conversation(prompt) if chat else prompt]
    if chat:
        return []
    return [Prompt(parse_ids("prompt_ids", values.prompt_ids), "--prompt_ids")]


def _check_keys(prompts: Sequence[Prompt]) -> None:
    """Raise ValueError on a key that its output row needs for something else."""
    for prompt in prompts:
        for key in OUTPUT_KEYS:
            if key in prompt.keys:
                raise ValueError(
                    f"{prompt.source}: key {key!r} is one that output rows have of their own: "
                    "rename it or leave it out"
                )


def _row_settings(
    values: flags.FlagValues,
    settings: RunSettings,
    prompts: Sequence[Prompt],
    chat: Chat | None,
) -> dict[str, Any]:
    """Return all that the rows depend on, and `FREE_FLAGS`."""
    text = json.dumps([[prompt.value, prompt.keys, prompt.seed] for prompt in prompts])
    digest = hashlib.sha256(text.encode()).hexdigest()
    free = {name: values[name].value for name in FREE_FLAGS}
    found = resolved_flags(values, settings) | free | {"prompts_sha256": digest}
    if arrays := digest_of_arrays(settings.strategy):  # a path says nothing of what is in the file
        found["arrays_sha256"] = arrays
    return found | (chat.facts() if chat else {})


def main(argv: list[str]) -> int:
    """Run the program on the command line's flags."""
    del argv
    return supervise.run(flags.FLAGS, define_flags, generate)


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    cli.run(main)
