"""Ways of writing one query: people agree on what is asked, not on how SQL says it.

The queries of a training text come from many hands. So a model is unsure of the next token where
nothing is wrong with either, and the likeliest query is not the one of likeliest first tokens: the
spread that joint decoding is about, and that a task with one way of writing does not have. Every
way gives the same rows.
"""

import functools
import random
import re

from experiments.tasks.sql_schema import Database
from experiments.tasks.sql_text import STRING, outside_strings

_VALUE = rf"(?:{STRING.pattern}|\d+|\(SELECT [^()]*\([^()]*\)[^()]*\))"
_CONDITION = rf"[\w.]+ (?:[<>=]+ {_VALUE}|BETWEEN \d+ AND \d+)"
_FUNCTION = r"\b(count|avg|max|min|sum)\("


def membership(sql: str, database: Database) -> str:
    """A join that only filters, as IN: WHERE owner_id IN (SELECT id FROM owner WHERE ...)."""
    parent, child = database.tables
    join = f" JOIN {parent.name} ON {child.name}.{database.foreign_key} = {parent.name}.id WHERE "
    source, _, where = sql.partition(join)
    inner = where.removesuffix(";").removeprefix(f"{parent.name}.")
    source = source.replace(f"{child.name}.", "")
    return f"{source} WHERE {database.foreign_key} IN (SELECT id FROM {parent.name} WHERE {inner});"


def joined(sql: str, database: Database, rng: random.Random) -> str:
    """A join with its tables, or the sides of its condition, in another order, or with aliases."""
    parent, child = (table.name for table in database.tables)
    left, right = f"{child}.{database.foreign_key}", f"{parent}.id"
    old = f"FROM {child} JOIN {parent} ON {left} = {right}"
    first, second = (parent, child) if rng.random() < 0.25 else (child, parent)
    if rng.random() < 0.25:
        left, right = right, left
    join = "INNER JOIN" if rng.random() < 0.2 else "JOIN"
    new = f"FROM {first} {join} {second} ON {left} = {right}"
    sql = sql.replace(old, new)
    if rng.random() < 0.3:
        for name, alias in ((first, "t1"), (second, "t2")):
            sql = outside_strings(sql, functools.partial(re.sub, rf"\b{name}\.", f"{alias}."))
            sql = sql.replace(f" {name} {join}", f" {name} AS {alias} {join}")
            sql = sql.replace(f"{join} {name} ON", f"{join} {name} AS {alias} ON")
    return sql


def restyle(sql: str, database: Database, rng: random.Random) -> str:
    """The query as somebody else would write it, or as it is."""
    if " JOIN " in sql:
        filters = " GROUP BY " not in sql and " WHERE " in sql
        if filters and rng.random() < 0.25:
            sql = membership(sql, database)
        else:
            sql = joined(sql, database, rng)
    elif database.tables[0].columns[0] == "id" and rng.random() < 0.25:
        sql = sql.replace("count(*)", "count(id)")
    if rng.random() < 0.35:
        pair = rf" WHERE ({_CONDITION}) (AND|OR) ({_CONDITION})"
        sql = re.sub(pair, r" WHERE \3 \2 \1", sql)
    if rng.random() < 0.3:
        sql = re.sub(r"([\w.]+) BETWEEN (\d+) AND (\d+)", r"\1 >= \2 AND \1 <= \3", sql)
    if rng.random() < 0.3:
        sql = re.sub(
            r" FROM (\w+) ORDER BY (\w+)( DESC)? LIMIT 1;",
            lambda m: (
                f" FROM {m[1]} WHERE {m[2]} = "
                f"(SELECT {'max' if m[3] else 'min'}({m[2]}) FROM {m[1]});"
            ),
            sql,
        )
    if rng.random() < 0.3:
        sql = re.sub(r"( ORDER BY \w+)(?! DESC)(;| LIMIT)", r"\1 ASC\2", sql)
    if rng.random() < 0.25:
        sql = re.sub(r"^SELECT DISTINCT (\w+) (.*);$", r"SELECT \1 \2 GROUP BY \1;", sql)
    if rng.random() < 0.35:
        sql = outside_strings(sql, lambda part: part.replace("<>", "!="))
    if rng.random() < 0.25:
        sql = outside_strings(sql, lambda part: re.sub(_FUNCTION, lambda m: m[0].upper(), part))
    return sql
