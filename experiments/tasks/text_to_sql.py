"""A synthetic text-to-SQL task with domains held out for evaluation.

A small stand-in for Spider (Yu et al., 2018, arXiv:1809.08887), the text-to-SQL task of the paper:
as there, the evaluation asks about databases that training has not seen. Everything is generated
from a seed, and every query runs on an in-memory database.
"""

import random
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

from experiments.tasks.sql_execution import execution_match, run_select
from experiments.tasks.sql_questions import ask, form_of
from experiments.tasks.sql_schema import DOMAINS, MIXED, Table, build_database, load_database
from experiments.tasks.sql_styles import restyle
from experiments.tasks.sql_text import outside_strings

__all__ = ["Example", "build_database", "domains", "examples", "execution_match"]

SPLITS = ("train", "held_out")
VARIANTS = 150  # databases of one domain
MIXED_VARIANTS = 200_000
MIXED_SHARE = 0.85  # of the training examples


@dataclass(frozen=True)
class Example:
    """A question about a database; `prompt + sql` is the document that a model is trained on."""

    db_id: str
    prompt: str
    sql: str
    question: str
    tables: tuple[Table, ...]
    form: str  # what the query does, in a word: "join", "group", "top", ...


def domains(split: str) -> frozenset[str]:
    """The domains that a split draws databases from."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, not {split!r}")
    return frozenset(DOMAINS[split]) | ({MIXED} if split == "train" else set())


def spaced(text: str) -> str:
    """A schema or query with spaces around its punctuation, but not within strings.

    Then a name has the same pieces in a schema and in a query, wherever it stands.
    """
    return outside_strings(
        text, lambda part: re.sub(r" +", " ", re.sub(r"([(),;.])", r" \1 ", part))
    ).strip()


def render_prompt(tables: tuple[Table, ...], question: str) -> str:
    """SQL comments with the tables and the question; the query begins on the next line.

    The tables are `spaced`, and values of the question quoted as in the query.
    """
    lines = [*(spaced(table.describe()) for table in tables), question]
    return "".join(f"-- {line}\n" for line in lines)


def database_ids(split: str, rng: random.Random) -> Iterator[str]:
    """An endless random sequence of the split's database ids."""
    names = sorted(domains(split) - {MIXED})
    while True:
        if split == "train" and rng.random() < MIXED_SHARE:
            yield f"{MIXED}_{rng.randrange(MIXED_VARIANTS)}"
        else:
            yield f"{rng.choice(names)}_{rng.randrange(VARIANTS)}"


def examples(split: str, count: int, seed: int) -> list[Example]:
    """`count` distinct examples of a split; the first ones do not depend on `count`."""
    rng = random.Random(f"text-to-sql/{split}/{seed}")
    found: dict[str, Example] = {}
    for db_id in database_ids(split, rng):
        if len(found) >= count:
            break
        database = load_database(db_id)
        question, plain = ask(database, rng)
        sql = spaced(database.shorten(restyle(plain, database, rng)))
        prompt, form = render_prompt(database.tables, question), form_of(plain)
        found.setdefault(prompt, Example(db_id, prompt, sql, question, database.tables, form))
    return list(found.values())


def is_correct(example: Example, text: str) -> bool:
    """Whether a generated query gives the rows of the example's own."""
    connection: sqlite3.Connection = build_database(example.db_id)
    try:
        return execution_match(text.strip(), example.sql, connection)
    finally:
        connection.close()


def gold_rows(example: Example) -> list[tuple]:
    """The rows that the example's own query gives."""
    connection: sqlite3.Connection = build_database(example.db_id)
    try:
        return run_select(example.sql, connection)
    finally:
        connection.close()
