"""The synthetic text-to-SQL task: its examples, its databases and the execution match."""

import hashlib
import random
import re
import sqlite3
import time

import pytest

from experiments.tasks import text_to_sql
from experiments.tasks.sql_execution import Limits, run_select
from experiments.tasks.sql_questions import (
    aggregate_form,
    ask,
    count_form,
    distinct_form,
    form_of,
    group_form,
    is_degenerate,
    order_form,
    select_form,
    top_form,
)
from experiments.tasks.sql_schema import DOMAINS, common_words, load_database, short_name
from experiments.tasks.sql_styles import restyle
from experiments.tasks.text_to_sql import build_database, examples, execution_match

DB_ID = "singer_0"


@pytest.fixture
def connection():
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE t (name, city, age)")
    rows = [("Ann", "Rome", 30), ("Bob", "Oslo", 20), ("Cid", "Rome", 40), ("Dee", "Lima", 50)]
    connection.executemany("INSERT INTO t VALUES (?, ?, ?)", rows)
    connection.commit()
    yield connection
    connection.close()


@pytest.mark.parametrize("split", text_to_sql.SPLITS)
def test_gold_queries_run_and_match_themselves(split):
    found = examples(split, 400, seed=3)
    assert len({example.prompt for example in found}) == 400
    empty = 0
    for example in found:
        connection = build_database(example.db_id)
        assert execution_match(example.sql, example.sql, connection), example.sql
        empty += text_to_sql.gold_rows(example) in ([], [(0,)], [(None,)])
        connection.close()
    assert empty == 0


def test_wrong_queries_rarely_match():
    """Values and columns matter: dropping WHERE or turning a sign round changes the rows."""
    matched = total = 0
    for example in examples("held_out", 400, seed=4):
        wrong = example.sql.translate(str.maketrans("<>", "><"))
        if wrong == example.sql:
            wrong = re.sub(r" WHERE .*?(?= ORDER BY| ;)", "", example.sql)
        if wrong == example.sql:
            continue
        connection = build_database(example.db_id)
        matched += execution_match(wrong, example.sql, connection)
        total += 1
        connection.close()
    assert total > 150
    assert matched / total < 0.12


def test_prompt_ends_where_the_query_begins():
    for example in examples("train", 200, seed=0):
        assert example.prompt.endswith(f"-- {example.question}\n")
        assert example.prompt.count("\n") == len(example.tables) + 1
        assert example.sql.startswith("SELECT ") and example.sql.endswith(";")
        assert text_to_sql.spaced(example.tables[0].describe()) in example.prompt


def test_a_name_is_spelled_alike_in_schema_and_query():
    """With spaces around punctuation; the query gives the same rows, strings are untouched."""
    assert text_to_sql.spaced("a(b, c_d)") == "a ( b , c_d )"
    query = "SELECT count(*), t.a FROM t WHERE a = 'x, (y)  z' AND b > 3;"
    assert text_to_sql.spaced(query) == (
        "SELECT count ( * ) , t . a FROM t WHERE a = 'x, (y)  z' AND b > 3 ;"
    )
    for example in examples("held_out", 200, 2):
        names = re.findall(r"[a-z_]+", example.prompt.rpartition("-- ")[0])
        assert all(f" {name} " in example.prompt for name in names)
        used = [word for word in re.sub(r"'.*?'", "", example.sql).split() if word in names]
        assert used and all(f" {name} " in example.sql for name in used)
        values = re.findall(r"'[^']*'", example.sql)
        assert all(value in example.prompt for value in values)


def test_some_columns_have_short_names():
    """In schema and query, never in the question; one name a column, none of another's."""
    rng = random.Random(0)
    assert {short_name("opened_year", rng) for _ in range(50)} == {
        "opnd_yr", "ope_yea", "ope_year", "open_yea", "open_year",
    }  # fmt: skip
    short = total = 0
    for split in text_to_sql.SPLITS:
        for example in examples(split, 300, seed=5):
            database = load_database(example.db_id)
            names = {whole: name for table in database.tables for whole, name in table.short}
            shown = [table.shown for table in database.tables]
            assert all(len(set(columns)) == len(columns) for columns in shown)
            query = re.sub(r"'.*?'", "", example.sql)
            assert not any(re.search(rf"\b{whole}\b", query) for whole in names)
            assert all(f" {name} " in example.prompt for name in names.values())
            short += len(names)
            total += sum(len((*table.texts, *table.numbers)) for table in database.tables)
    assert 0.4 < short / total < 0.55
    database = next(d for i in range(99) if (d := load_database(f"singer_{i}")).tables[0].short)
    whole, name = database.tables[0].short[0]
    assert database.shorten(f"SELECT {whole} FROM t WHERE a = '{whole}'") == (
        f"SELECT {name} FROM t WHERE a = '{whole}'"
    )


def test_short_names_are_no_keywords():
    connection = sqlite3.connect(":memory:")
    for variant in range(2000):
        for table in load_database(f"mixed_{variant}").tables:
            connection.execute(f"CREATE TABLE t{variant}_{table.name} ({', '.join(table.shown)})")
    connection.close()


@pytest.mark.slow
def test_words_of_training_are_no_held_out_names():
    held_out = {
        name
        for domain in DOMAINS["held_out"].values()
        for name in (domain.singular, domain.plural, *domain.texts, *domain.numbers)
    }
    words = common_words()
    assert len(words) == len(set(words)) > 5000 and not held_out & set(words)
    connection = sqlite3.connect(":memory:")
    for word in words:  # none is a keyword
        connection.execute(f"CREATE TABLE {word} ({word})")
    connection.close()


def test_values_of_conditions_come_from_the_rows():
    for example in examples("held_out", 200, seed=0):
        cells = {str(cell) for table in example.tables for row in table.rows for cell in row}
        values = re.findall(r"[=<>] (?:'([^']*)'|(\d+))", example.sql)
        assert all((text or number) in cells for text, number in values)


def test_splits_share_no_domain():
    assert not text_to_sql.domains("train") & text_to_sql.domains("held_out")
    for split in text_to_sql.SPLITS:
        for example in examples(split, 300, seed=1):
            assert example.db_id.rpartition("_")[0] in text_to_sql.domains(split)
    nouns = {table.singular for e in examples("train", 2000, seed=1) for table in e.tables}
    assert not nouns & set(DOMAINS["held_out"])


def test_column_names_of_a_table_are_unique():
    for variant in range(1500):
        for table in load_database(f"mixed_{variant}").tables:
            assert len(set(table.columns)) == len(table.columns)


def test_conditions_do_not_fix_what_is_asked_for():
    assert is_degenerate("SELECT city FROM t WHERE city = 'Rome';")
    assert is_degenerate("SELECT name FROM t WHERE age = 30 ORDER BY age;")
    assert not is_degenerate("SELECT city FROM t WHERE city_name = 'city';")
    queries = [example.sql.replace(" . ", ".") for example in examples("train", 500, seed=2)]
    assert not any(map(is_degenerate, queries))


def test_the_form_of_a_query_is_the_one_it_was_asked_in():
    database, rng = load_database("singer_3"), random.Random(0)
    asked = {
        "select": select_form, "count": count_form, "aggregate": aggregate_form,
        "order": order_form, "top": top_form, "group": group_form, "distinct": distinct_form,
    }  # fmt: skip
    for form, question in asked.items():
        for _ in range(50):
            query = question(database.tables[0], rng)[1]
            assert form_of(query) == form_of(text_to_sql.spaced(query)) == form
    assert form_of("SELECT a FROM b WHERE c = 'LIMIT count'") == "select"
    assert form_of("SELECT count(*) FROM a JOIN b ON a.x = b.id GROUP BY b.y;") == "join"


# What tells a way of writing; no plain query has it.
STYLES = (
    r" IN \(SELECT id ", r"INNER JOIN", r" AS t1 ", r"ON \w+\.id = ", r"count\(id\)", r"COUNT\(",
    r" >= \d+ AND ", r" = \(SELECT max", r" = \(SELECT min", r" ASC;", r" ASC LIMIT", r" != ",
    r"^SELECT (\w+) .*GROUP BY \1;$",
)  # fmt: skip


def test_every_way_of_writing_a_query_gives_the_same_rows():
    """Each way is taken at times, and most queries stay plain."""
    rng, ways, changed, total = random.Random(0), dict.fromkeys(STYLES, 0), 0, 1500
    for variant in range(total):
        database = load_database(f"mixed_{variant}")
        plain = ask(database, rng)[1]
        styled = restyle(plain, database, rng)
        connection = build_database(database.db_id)
        gold, other = database.shorten(plain), database.shorten(styled)
        assert execution_match(other, gold, connection), (gold, other)
        assert execution_match(gold, other, connection), (gold, other)
        connection.close()
        changed += styled != plain
        for way in STYLES:
            assert not re.search(way, plain), plain
            ways[way] += bool(re.search(way, styled))
    assert 0.3 < changed / total < 0.5
    assert min(ways.values()) > 2, ways


def test_unknown_split_is_refused():
    with pytest.raises(ValueError, match="split"):
        examples("test", 1, seed=0)


def test_examples_depend_only_on_split_and_seed():
    first = examples("train", 50, seed=7)
    load_database.cache_clear()
    assert examples("train", 80, seed=7)[:50] == first
    assert examples("train", 50, seed=8) != first
    assert list(build_database(DB_ID).iterdump()) == list(build_database(DB_ID).iterdump())


def test_evaluation_examples_stay_as_published():
    """Results on the task name only a seed, so a change of the generator has to be seen."""
    text = "".join(example.prompt + example.sql for example in examples("held_out", 200, seed=0))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "b9a1b95ed244f266"


def test_rows_are_a_multiset_without_order(connection):
    assert execution_match("SELECT city FROM t ORDER BY age", "SELECT city FROM t", connection)
    assert not execution_match("SELECT DISTINCT city FROM t", "SELECT city FROM t", connection)


def test_order_counts_where_gold_asks_for_it(connection):
    gold = "SELECT name FROM t ORDER BY age"
    assert execution_match("SELECT name FROM t ORDER BY age ASC;", gold, connection)
    assert not execution_match("SELECT name FROM t ORDER BY age DESC", gold, connection)
    assert not execution_match("SELECT name FROM t", gold, connection)
    literal = "SELECT name FROM t WHERE city <> 'order by'"
    assert execution_match("SELECT name FROM t ORDER BY age DESC", literal, connection)


def test_cells_keep_their_columns(connection):
    gold = "SELECT name, city FROM t"
    assert not execution_match("SELECT city, name FROM t", gold, connection)
    assert not execution_match("SELECT name FROM t", gold, connection)


@pytest.mark.parametrize(
    "sql",
    [
        "",
        "SELECT",
        "SELECT nothing FROM t",
        "SELECT name FROM t; SELECT name FROM t",
        "SELECT name FROM t; DROP TABLE t",
        "DELETE FROM t",
        "INSERT INTO t VALUES (1, 2, 3)",
        "UPDATE t SET age = 1",
        "DROP TABLE t",
        "PRAGMA writable_schema = 1",
        "ATTACH DATABASE ':memory:' AS other",
        "EXPLAIN SELECT name FROM t",
        "WITH x AS (SELECT name FROM t) SELECT name FROM x",
        "SELECT name FROM t\0",
        "SELECT '\ud800' FROM t",
        "SELECT zeroblob(100000000) FROM t",
        "SELECT * FROM (WITH RECURSIVE r(x) AS (SELECT 1 UNION SELECT x FROM r) SELECT x FROM r)",
    ],
)
def test_faulty_and_forbidden_queries_do_not_match(connection, sql):
    before = list(connection.iterdump())
    assert not execution_match(sql, "SELECT name FROM t", connection)
    assert list(connection.iterdump()) == before


def test_limits_can_be_set(connection):
    gold = "SELECT name FROM t"
    with pytest.raises(sqlite3.Error, match="more than 3 rows"):
        run_select(gold, connection, Limits(rows=3))
    assert len(run_select(gold, connection, Limits(rows=4))) == 4
    with pytest.raises(sqlite3.Error, match="or 11 characters"):
        run_select(gold, connection, Limits(characters=11))
    assert len(run_select(gold, connection, Limits(characters=12))) == 4
    product = "SELECT count(*) FROM t AS a, t AS b, t AS c, t AS d, t AS e, t AS f, t AS g"
    with pytest.raises(sqlite3.Error, match="interrupted"):
        run_select(product, connection, Limits(steps=20_000))
    assert run_select(product, connection) == [(4**7,)]


def test_limits_end_with_the_query(connection):
    execution_match("SELECT name FROM t", "SELECT name FROM t", connection)
    connection.execute("INSERT INTO t VALUES ('Eve', 'Rome', 60)")
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (5,)


@pytest.mark.parametrize("columns", ["count(*)", "a.rowid"])
def test_runaway_query_stops(columns):
    connection = build_database(DB_ID)
    name = load_database(DB_ID).tables[0].name
    product = ", ".join(f"{name} AS {alias}" for alias in "abcdefgh")
    start = time.monotonic()
    gold = f"SELECT count(*) FROM {name}"
    assert not execution_match(f"SELECT {columns} FROM {product}", gold, connection)
    assert time.monotonic() - start < 5
    assert execution_match(gold, gold, connection)


def test_error_of_the_gold_query_is_raised(connection):
    with pytest.raises(sqlite3.Error):
        execution_match("SELECT name FROM t", "SELECT nothing FROM t", connection)
