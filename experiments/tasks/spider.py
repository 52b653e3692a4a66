"""Spider's questions about databases, judged by clauses and, where the databases are, by rows.

Source: Yu et al., 2018 (arXiv:1809.08887). The prompt is "Create Table + Select" of Rajkumar et
al., 2022 (arXiv:2204.00498), with the statements made from tables.json.
"""

import contextlib
import re
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from experiments.tasks.base import Message, Problem, Task, check_file, limited, value_of
from experiments.tasks.json_files import read_entries
from experiments.tasks.spider_query import exact_set_match, read_query, sqlglot
from experiments.tasks.spider_schema import Schema, read_schemas
from experiments.tasks.sql_execution import Limits, execution_match, run_select
from experiments.tasks.sql_text import STRING

_SOURCE = "yale-lily.github.io/spider"
_LIMITS = Limits(steps=200_000_000, rows=1_000_000)  # the largest table of dev has 510,437 rows
_TASK = "-- Using valid SQLite, answer the following questions for the tables provided above."
_FENCED = re.compile(r"```(?:(?P<language>\w*)\n)?(?P<code>.*?)(?P<end>```|\Z)", re.DOTALL)
_BEGIN = re.compile(r"(?:SELECT|WITH)\b", re.IGNORECASE)
_STATEMENT = re.compile(rf"(?:{STRING.pattern}|\"[^\"]*\"|[^;])*")


@dataclass(frozen=True)
class Spider(Task):
    """Questions of Spider's dev.json, or of another file of its format.

    Scores: `exact_set` (`spider_match`); `execution`, whether the query gives the rows of the gold
    query, columns in order, where the databases are there; `parses`, whether SQLite takes the query
    for the schema, on a database without rows, which says nothing of its being right.

    Attributes:
      path: of dev.json.
      tables: of tables.json, which has the schemas.
      databases: folder with DB/DB.sqlite; "" where there are none.
      limit: how many questions; None: all.
      shots: solved questions shown before each, of databases that are not asked about.
      train: file that the shots are from, such as train_spider.json.
    """

    path: str
    tables: str
    databases: str = ""
    limit: int | None = None
    shots: int = 0
    train: str = ""

    name: ClassVar[str] = "spider"
    metrics: ClassVar[tuple[str, ...]] = ("exact_set", "parses")
    stop: ClassVar[tuple[str, ...]] = (";", "--", "\n\n")
    max_new_tokens: ClassVar[int] = 128
    question: ClassVar[str] = "{}\nSELECT"
    answer: ClassVar[str] = "{};\n\n"

    def __post_init__(self) -> None:
        check_file(self.path, "Spider's dev.json", _SOURCE)
        check_file(self.tables, "Spider's tables.json", _SOURCE)
        if self.databases:
            if not Path(self.databases).expanduser().is_dir():
                raise FileNotFoundError(
                    f"databases={self.databases}: no such folder; Spider's is at {_SOURCE}"
                )
            # Which scores there are is the instance's: no rows, no execution.
            object.__setattr__(self, "metrics", ("execution", *self.metrics))
        if self.shots < 0:
            raise ValueError(f"shots={self.shots} must be >= 0")
        if self.shots:
            check_file(self.train, "Spider's train_spider.json, for the shots,", _SOURCE)
        limited([], self.limit)
        sqlglot()

    def prompts(self) -> list[Problem]:
        """Return the questions in the order of the file; the category is the database."""
        schemas = read_schemas(self.tables)
        problems = []
        for index, (source, entry) in enumerate(read_entries(self.path)):
            turn, gold, schema = _question(entry, schemas, source)
            problems.append(
                Problem(
                    id=str(index),
                    turns=(turn,),
                    reference=(gold, schema),
                    category=schema.db_id,
                    keys={"db_id": schema.db_id, "query": gold},
                )
            )
            if self.databases:
                check_file(self._database(schema), f"database of {source}", _SOURCE)
        asked = {problem.category for problem in problems}
        shots = self._shots(schemas, asked) if self.shots else ()
        return limited([replace(problem, shots=shots) for problem in problems], self.limit)

    def plain(self, messages: Sequence[Message]) -> str:
        """Return the prompt; it ends with SELECT, so the answers shown go on after theirs."""
        return super().plain(
            [
                {**m, "content": re.sub(r"^\s*SELECT\b", "", m["content"], flags=re.IGNORECASE)}
                if m["role"] == "assistant"
                else m
                for m in messages
            ]
        )

    def score(self, problem: Problem, answers: Sequence[str]) -> dict[str, float]:
        """Return whether the query matches the gold query, and whether SQLite takes it."""
        gold, schema = problem.reference
        query = query_of(answers[-1])
        scores = {
            "exact_set": float(exact_set_match(query, gold, schema)),
            "parses": float(_parses(query, schema)),
        }
        if self.databases:
            scores["execution"] = float(self._same_rows(query, gold, schema, problem.id))
        return {name: scores[name] for name in self.metrics}

    def _database(self, schema: Schema) -> Path:
        folder = Path(self.databases).expanduser().resolve()
        return folder / schema.db_id / f"{schema.db_id}.sqlite"

    def _same_rows(self, query: str, gold: str, schema: Schema, identity: str) -> bool:
        address = f"{self._database(schema).as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(address, uri=True)) as connection:
            # Some cells are not UTF-8; the test suites' evaluation drops such bytes, too.
            connection.text_factory = lambda data: data.decode("utf-8", errors="ignore")
            try:
                return execution_match(query, gold, connection, _LIMITS)
            except sqlite3.Error as error:
                raise ValueError(
                    f"{self.path} entry {int(identity) + 1}: its query fails: {error}"
                ) from error

    def _shots(self, schemas: dict[str, Schema], asked: set[str]) -> tuple[tuple[str, str], ...]:
        """Return the first question of each of the training file's first databases."""
        shots: dict[str, tuple[str, str]] = {}
        for source, entry in read_entries(self.train):
            turn, gold, schema = _question(entry, schemas, source)
            if schema.db_id not in asked:
                shots.setdefault(schema.db_id, (turn, gold))
            if len(shots) == self.shots:
                return tuple(shots.values())
        raise ValueError(
            f"shots={self.shots}: train={self.train} has {len(shots)} databases that {self.path} "
            "does not ask about, and each gives one: lower shots or give another file"
        )


def query_of(answer: str) -> str:
    """Return the query of an answer: its first block of code, or all of it, up to a semicolon.

    A plain prompt ends with SELECT, so an answer that does not begin with it goes on after it. A
    bare ``` with text before it, and no block after it, ends the query instead.
    """
    statement = _STATEMENT.match(_code_of(answer).strip())
    text = statement[0].strip() if statement else ""
    if re.match(r"WITH\b", text, re.IGNORECASE):
        return f"SELECT * FROM ({text})"
    return text if re.match(r"SELECT\b", text, re.IGNORECASE) else f"SELECT {text}"


def _code_of(answer: str) -> str:
    """Return the first block of code of an answer, or what stands before a ``` that ends it."""
    fenced = _FENCED.search(answer)
    if not fenced:
        return answer
    before = answer[: fenced.start()]
    opens = fenced["language"] or fenced["end"] or _BEGIN.match(fenced["code"].lstrip())
    return fenced["code"] if opens or not before.strip() else before


def _question(
    entry: dict[str, Any], schemas: dict[str, Schema], source: str
) -> tuple[str, str, Schema]:
    """Return what is asked, the gold query and the schema.

    Raises:
      ValueError: the entry is malformed, its database unknown or its query unreadable.
    """
    db_id = value_of(entry, "db_id", str, source)
    if db_id not in schemas:
        raise ValueError(f"{source}: db_id={db_id!r} has no schema: give the tables.json beside it")
    question = " ".join(value_of(entry, "question", str, source).split())
    gold = value_of(entry, "query", str, source).strip().rstrip(";").strip()
    try:
        read_query(gold, schemas[db_id])
    except ValueError as error:
        raise ValueError(f"{source}: query={gold[:60]!r} cannot be read: {error}") from error
    schema = schemas[db_id]
    return f"{schema.create()}\n\n{_TASK}\n\n-- {question}", gold, schema


def _parses(query: str, schema: Schema) -> bool:
    """Return whether SQLite takes the query, on a database that has the tables and no rows."""
    with contextlib.closing(schema.empty_database()) as connection:
        try:
            run_select(query, connection)
        except sqlite3.Error:
            return False
    return True
