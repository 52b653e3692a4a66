"""Spider's exact-set match, by hand-made pairs and by the parse trees that Spider's files have."""

import itertools
import json
import os
import random
import re
from pathlib import Path

import pytest
import spider_trees

from experiments.tasks.spider_match import same
from experiments.tasks.spider_query import exact_set_match, read_query
from experiments.tasks.spider_schema import read_schemas

DATA_DIR = Path(os.environ.get("MTAD_DATA", Path(__file__).parents[3] / "shared" / "data"))
SPIDER = DATA_DIR / "prompts" / "spider"
needs_data = pytest.mark.skipif(not SPIDER.is_dir(), reason="no Spider beside the repository")

# As in Spider's tables.json.
ENTRY = {
    "db_id": "concerts",
    "table_names_original": ["Singer", "concert", "singer_in_concert"],
    "column_names_original": [
        [-1, "*"],
        [0, "Singer_ID"], [0, "Name"], [0, "Country"], [0, "Age"],
        [1, "Concert_ID"], [1, "Theme"], [1, "Year"],
        [2, "Concert_ID"], [2, "Singer_ID"],
    ],
    "column_types": ["text", *["number", "text", "text", "number"], *["number", "text", "number"],
                     *["number", "number"]],
    "primary_keys": [1, 5],
    "foreign_keys": [[9, 1], [8, 5]],
}  # fmt: skip

JOIN = "FROM singer AS T1 JOIN singer_in_concert AS T2 ON T1.singer_id = T2.singer_id"
TURNED = "FROM singer_in_concert AS a JOIN singer AS b ON a.singer_id = b.singer_id"
NESTED = "SELECT name FROM singer WHERE singer_id IN (SELECT singer_id FROM singer_in_concert{})"

RIGHT = {
    "order of what is shown": ("SELECT name, age FROM singer", "SELECT age, name FROM singer"),
    "order of AND": (
        "SELECT name FROM singer WHERE age > 20 AND country = 'France'",
        "SELECT name FROM singer WHERE country = 'France' AND age > 20",
    ),
    "values": (
        "SELECT name FROM singer WHERE age > 20 AND country LIKE '%a'",
        'SELECT name FROM singer WHERE age > 3.5 AND country LIKE "b%"',
    ),
    "an alias": ("SELECT T1.name FROM singer AS T1", "SELECT name FROM singer"),
    "order of a join": (f"SELECT T1.name {JOIN}", f"SELECT b.name {TURNED}"),
    "condition of a join": (
        f"SELECT T1.name {JOIN}",
        "SELECT name FROM singer JOIN singer_in_concert",
    ),
    "a joined column": (f"SELECT T1.singer_id {JOIN}", f"SELECT T2.singer_id {JOIN}"),
    "DISTINCT": ("SELECT DISTINCT country FROM singer", "SELECT country FROM singer"),
    "DISTINCT that is counted": (
        "SELECT count(DISTINCT country) FROM singer",
        "SELECT count(country) FROM singer",
    ),
    "how many": (
        "SELECT name FROM singer ORDER BY age LIMIT 1",
        "SELECT name FROM singer ORDER BY age LIMIT 3",
    ),
    "ASC": ("SELECT name FROM singer ORDER BY age", "SELECT name FROM singer ORDER BY age ASC"),
    "case, blanks, a semicolon": (
        "SELECT count(*) FROM singer",
        "select COUNT ( * )\n  from Singer ;",
    ),
    "two ways to say unequal": (
        "SELECT name FROM singer WHERE age <> 3",
        "SELECT name FROM singer WHERE age != 4",
    ),
    "parentheses": (
        "SELECT name FROM singer WHERE age > 3 AND age < 9",
        "SELECT (name) FROM singer WHERE ((age > 3) AND (age < 9))",
    ),
    "values of a nested query": (NESTED.format(""), NESTED.format("").replace("name", "Name")),
    "a nested condition": (
        NESTED.format(" WHERE concert_id = 1"),
        NESTED.format(" WHERE concert_id = 2"),
    ),
    "both halves of a union": (
        "SELECT name, age FROM singer UNION SELECT theme, year FROM concert",
        "SELECT age, name FROM singer UNION SELECT year, theme FROM concert",
    ),
    "a name that is ordered by": (
        "SELECT country, count(*) FROM singer GROUP BY country ORDER BY count(*) DESC",
        "SELECT country, count(*) AS n FROM singer GROUP BY country ORDER BY n DESC",
    ),
    "a query in FROM": (
        "SELECT count(*) FROM (SELECT name FROM singer WHERE age > 1)",
        "SELECT count(*) FROM (SELECT name FROM singer WHERE age > 2) AS t",
    ),
}

WRONG = {
    "a column less": ("SELECT name, age FROM singer", "SELECT name FROM singer"),
    "another column": ("SELECT name FROM singer", "SELECT country FROM singer"),
    "a column twice": ("SELECT name, age FROM singer", "SELECT name, age, age FROM singer"),
    "what is counted": ("SELECT count(*) FROM singer", "SELECT count(name) FROM singer"),
    "another function": ("SELECT max(age) FROM singer", "SELECT min(age) FROM singer"),
    "no function": ("SELECT max(age) FROM singer", "SELECT age FROM singer"),
    "turned round": (
        "SELECT max(age) - min(age) FROM singer",
        "SELECT min(age) - max(age) FROM singer",
    ),
    "OR for AND": (
        "SELECT name FROM singer WHERE age > 2 AND age < 5",
        "SELECT name FROM singer WHERE age > 2 OR age < 5",
    ),
    "a sign": ("SELECT name FROM singer WHERE age > 2", "SELECT name FROM singer WHERE age >= 2"),
    "what is compared": (
        "SELECT name FROM singer WHERE age > 2",
        "SELECT name FROM singer WHERE singer_id > 2",
    ),
    "no condition": ("SELECT name FROM singer WHERE age > 2", "SELECT name FROM singer"),
    "a condition more": (
        "SELECT name FROM singer WHERE age > 2",
        "SELECT name FROM singer WHERE age > 2 AND age > 2",
    ),
    "LIKE for =": (
        "SELECT name FROM singer WHERE country = 'x'",
        "SELECT name FROM singer WHERE country LIKE 'x'",
    ),
    "NOT": (NESTED.format(""), NESTED.format("").replace(" IN ", " NOT IN ")),
    "NOT LIKE": (
        "SELECT name FROM singer WHERE country LIKE 'x'",
        "SELECT name FROM singer WHERE country NOT LIKE 'x'",
    ),
    "order of ORDER BY": (
        "SELECT name FROM singer ORDER BY age, name",
        "SELECT name FROM singer ORDER BY name, age",
    ),
    "DESC": (
        "SELECT name FROM singer ORDER BY age DESC",
        "SELECT name FROM singer ORDER BY age",
    ),
    "DESC of another": (
        "SELECT name FROM singer ORDER BY age DESC, name",
        "SELECT name FROM singer ORDER BY age, name DESC",
    ),
    "no order": ("SELECT name FROM singer ORDER BY age", "SELECT name FROM singer"),
    "no LIMIT": (
        "SELECT name FROM singer ORDER BY age LIMIT 1",
        "SELECT name FROM singer ORDER BY age",
    ),
    "another group": (
        "SELECT count(*) FROM singer GROUP BY country",
        "SELECT count(*) FROM singer GROUP BY age",
    ),
    "no group": ("SELECT count(*) FROM singer GROUP BY age", "SELECT count(*) FROM singer"),
    "no HAVING": (
        "SELECT country FROM singer GROUP BY country HAVING count(*) > 1",
        "SELECT country FROM singer GROUP BY country",
    ),
    "another HAVING": (
        "SELECT country FROM singer GROUP BY country HAVING count(*) > 1",
        "SELECT country FROM singer GROUP BY country HAVING avg(age) > 1",
    ),
    "WHERE for HAVING": (
        "SELECT age FROM singer GROUP BY age HAVING age > 1",
        "SELECT age FROM singer WHERE age > 1 GROUP BY age",
    ),
    "no join": (f"SELECT T1.name {JOIN}", "SELECT name FROM singer"),
    "an outer join": (
        f"SELECT T1.name {JOIN}",
        f"SELECT T1.name {JOIN}".replace("JOIN", "LEFT JOIN"),
    ),
    "a joined column where it is not joined": (
        "SELECT singer_id FROM singer",
        "SELECT singer_id FROM singer_in_concert",
    ),
    "a value for a nested query": (
        "SELECT name FROM singer WHERE age > (SELECT avg(age) FROM singer)",
        "SELECT name FROM singer WHERE age > 30",
    ),
    "another nested query": (
        "SELECT name FROM singer WHERE age > (SELECT avg(age) FROM singer)",
        "SELECT name FROM singer WHERE age > (SELECT min(age) FROM singer)",
    ),
    "a nested condition less": (NESTED.format(" WHERE concert_id = 1"), NESTED.format("")),
    "another union": (
        "SELECT name FROM singer UNION SELECT theme FROM concert",
        "SELECT name FROM singer INTERSECT SELECT theme FROM concert",
    ),
    "a difference turned round": (
        "SELECT singer_id FROM singer EXCEPT SELECT singer_id FROM singer_in_concert",
        "SELECT singer_id FROM singer_in_concert EXCEPT SELECT singer_id FROM singer",
    ),
    "repeats of a union": (
        "SELECT name FROM singer UNION SELECT theme FROM concert",
        "SELECT name FROM singer UNION ALL SELECT theme FROM concert",
    ),
    "half a union": (
        "SELECT name FROM singer UNION SELECT theme FROM concert",
        "SELECT name FROM singer",
    ),
    "the second half": (
        "SELECT name FROM singer UNION SELECT theme FROM concert WHERE year > 1",
        "SELECT name FROM singer UNION SELECT theme FROM concert WHERE year < 1",
    ),
    "parentheses that matter": (
        "SELECT name FROM singer WHERE age = 1 OR age = 2 AND country = 'x'",
        "SELECT name FROM singer WHERE (age = 1 OR age = 2) AND country = 'x'",
    ),
}


@pytest.fixture(scope="module")
def schema(tmp_path_factory):
    path = tmp_path_factory.mktemp("spider") / "tables.json"
    path.write_text(json.dumps([ENTRY]))
    return read_schemas(str(path))["concerts"]


@pytest.mark.parametrize("case", RIGHT)
def test_what_does_not_count(schema, case):
    one, other = RIGHT[case]
    assert exact_set_match(one, other, schema) and exact_set_match(other, one, schema)


@pytest.mark.parametrize("case", WRONG)
def test_what_counts(schema, case):
    """Also that both are queries: one that cannot be read would match nothing."""
    one, other = WRONG[case]
    assert not exact_set_match(one, other, schema) and not exact_set_match(other, one, schema)
    assert exact_set_match(one, one, schema) and exact_set_match(other, other, schema)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SELECT",
        "name",
        "SELECT name FROM nowhere",
        "SELECT nothing FROM singer",
        "SELECT T3.name FROM singer AS T1",
        "SELECT name FROM singer; SELECT name FROM singer",
        "DROP TABLE singer",
        "SELECT name FROM singer WHERE 'a",
        "SELECT " + "(" * 3000 + "name" + ")" * 3000 + " FROM singer",
        "SELECT x + 1 AS x FROM singer",
        "SELECT name FROM (singer JOIN concert)",
        "SELECT name FROM singer FETCH FIRST 3 ROWS ONLY",
        "SELECT name FROM (VALUES (1))",
        "VALUES (1)",
        "SELECT name\ud800\0 FROM singer",
    ],
)
def test_what_is_no_query_of_the_schema_matches_nothing(schema, text):
    assert not exact_set_match(text, "SELECT name FROM singer", schema)


def test_a_gold_query_has_to_be_read(schema):
    with pytest.raises(ValueError, match="no column"):
        exact_set_match("SELECT name FROM singer", "SELECT nothing FROM singer", schema)


@pytest.fixture(scope="module")
def dev():
    """Return Spider's questions with their queries as read here, and prepared trees."""
    schemas = read_schemas(str(SPIDER / "tables.json"))
    tables = {e["db_id"]: e for e in json.loads((SPIDER / "tables.json").read_text())}
    rows = json.loads((SPIDER / "dev.json").read_text())
    for row in rows:
        row["schema"] = schemas[row["db_id"]]
        row["read"] = read_query(row["query"], row["schema"])
        row["tree"] = spider_trees.prepared(row["sql"], tables[row["db_id"]])
    return rows


@needs_data
def test_agrees_with_spiders_own_trees(dev):
    """On every pair of queries of a database: what the parser of its authors made of them."""
    pairs = equal = 0
    for _, rows in itertools.groupby(dev, key=lambda row: row["db_id"]):
        for one, other in itertools.combinations_with_replacement(rows, 2):
            ours = same(one["read"], other["read"])
            assert ours == spider_trees.match(one["tree"], other["tree"]), (
                one["query"], other["query"],
            )  # fmt: skip
            pairs += one is not other
            equal += ours and one is not other
    # Most queries are asked for twice, in other words.
    assert pairs > 30_000 and 400 < equal < 0.02 * pairs


@needs_data
def test_any_text_is_read_or_refused(dev):
    """A model writes what it likes: no other error than of a query that cannot be read."""
    rng, matched = random.Random(0), 0
    tokens = sorted({token for row in dev for token in row["query_toks"]})
    tokens += [
        "CASE",
        "OVER",
        "CAST",
        "EXISTS",
        "USING",
        "||",
        "?",
        "'",
        '"',
        "/*",
        "--",
        "[",
        "::",
    ]
    for row in rng.sample(dev, 400):
        query = list(row["query_toks"])
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(query))
            query[place : place + rng.randint(0, 1)] = rng.choices(tokens, k=rng.randint(0, 1))
        matched += exact_set_match(" ".join(query), row["query"], row["schema"])
    assert 0 < matched < 100


@needs_data
def test_every_query_matches_itself_in_other_clothes(dev):
    for row in dev[::3]:
        other = re.sub(r"\bt(\d)\b", r"x\1", row["query"].lower()).replace(" ", "\n ") + " ;"
        assert same(read_query(other, row["schema"]), row["read"]), other


@needs_data
@pytest.mark.parametrize(
    ("pattern", "new", "least"),
    [
        (r"\bDESC\b", "ASC", 150),
        (r"\bAND\b", "OR", 50),
        (r"count\(\*\)", "max(*)", 300),
        (r"\bavg\(", "sum(", 50),
        (r" WHERE [^()]*$", "", 200),
        (r" LIMIT \d+", "", 100),
        (r"\bINTERSECT\b", "UNION", 20),
        (r"\bNOT IN\b", "IN", 20),
        (r" >", " <", 100),
    ],
)
def test_a_change_of_any_clause_is_seen(dev, pattern, new, least):
    changed = [
        (row, re.sub(pattern, new, row["query"], flags=re.IGNORECASE))
        for row in dev
        if re.search(pattern, row["query"], re.IGNORECASE) and "BETWEEN" not in row["query"].upper()
    ]
    assert len(changed) > least
    for row, other in changed:
        assert not same(read_query(other, row["schema"]), row["read"]), other
