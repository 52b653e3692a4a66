"""Execution match: does a predicted query give the rows that the gold query gives?

The metric is the execution accuracy of Spider (Yu et al., 2018, arXiv:1809.08887) and of test
suites (Zhong et al., 2020, arXiv:2010.02840), on one database. Rows are compared whole, their cells
in the order of the columns. A predicted query is untrusted: it may only read,
and its work is bounded.
"""

import re
import sqlite3
from collections import Counter
from dataclasses import dataclass

from experiments.tasks.sql_text import STRING

STEPS_PER_CHECK = 10_000  # SQLite virtual machine instructions between two calls of the handler
MAX_CELL_BYTES = 1_000_000
ALLOWED_ACTIONS = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION}


@dataclass(frozen=True)
class Limits:
    """What one query may take; the defaults are for databases of a few hundred rows.

    Attributes:
      steps: SQLite virtual machine instructions.
      rows: of its result.
      characters: of all texts of its result.
    """

    steps: int = 2_000_000
    rows: int = 10_000
    characters: int = 100_000_000


SMALL = Limits()


def run_select(sql: str, connection: sqlite3.Connection, limits: Limits = SMALL) -> list[tuple]:
    """Runs one SELECT under the limits; `sqlite3.Error` where it fails or is refused."""
    if not re.match(r"\s*SELECT\b", sql, re.IGNORECASE):
        raise sqlite3.DatabaseError("only a SELECT may run")
    checks = 0

    def over_budget() -> bool:
        nonlocal checks
        checks += 1
        return checks * STEPS_PER_CHECK > limits.steps

    def authorize(action: int, *_: str | None) -> int:
        return sqlite3.SQLITE_OK if action in ALLOWED_ACTIONS else sqlite3.SQLITE_DENY

    length = connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_CELL_BYTES)
    connection.set_authorizer(authorize)
    connection.set_progress_handler(over_budget, STEPS_PER_CHECK)
    try:
        return _fetch(connection.execute(sql), limits)
    except (sqlite3.Warning, ValueError) as error:  # two statements, or text SQLite cannot take
        raise sqlite3.DatabaseError(str(error)) from error
    finally:
        connection.set_progress_handler(None, 0)
        connection.set_authorizer(None)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, length)


def _fetch(cursor: sqlite3.Cursor, limits: Limits) -> list[tuple]:
    """Returns the rows; `sqlite3.DatabaseError` where the limits have no room for them."""
    rows, characters = [], 0
    for row in cursor:
        rows.append(row)
        characters += sum(len(cell) for cell in row if isinstance(cell, str | bytes))
        if len(rows) > limits.rows or characters > limits.characters:
            raise sqlite3.DatabaseError(
                f"more than {limits.rows} rows, or {limits.characters} characters"
            )
    return rows


def is_ordered(sql: str) -> bool:
    """Whether the query asks for an order (words inside string literals do not count)."""
    return re.search(r"\bORDER\s+BY\b", STRING.sub("''", sql), re.IGNORECASE) is not None


def execution_match(
    predicted_sql: str, gold_sql: str, connection: sqlite3.Connection, limits: Limits = SMALL
) -> bool:
    """True where both queries give the same rows, in the same order if the gold query has one.

    A prediction that fails, writes or runs too long does not match; an error of the gold query is
    a fault of the data and is raised.
    """
    gold = run_select(gold_sql, connection, limits)
    try:
        predicted = run_select(predicted_sql, connection, limits)
    except sqlite3.Error:
        return False
    return predicted == gold if is_ordered(gold_sql) else Counter(predicted) == Counter(gold)
