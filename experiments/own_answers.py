"""A target's own answers as what a draft of it is distilled on.

`python -m experiments.own_answers --rows=OUT.jsonl --output=DIR` takes rows that
`experiments.generate` wrote, with the temperature that the pair is for, and writes the arrays that
`experiments.train` reads: prompt and answer, token by token, and which of them are the answer. The
draft must have the target's tokenizer.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import flags

from experiments.flags.settings import check_least
from experiments.tasks.base import read_rows, value_of
from experiments.training import data as train_data
from mtad_jax import cli
from mtad_jax.checkpoints.atomic import new_folder

HELD_OUT = "own"
"""Name of the held-out set, for a recipe's `held_out`."""


class Answer(NamedTuple):
    """A prompt's ids and those of what the target answered."""

    prompt: list[int]
    tokens: list[int]


def read_answers(path: str | Path) -> list[Answer]:
    """Read rows of `experiments.generate`; answers that were cut at their limit are kept.

    (The next token of a cut answer is not in it: nothing is learnt of an end that was none.)

    Raises:
      ValueError: a row without `prompt_ids` and `tokens`, naming file and line.
      OSError: the file cannot be read.
    """
    answers = []
    for source, row in read_rows(path):
        found = Answer(*(_ids(row, key, source) for key in ("prompt_ids", "tokens")))
        if found.tokens:
            answers.append(found)
    return answers


def _ids(row: dict, key: str, source: str) -> list[int]:
    ids = value_of(row, key, list, source)
    if not all(type(i) is int and 0 <= i < 1 << 32 for i in ids):
        raise ValueError(f"{source}: {key} must be token ids")
    return ids


def split(answers: Sequence[Answer], held_out: int, seed: int) -> tuple[list[Answer], list[Answer]]:
    """Return what to train on and what to hold out, shuffled; no prompt is in both.

    Args:
      answers: all of them.
      held_out: prompts to hold out.
      seed: of the order.

    Raises:
      ValueError: nothing would be left to train on.
    """
    shuffled = random.Random(seed).sample(list(answers), len(answers))
    prompts = list(dict.fromkeys(tuple(each.prompt) for each in shuffled))
    if len(prompts) <= held_out:
        raise ValueError(f"--held_out={held_out} of {len(prompts)} prompts leaves none to train on")
    kept = set(prompts[held_out:])
    train = [each for each in shuffled if tuple(each.prompt) in kept]
    return train, [each for each in shuffled if tuple(each.prompt) not in kept]


def to_corpus(answers: Sequence[Answer]) -> train_data.Corpus:
    """Return prompts and answers one after the other."""
    lengths = np.array([len(each.prompt) + len(each.tokens) for each in answers])
    tokens = np.concatenate([[*each.prompt, *each.tokens] for each in answers])
    mask = [np.arange(n) >= len(each.prompt) for n, each in zip(lengths, answers, strict=True)]
    kind = np.uint16 if tokens.max() < 1 << 16 else np.uint32
    begins = np.cumsum(lengths) - lengths
    return train_data.Corpus(tokens.astype(kind), np.concatenate(mask), begins)


def define_flags() -> None:
    """Defined only where this file is the program, so that importing it adds no flags."""
    flags.DEFINE_string("rows", None, "JSON lines that experiments.generate wrote.", required=True)
    flags.DEFINE_string("output", None, "Folder for the arrays.", required=True)
    flags.DEFINE_integer("held_out", 32, "Prompts to hold out.")
    flags.DEFINE_integer("seed", 0, "Seed of the order, and of which are held out.")


def main(argv: list[str]) -> None:
    """Write the arrays that the flags ask for."""
    del argv
    args = flags.FLAGS
    check_least(args, held_out=1)
    parts = split(read_answers(args.rows), args.held_out, args.seed)
    with new_folder(args.output) as folder:
        for name, answers in zip(("train", f"val_{HELD_OUT}"), parts, strict=True):
            corpus = to_corpus(answers)
            train_data.save(folder, name, corpus)
            count = int(corpus.answers.sum())
            print(f"{name}: {len(answers)} answers, {count} tokens of {len(corpus)} theirs")


if __name__ == "__main__":
    define_flags()
    cli.run(main)
