"""Databases of the synthetic text-to-SQL task: schemas and rows composed from a database id.

A database id is `<domain>_<variant>`; the domain fixes the nouns, the variant picks table names,
columns and rows. `mixed_<variant>` ids are composed from thousands of common words, so that a model
has to copy names from the prompt instead of remembering them. Some columns have short names
(`opnd_yr`) of which questions say the whole (`opened year`), as in the schemas that people have: so
which column is meant is not always plain, and right answers take more than copying.
"""

import dataclasses
import functools
import random
import re
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.tasks import sql_domains as words
from experiments.tasks.sql_text import outside_strings

ROWS = 24
PARENT_ROWS = 8  # parents that children refer to, so that a parent has about three children
CATEGORIES = (3, 6)  # distinct values of a text column
TABLE_NAMES = {"{s}": 6, "{p}": 5, "{s}_info": 1, "all_{p}": 1, "{s}_list": 1, "tbl_{s}": 1}
MIXED = "mixed"
SHORT_SHARE = 0.5  # of the columns but keys and labels


@dataclass(frozen=True)
class Domain:
    """One noun with the columns that it may have."""

    singular: str
    plural: str
    label: tuple[str, str]  # column name and the pool of its (unique) values
    texts: tuple[str, ...]
    numbers: tuple[str, ...]
    cells: tuple[str, ...] = ()  # of text columns that `TEXT_VALUES` does not know; (): invented


@dataclass(frozen=True)
class Table:
    """A table, its noun in questions, and its rows (which the model does not see).

    Columns go by their whole names everywhere but in `describe`, in the database, and in queries
    that are run.
    """

    name: str
    singular: str
    plural: str
    columns: tuple[str, ...]
    label: str
    texts: tuple[str, ...]
    numbers: tuple[str, ...]
    rows: tuple[tuple, ...]
    short: tuple[tuple[str, str], ...] = ()  # columns with their short names

    @property
    def shown(self) -> tuple[str, ...]:
        """The columns' names in the database."""
        names = dict(self.short)
        return tuple(names.get(column, column) for column in self.columns)

    def describe(self) -> str:
        """The table as the prompt shows it, e.g. `singer(name, age)`."""
        return f"{self.name}({', '.join(self.shown)})"

    def column(self, name: str) -> list:
        """The cells of a column, in row order."""
        index = self.columns.index(name)
        return [row[index] for row in self.rows]


@dataclass(frozen=True)
class Database:
    """One table, or a parent table and a child table with a `<parent>_id` column."""

    db_id: str
    tables: tuple[Table, ...]
    foreign_key: str = ""

    def shorten(self, sql: str) -> str:
        """The query with the columns' names in the database, strings left as they are."""
        names = {whole: short for table in self.tables for whole, short in table.short}
        return outside_strings(
            sql, lambda part: re.sub(r"\w+", lambda m: names.get(m[0], m[0]), part)
        )


def pluralize(noun: str) -> str:
    """The regular English plural."""
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")


def parse_domains(text: str) -> dict[str, Domain]:
    """Reads the domain lines of `sql_domains`, keyed by the singular noun."""
    domains = {}
    for line in text.strip().splitlines():
        noun, label, texts, numbers = (part.strip() for part in line.split(";"))
        singular, _, plural = noun.partition("/")
        name, _, pool = label.partition(":")
        domains[singular] = Domain(
            singular,
            plural or pluralize(singular),
            (name, pool),
            tuple(texts.split()),
            tuple(numbers.split()),
        )
    return domains


def parse_values(text: str) -> dict[str, list[str]]:
    """Reads `column: value, value, ...` lines; an indented line continues the one before."""
    lines = text.replace("\n  ", " ").strip().splitlines()
    parts = (line.split(": ", 1) for line in lines)
    return {column: values.split(", ") for column, values in parts}


def parse_relations(text: str) -> list[tuple[str, str]]:
    """Reads `parent child, parent child, ...`."""
    pairs = (pair.split() for pair in text.split(","))
    return [(parent, child) for parent, child in pairs]


DOMAINS = {
    "train": parse_domains(words.TRAIN_DOMAINS),
    "held_out": parse_domains(words.HELD_OUT_DOMAINS),
}
RELATIONS = {
    "train": parse_relations(words.TRAIN_RELATIONS),
    "held_out": parse_relations(words.HELD_OUT_RELATIONS),
}


TEXT_VALUES = parse_values(words.TEXT_VALUES)


def invented_word(rng: random.Random) -> str:
    """A pronounceable word that no corpus contains."""
    return "".join(rng.choices(words.SYLLABLES, k=rng.choice((2, 3))))


def label_value(pool: str, rng: random.Random) -> str:
    """One value of a label column."""
    match pool:
        case "person":
            return f"{rng.choice(words.FIRST_NAMES)} {rng.choice(words.LAST_NAMES)}"
        case "first":
            return rng.choice(words.FIRST_NAMES)
        case "title":
            return f"{rng.choice(words.TITLE_FIRST)} {rng.choice(words.TITLE_SECOND)}"
        case "company":
            suffix = rng.choice(("Group", "Works", "United", "Stars"))
            return f"{invented_word(rng).title()} {suffix}"
        case "code":
            return rng.choice("ABCDEFGHKLMNPRSTX") + str(rng.randint(10, 999))
    return invented_word(rng).title()


def unique_labels(pool: str, rng: random.Random) -> list[str]:
    """`ROWS` distinct labels."""
    labels: dict[str, None] = {}
    while len(labels) < ROWS:
        labels[label_value(pool, rng)] = None
    return list(labels)


def text_cells(column: str, rng: random.Random, others: Sequence[str] = ()) -> list[str]:
    """`ROWS` cells from a few categories, every category at least once.

    Of a column that `TEXT_VALUES` does not know they are some of `others`, or invented words.
    """
    if column in TEXT_VALUES:
        pool = TEXT_VALUES[column]
    elif others:
        pool = rng.sample(others, CATEGORIES[1])
    elif column.endswith("_name"):
        pool = [label_value("person", rng) for _ in range(CATEGORIES[1])]
    else:
        pool = [invented_word(rng) for _ in range(CATEGORIES[1])]
    pool = sorted(set(pool))
    chosen = rng.sample(pool, min(len(pool), rng.randint(*CATEGORIES)))
    cells = chosen + rng.choices(chosen, k=ROWS - len(chosen))
    rng.shuffle(cells)
    return cells


def number_cells(column: str, rng: random.Random) -> list[int]:
    """`ROWS` distinct numbers: an ORDER BY then has one answer."""
    name = "year" if column.endswith("_year") else column
    low, high = words.NUMBER_RANGES.get(name, words.DEFAULT_RANGE)
    return rng.sample(range(low, high + 1), ROWS)


@functools.cache
def common_words() -> tuple[str, ...]:
    """Six thousand English words; none is a keyword of SQLite, or of the held-out domains."""
    return tuple(Path(__file__).with_name("words.txt").read_text(encoding="ascii").split())


@functools.cache
def known_columns() -> tuple[str, ...]:
    """Column names of the training domains and the extra ones."""
    known = DOMAINS["train"].values()
    names = {name for domain in known for name in (*domain.texts, *domain.numbers)}
    return tuple(sorted(names | set(words.EXTRA_TEXTS) | set(words.EXTRA_NUMBERS)))


def mixed_noun(rng: random.Random) -> str:
    """A noun: a common word, a noun of the training, or an invented word."""
    kind = rng.random()
    if kind < 0.15:
        return invented_word(rng)
    if kind < 0.3:
        return rng.choice([*words.EXTRA_NOUNS, *DOMAINS["train"]])
    return rng.choice(common_words())


def mixed_column(rng: random.Random) -> str:
    """A column name: one or two common words, a column of the training, or an invented word."""
    kind = rng.random()
    if kind < 0.12:
        return invented_word(rng)
    if kind < 0.2:
        return rng.choice(known_columns())
    if kind < 0.4:
        return f"{rng.choice(common_words())}_{rng.choice(common_words())}"
    return rng.choice(common_words())


def mixed_domain(rng: random.Random) -> Domain:
    """A domain put together from common words: too many to remember, so names must be copied."""
    noun = mixed_noun(rng)
    label = rng.choice(("name", "title", "code", "label", "model", f"{noun}_name"))
    names = dict.fromkeys(mixed_column(rng) for _ in range(12))
    columns = [name for name in names if name not in (label, "id")]
    pool = rng.choice(("person", "title", "company", "code", "word", "word", "first"))
    cells = rng.sample(common_words(), 20) + [invented_word(rng) for _ in range(10)]
    cells = [cell.title() if rng.random() < 0.5 else cell for cell in dict.fromkeys(cells)]
    label_and_pool, middle = (label, pool), len(columns) // 2
    return Domain(
        noun, pluralize(noun), label_and_pool, tuple(columns[:middle]), tuple(columns[middle:]),
        tuple(cells),
    )  # fmt: skip


def short_name(column: str, rng: random.Random) -> str:
    """A name as hurried people write it: without inner vowels, or the beginnings of its words."""
    parts = column.split("_")
    if rng.random() < 0.5:
        return "_".join(part[0] + re.sub("[aeiou]", "", part[1:]) for part in parts)
    return "_".join(part[: rng.choice((3, 4))] for part in parts)


def shortened(tables: list[Table], rng: random.Random) -> tuple[Table, ...]:
    """The tables with short names of some columns; a column of both has one name in both."""
    nouns = {table.name for table in tables}
    taken = nouns.union(words.SHORT_KEYWORDS, *(table.columns for table in tables))
    columns = dict.fromkeys(c for table in tables for c in (*table.texts, *table.numbers))
    short = {}
    for column in columns:
        name = short_name(column, rng)
        free = len(name) > 2 and name not in taken and column not in nouns
        if rng.random() < SHORT_SHARE and free:
            short[column] = name
            taken.add(name)
    return tuple(
        dataclasses.replace(table, short=tuple((c, short[c]) for c in table.columns if c in short))
        for table in tables
    )


def build_table(domain: Domain, rng: random.Random, with_id: bool, parent: Table | None) -> Table:
    """One table of the domain with a random subset of its columns."""
    style = rng.choices(list(TABLE_NAMES), list(TABLE_NAMES.values()))[0]
    name = style.format(s=domain.singular, p=domain.plural)
    name = domain.singular if name in words.PLURAL_KEYWORDS else name
    limit = 2 if with_id else 3
    texts = rng.sample(domain.texts, rng.randint(1, min(limit, len(domain.texts))))
    numbers = rng.sample(domain.numbers, rng.randint(1, min(limit, len(domain.numbers))))
    cells = {column: text_cells(column, rng, domain.cells) for column in texts}
    cells |= {column: number_cells(column, rng) for column in numbers}
    order = list(cells)
    rng.shuffle(order)
    label, pool = domain.label
    cells[label] = unique_labels(pool, rng)
    order.insert(0, label)
    if with_id:
        cells["id"] = list(range(1, ROWS + 1))
        order.insert(0, "id")
    if parent is not None:
        keys = rng.sample(range(1, ROWS + 1), PARENT_ROWS)
        column = f"{parent.singular}_id"
        cells[column] = [rng.choice(keys) for _ in range(ROWS)]
        order.insert(rng.randint(1, len(order)), column)
    rows = tuple(zip(*(cells[column] for column in order), strict=True))
    nouns = domain.singular, domain.plural
    return Table(name, *nouns, tuple(order), label, tuple(texts), tuple(numbers), rows)


def database_domains(db_id: str, rng: random.Random) -> list[Domain]:
    """The domains of an id's tables: the parent first where there are two tables."""
    noun = db_id.rpartition("_")[0]
    if noun == MIXED:
        first, second = mixed_domain(rng), mixed_domain(rng)
        two_tables = rng.random() < 0.35 and first.singular != second.singular
        return [first, second] if two_tables else [first]
    split = "train" if noun in DOMAINS["train"] else "held_out"
    domains, pairs = DOMAINS[split], [pair for pair in RELATIONS[split] if noun in pair]
    if pairs and rng.random() < 0.4:
        return [domains[name] for name in rng.choice(pairs)]
    return [domains[noun]]


@functools.lru_cache(maxsize=4096)
def load_database(db_id: str) -> Database:
    """Composes the database of an id; the same id gives the same database in every process."""
    rng = random.Random(db_id)
    domains = database_domains(db_id, rng)
    if len(domains) == 1:
        table = build_table(domains[0], rng, rng.random() < 0.3, None)
        return Database(db_id, shortened([table], rng))
    parent = build_table(domains[0], rng, True, None)
    child = build_table(domains[1], rng, True, parent)
    return Database(db_id, shortened([parent, child], rng), f"{parent.singular}_id")


def build_database(db_id: str) -> sqlite3.Connection:
    """The database of an id in memory, filled with its rows."""
    connection = sqlite3.connect(":memory:")
    for table in load_database(db_id).tables:
        columns = ", ".join(f'"{column}"' for column in table.shown)
        connection.execute(f'CREATE TABLE "{table.name}" ({columns})')
        marks = ", ".join("?" * len(table.columns))
        connection.executemany(f'INSERT INTO "{table.name}" VALUES ({marks})', table.rows)
    connection.commit()
    return connection
