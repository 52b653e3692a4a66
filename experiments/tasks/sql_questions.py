"""Question forms of the synthetic text-to-SQL task: a question in English and its query.

Each form takes a table and a random generator and returns `(question, sql)`. Values in conditions
come from the table's rows, so that queries usually give some rows, but not all.
"""

import random
import re
from collections import Counter
from collections.abc import Callable

from experiments.tasks.sql_schema import Database, Table
from experiments.tasks.sql_text import STRING

Question = tuple[str, str]
SHOW = ("show", "list", "give", "find", "return", "what is", "display", "get", "tell me")
AGGREGATES = {
    "avg": ("average", "mean"),
    "max": ("maximum", "highest", "largest"),
    "min": ("minimum", "lowest", "smallest"),
    "sum": ("total", "sum of the", "combined"),
}
MORE = ("greater than", "more than", "above", "over", "larger than")
LESS = ("less than", "below", "under", "smaller than")
EXTREMES = (("highest", " DESC"), ("largest", " DESC"), ("lowest", ""), ("smallest", ""))
ORDERS = (
    ("in descending order of {}", " DESC"),
    ("sorted by {} from high to low", " DESC"),
    ("in ascending order of {}", ""),
    ("sorted by {}", ""),
    ("ordered by {}", ""),
)
COUNTS = (
    "how many {} are there",
    "how many {} exist",
    "count the {}",
    "what is the number of {}",
    "find the number of {}",
    "give the count of {}",
)
GROUPS = (
    "{show} the {what} for each {group}",
    "for each {group}, {show} the {what}",
    "{show} every {group} and the {what}",
    "{show} the {what} per {group}",
)
FREQUENT = (
    "{show} every {group} with more than {rows}",
    "which {group} has more than {rows}",
    "{show} the {group} that more than {rows} have",
)


def spoken(column: str) -> str:
    """A column name as a question says it."""
    return column.replace("_", " ")


def literal(value: str | int) -> str:
    """A value as SQL writes it."""
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"


def pick_columns(table: Table, rng: random.Random) -> list[str]:
    """One or two columns to show, the label being the likeliest."""
    columns = [table.label, *table.texts, *table.numbers]
    weights = [3] + [1] * (len(columns) - 1)
    first = rng.choices(columns, weights)[0]
    if rng.random() < 0.6:
        return [first]
    return [first, rng.choice([column for column in columns if column != first])]


def condition(table: Table, row: int, column: str, rng: random.Random) -> tuple[str, str, str]:
    """A condition that the row meets: the words after "whose", those after "with", and the SQL."""
    cells, name = table.column(column), spoken(column)
    if column not in table.numbers or rng.random() < 0.15:
        others = [cell for cell in cells if cell != cells[row]]
        if column in table.texts and others and rng.random() < 0.15:
            value = literal(rng.choice(others))
            return f"{name} is not {value}", f"{name} other than {value}", f"{column} <> {value}"
        value, word = literal(cells[row]), rng.choice(("is", "equals", "is"))
        return f"{name} {word} {value}", f"{name} {value}", f"{column} = {value}"
    ranked = sorted(cells)
    rank = ranked.index(cells[row])
    if rng.random() < 0.15:
        word, sign = ("above", ">") if cells[row] > sum(cells) / len(cells) else ("below", "<")
        mean = f"(SELECT avg({column}) FROM {table.name})"
        return f"{name} is {word} average", f"{word} average {name}", f"{column} {sign} {mean}"
    if 0 < rank < len(ranked) - 1 and rng.random() < 0.15:
        low = ranked[rng.randint(max(0, rank - 8), rank - 1)]
        high = ranked[rng.randint(rank + 1, min(len(ranked) - 1, rank + 8))]
        between = f"{name} is between {low} and {high}", f"{name} from {low} to {high}"
        return *between, f"{column} BETWEEN {low} AND {high}"
    is_year = column == "year" or column.endswith("_year")
    if rank >= len(ranked) // 3 and (rng.random() < 0.5 or rank > len(ranked) * 2 // 3):
        value = ranked[rng.randint(max(0, rank - 8), rank - 1)]
        word, sign = rng.choice(("after", *MORE) if is_year else MORE), ">"
    else:
        value = ranked[rng.randint(rank + 1, min(len(ranked) - 1, rank + 8))]
        word, sign = rng.choice(("before", *LESS) if is_year else LESS), "<"
    return f"{name} is {word} {value}", f"{name} {word} {value}", f"{column} {sign} {value}"


def conditions(table: Table, rng: random.Random) -> Question:
    """One or two conditions: the words that follow the noun, and the SQL after WHERE."""
    columns = [*table.texts, *table.numbers] + ([table.label] if rng.random() < 0.3 else [])
    row = rng.randrange(len(table.rows))
    chosen = rng.sample(columns, 2 if len(columns) > 1 and rng.random() < 0.4 else 1)
    connective = rng.choice(("and", "and", "or"))
    parts = []
    for column in chosen:
        row = rng.randrange(len(table.rows)) if connective == "or" else row
        parts.append(condition(table, row, column, rng))
    sql = f" {connective.upper()} ".join(part[2] for part in parts)
    if rng.random() < 0.5:
        return "with " + f" {connective} ".join(part[1] for part in parts), sql
    return "whose " + f" {connective} ".join(part[0] for part in parts), sql


def target(table: Table, rng: random.Random) -> Question:
    """The rows asked about, all or those under conditions: words, and the SQL from FROM on."""
    if rng.random() < 0.3:
        return rng.choice(("all ", "the ", "")) + table.plural, f"FROM {table.name}"
    words, where = conditions(table, rng)
    rows = f"{rng.choice(('', 'the ', 'all '))}{table.plural} {words}"
    return rows, f"FROM {table.name} WHERE {where}"


def select_form(table: Table, rng: random.Random) -> Question:
    """SELECT columns FROM table [WHERE ...]."""
    columns, (rows, source) = pick_columns(table, rng), target(table, rng)
    asked = " and ".join(spoken(column) for column in columns)
    return f"{rng.choice(SHOW)} the {asked} of {rows}", f"SELECT {', '.join(columns)} {source};"


def count_form(table: Table, rng: random.Random) -> Question:
    """SELECT count(*) FROM table [WHERE ...]."""
    if rng.random() < 0.8:
        words, where = conditions(table, rng)
        rows, source = f"{table.plural} {words}", f"FROM {table.name} WHERE {where}"
    else:
        rows, source = table.plural, f"FROM {table.name}"
    return rng.choice(COUNTS).format(rows), f"SELECT count(*) {source};"


def aggregate_form(table: Table, rng: random.Random) -> Question:
    """SELECT avg|max|min|sum(column) FROM table [WHERE ...]."""
    column, (rows, source) = rng.choice(table.numbers), target(table, rng)
    functions = rng.sample(list(AGGREGATES), 2 if rng.random() < 0.2 else 1)
    asked = " and ".join(rng.choice(AGGREGATES[function]) for function in functions)
    selected = ", ".join(f"{function}({column})" for function in functions)
    question = f"{rng.choice(SHOW)} the {asked} {spoken(column)} of {rows}"
    return question, f"SELECT {selected} {source};"


def order_form(table: Table, rng: random.Random) -> Question:
    """SELECT columns FROM table [WHERE ...] ORDER BY column [DESC]."""
    columns, (rows, source) = pick_columns(table, rng), target(table, rng)
    key, asked = rng.choice(table.numbers), " and ".join(spoken(column) for column in columns)
    order, tail = rng.choice(ORDERS)
    sql = f"SELECT {', '.join(columns)} {source} ORDER BY {key}{tail};"
    return f"{rng.choice(SHOW)} the {asked} of {rows} {order.format(spoken(key))}", sql


def top_form(table: Table, rng: random.Random) -> Question:
    """SELECT columns FROM table ORDER BY column [DESC] LIMIT n."""
    columns, key = pick_columns(table, rng), rng.choice(table.numbers)
    asked = " and ".join(spoken(column) for column in columns)
    count, (extreme, tail) = rng.choice((1, 1, 2, 3, 4, 5)), rng.choice(EXTREMES)
    rows = table.singular if count == 1 else f"{count} {table.plural}"
    question = f"{rng.choice(SHOW)} the {asked} of the {rows} with the {extreme} {spoken(key)}"
    source = f"FROM {table.name} ORDER BY {key}{tail} LIMIT {count}"
    return question, f"SELECT {', '.join(columns)} {source};"


def frequent_form(table: Table, rng: random.Random) -> Question:
    """SELECT column FROM table GROUP BY column HAVING count(*) > n (or the most common one)."""
    group = rng.choice(table.texts)
    counts = sorted(Counter(table.column(group)).values(), reverse=True)
    rows = f"FROM {table.name} GROUP BY {group}"
    if rng.random() < 0.4 and counts[0] > counts[1]:
        question = f"{rng.choice(SHOW)} the most common {spoken(group)} of {table.plural}"
        return question, f"SELECT {group} {rows} ORDER BY count(*) DESC LIMIT 1;"
    least = rng.randint(1, max(1, counts[0] - 1))
    question = rng.choice(FREQUENT).format(
        show=rng.choice(SHOW), group=spoken(group), rows=f"{least} {table.plural}"
    )
    return question, f"SELECT {group} {rows} HAVING count(*) > {least};"


def group_form(table: Table, rng: random.Random) -> Question:
    """SELECT column, count(*) FROM table GROUP BY column (or an aggregate of a number)."""
    if rng.random() < 0.35:
        return frequent_form(table, rng)
    group = rng.choice(table.texts)
    if rng.random() < 0.6:
        what, selected = f"number of {table.plural}", "count(*)"
    else:
        function, column = rng.choice(list(AGGREGATES)), rng.choice(table.numbers)
        what = f"{rng.choice(AGGREGATES[function])} {spoken(column)} of {table.plural}"
        selected = f"{function}({column})"
    form, show = rng.choice(GROUPS), rng.choice(SHOW[:5])
    question = form.format(show=show, what=what, group=spoken(group))
    return question, f"SELECT {group}, {selected} FROM {table.name} GROUP BY {group};"


def distinct_form(table: Table, rng: random.Random) -> Question:
    """SELECT DISTINCT column, or count(DISTINCT column)."""
    column, word = rng.choice(table.texts), rng.choice(("different", "distinct", "unique"))
    rows, source = target(table, rng)
    if rng.random() < 0.5:
        start = rng.choice(("how many", "count the"))
        question = f"{start} {word} {spoken(column)} values of {rows}"
        return question, f"SELECT count(DISTINCT {column}) {source};"
    question = f"{rng.choice(SHOW)} the {word} {spoken(column)} values of {rows}"
    return question, f"SELECT DISTINCT {column} {source};"


def join_form(database: Database, rng: random.Random) -> Question:
    """A query over a parent and a child table."""
    parent, child = database.tables
    key = f"{child.name}.{database.foreign_key} = {parent.name}.id"
    source = f"FROM {child.name} JOIN {parent.name} ON {key}"
    label, spoken_label = f"{parent.name}.{parent.label}", spoken(parent.label)
    show, kind = rng.choice(SHOW), rng.choice(("pairs", "filter", "filter", "count", "group"))
    if kind == "pairs":
        question = f"{show} the {spoken(child.label)} of each {child.singular}"
        question += f" and the {spoken_label} of its {parent.singular}"
        return question, f"SELECT {child.name}.{child.label}, {label} {source};"
    if kind == "group":
        question = f"{show} the {spoken_label} and number of {child.plural}"
        question += f" of each {parent.singular}"
        return question, f"SELECT {label}, count(*) {source} GROUP BY {label};"
    words, where = owner_condition(database, rng)
    if kind == "count":
        question = f"how many {child.plural} belong to {parent.plural} {words}"
        return question, f"SELECT count(*) {source} WHERE {where};"
    column = rng.choice([child.label, *child.texts, *child.numbers])
    question = f"{show} the {spoken(column)} of {child.plural}"
    question += f" that belong to {parent.plural} {words}"
    return question, f"SELECT {child.name}.{column} {source} WHERE {where};"


def owner_condition(database: Database, rng: random.Random) -> Question:
    """A condition on the parent table that a parent with children meets."""
    parent, child = database.tables
    owners = set(child.column(database.foreign_key))
    row = rng.choice([i for i, key in enumerate(parent.column("id")) if key in owners])
    column = rng.choice([parent.label, *parent.texts, *parent.numbers])
    whose, with_, where = condition(parent, row, column, rng)
    return rng.choice((f"whose {whose}", f"with {with_}")), f"{parent.name}.{where}"


FORMS: tuple[tuple[Callable[[Table, random.Random], Question], int], ...] = (
    (select_form, 4),
    (count_form, 3),
    (aggregate_form, 3),
    (order_form, 2),
    (top_form, 2),
    (group_form, 2),
    (distinct_form, 2),
)


# What tells a form from those after it.
_SIGNS = {
    "join": r"\bJOIN\b", "group": r"\bGROUP BY\b", "distinct": r"\bDISTINCT\b",
    "top": r"\bLIMIT\b", "order": r"\bORDER BY\b", "count": r"^SELECT count\b",
    "aggregate": r"^SELECT (avg|max|min|sum)\b",
}  # fmt: skip


def form_of(sql: str) -> str:
    """The form of a plainly written query; "select" where it is none of the others."""
    outside = STRING.sub("", sql)
    return next((form for form, sign in _SIGNS.items() if re.search(sign, outside)), "select")


def is_degenerate(sql: str) -> bool:
    """Whether a column that a condition fixes to one value is asked for as well."""
    fixed = re.findall(r"([\w.]+) = (?:\d|')", sql)
    return any(len(re.findall(rf"(?<![\w.']){re.escape(name)}(?!\w)", sql)) > 1 for name in fixed)


def ask(database: Database, rng: random.Random) -> Question:
    """A question about the database and its query."""
    while is_degenerate((question := draw(database, rng))[1]):
        pass
    return question


def draw(database: Database, rng: random.Random) -> Question:
    """A question of a random form; some say little, such as the city of those with city Rome."""
    if len(database.tables) == 2 and rng.random() < 0.6:
        return join_form(database, rng)
    forms, weights = zip(*FORMS, strict=True)
    return rng.choices(forms, weights)[0](rng.choice(database.tables), rng)
