"""The schemas of Spider's databases: as CREATE TABLE statements, and as an empty database."""

import functools
import re
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from experiments.tasks.base import value_of
from experiments.tasks.json_files import read_entries


@dataclass(frozen=True)
class SchemaTable:
    """A table: names as the database has them.

    Attributes:
      name: its name.
      columns: (name, type) of each, types in Spider's words.
      primary: columns of its primary key.
      foreign: (column, other table, its column) of each foreign key.
    """

    name: str
    columns: tuple[tuple[str, str], ...]
    primary: tuple[str, ...] = ()
    foreign: tuple[tuple[str, str, str], ...] = ()

    def create(self) -> str:
        """Return the statement that makes the table, a column or key a line."""
        lines = [f"{quoted(name)} {kind}" for name, kind in self.columns]
        if self.primary:
            lines.append(f"PRIMARY KEY ({', '.join(map(quoted, self.primary))})")
        lines += [
            f"FOREIGN KEY ({quoted(own)}) REFERENCES {quoted(table)} ({quoted(other)})"
            for own, table, other in self.foreign
        ]
        body = ",\n".join(f"  {line}" for line in lines)
        return f"CREATE TABLE {quoted(self.name)} (\n{body}\n)"


@dataclass(frozen=True)
class Schema:
    """The tables of a database.

    Attributes:
      db_id: its name in Spider.
      tables: in Spider's order.
      columns: names of columns by names of tables, all in lower case.
      joined: `table.column` in lower case of columns that foreign keys join, and the one column
        that stands for all that are joined.
    """

    db_id: str
    tables: tuple[SchemaTable, ...]
    columns: Mapping[str, tuple[str, ...]]
    joined: Mapping[str, str]

    def create(self) -> str:
        """Return the statements that make the tables."""
        return "\n\n".join(table.create() for table in self.tables)

    def empty_database(self) -> sqlite3.Connection:
        """Return a new database in memory with these tables and no rows.

        Raises:
          sqlite3.Error: SQLite does not take the schema.
        """
        connection = sqlite3.connect(":memory:")
        for table in self.tables:
            connection.execute(table.create())
        return connection


@functools.cache
def quoted(name: str) -> str:
    """Return a name as SQL writes it: in quotes where SQLite would not take it without."""
    if re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
        connection = sqlite3.connect(":memory:")
        try:
            connection.execute(f"CREATE TABLE {name} ({name} text, PRIMARY KEY ({name}))")
            return name
        except sqlite3.Error:  # a keyword
            pass
        finally:
            connection.close()
    return '"' + name.replace('"', '""') + '"'


def read_schemas(path: str) -> dict[str, Schema]:
    """Return the schemas of a file in the format of Spider's tables.json, by `db_id`.

    Raises:
      ValueError: a malformed entry; names file and entry.
      OSError: the file cannot be read.
    """
    schemas = (_schema(entry, source) for source, entry in read_entries(path))
    return {schema.db_id: schema for schema in schemas}


def _schema(entry: Mapping[str, Any], source: str) -> Schema:
    """Return the schema of an entry.

    Raises:
      ValueError: a key is missing, or a number refers to nothing.
    """
    names = value_of(entry, "table_names_original", list, source)
    columns = value_of(entry, "column_names_original", list, source)
    kinds = value_of(entry, "column_types", list, source)
    primary = value_of(entry, "primary_keys", list, source)
    foreign = value_of(entry, "foreign_keys", list, source)
    try:
        tables = tuple(
            SchemaTable(
                name,
                tuple(
                    (column, kind)
                    for (owner, column), kind in zip(columns, kinds, strict=True)
                    if owner == index
                ),
                tuple(columns[key][1] for key in primary if columns[key][0] == index),
                tuple(
                    (columns[own][1], names[columns[other][0]], columns[other][1])
                    for own, other in foreign
                    if columns[own][0] == index
                ),
            )
            for index, name in enumerate(names)
            if not name.lower().startswith("sqlite_")  # SQLite's own
        )
        full = [f"{names[owner]}.{name}".lower() for owner, name in columns]
        joined = _joined(full, foreign)
    except (TypeError, ValueError, IndexError) as error:
        raise ValueError(f"{source}: columns and keys do not fit together: {error}") from error
    lower = {t.name.lower(): tuple(name.lower() for name, _ in t.columns) for t in tables}
    return Schema(value_of(entry, "db_id", str, source), tables, lower, joined)


def _joined(columns: list[str], foreign: list[list[int]]) -> dict[str, str]:
    """Return for each column of a foreign key the first of all columns that it is joined with.

    A key joins the first group that has one of its ends. Two groups are never made one, as Spider's
    own evaluation never does.
    """
    groups: list[set[int]] = []
    for key in foreign:
        group = next((group for group in groups if group & set(key)), None)
        if group is None:
            groups.append(group := set())
        group.update(key)
    return {columns[index]: columns[min(group)] for group in groups for index in group}
