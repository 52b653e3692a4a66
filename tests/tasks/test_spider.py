"""Spider: prompts, shots and scores, with databases and without, and what is refused."""

import json
import os
import sqlite3
from pathlib import Path

import pytest

from experiments.tasks.base import conversation
from experiments.tasks.registry import make_task
from experiments.tasks.spider import Spider, query_of
from experiments.tasks.spider_schema import quoted

DATA_DIR = Path(os.environ.get("MTAD_DATA", Path(__file__).parents[3] / "shared" / "data"))
SPIDER = DATA_DIR / "prompts" / "spider"
needs_data = pytest.mark.skipif(not SPIDER.is_dir(), reason="no Spider beside the repository")


def entry(db_id: str, tables: list[str], columns: list) -> dict:
    """Return an entry of tables.json; a table's first column is its key."""
    return {
        "db_id": db_id,
        "table_names_original": tables,
        "column_names_original": [[-1, "*"], *columns],
        "column_types": ["text"] + ["number" if "ID" in name else "text" for _, name in columns],
        "primary_keys": [
            next(i + 1 for i, (owner, _) in enumerate(columns) if owner == table)
            for table in range(len(tables))
        ],
        "foreign_keys": [],
    }


TABLES = [
    entry("club", ["member", "order"], [(0, "ID"), (0, "Name"), (0, "Home Town"), (1, "ID")]),
    entry("zoo", ["animal", "sqlite_sequence"], [(0, "ID"), (0, "kind"), (1, "name")]),
]
DEV = [
    {"db_id": "club", "question": "Name  and town\nof all?",
     "query": 'SELECT Name, "Home Town" FROM member;'},
    {"db_id": "club", "question": "How many are from Rome?",
     "query": "SELECT count(*) FROM member WHERE \"Home Town\" = 'Rome'"},
]  # fmt: skip
TRAIN = [
    {"db_id": "club", "question": "Asked?", "query": "SELECT Name FROM member"},
    {"db_id": "zoo", "question": "Which kinds?", "query": "SELECT DISTINCT kind FROM animal"},
]
ROWS = [(1, "Ann", "Rome"), (2, "Bob", "Oslo"), (3, "Cid", "Rome")]


@pytest.fixture
def files(tmp_path):
    """Return the settings of a task on a small data set of Spider's format, with a database."""
    given = {"task": "spider", "databases": str(tmp_path / "database")}
    for key, name, value in (
        ("path", "dev.json", DEV),
        ("tables", "tables.json", TABLES),
        ("train", "train.json", TRAIN),
    ):
        (tmp_path / name).write_text(json.dumps(value))
        given[key] = str(tmp_path / name)
    (tmp_path / "database" / "club").mkdir(parents=True)
    connection = sqlite3.connect(tmp_path / "database" / "club" / "club.sqlite")
    connection.execute('CREATE TABLE member (ID number, Name text, "Home Town" text)')
    connection.executemany("INSERT INTO member VALUES (?, ?, ?)", ROWS)
    connection.execute("INSERT INTO member VALUES (4, 'Dee', CAST(x'4cff' AS text))")  # not UTF-8
    connection.commit()
    connection.close()
    return given


def test_the_prompt_is_the_schema_as_statements_and_ends_with_select(files):
    task = make_task(files)
    problem = task.prompts()[0]
    assert task.plain(conversation(problem, [])) == (
        'CREATE TABLE member (\n  ID number,\n  Name text,\n  "Home Town" text,\n'
        "  PRIMARY KEY (ID)\n)\n\n"
        'CREATE TABLE "order" (\n  ID number,\n  PRIMARY KEY (ID)\n)\n\n'
        "-- Using valid SQLite, answer the following questions for the tables provided above.\n\n"
        "-- Name and town of all?\nSELECT"
    )
    assert (problem.id, problem.category) == ("0", "club")
    assert problem.keys == {"db_id": "club", "query": DEV[0]["query"].rstrip(";")}


def test_shots_are_of_databases_that_are_not_asked_about(files):
    task = make_task({**files, "shots": 1, "limit": 1})
    (problem,) = task.prompts()
    text = task.plain(conversation(problem, []))
    assert text.count("-- Using") == 2 and "Asked?" not in text and "sqlite_sequence" not in text
    assert "-- Which kinds?\nSELECT DISTINCT kind FROM animal;\n\nCREATE TABLE member" in text
    chat = conversation(problem, [])  # a chat says the whole query
    assert chat[1] == {"role": "assistant", "content": "SELECT DISTINCT kind FROM animal"}
    assert not chat[-1]["content"].endswith("SELECT")
    with pytest.raises(ValueError, match="shots=2: .*train.json has 1 databases"):
        make_task({**files, "shots": 2}).prompts()


ANSWERS = {
    ' Name, "Home Town" FROM member': (1, 1, 1),
    'SELECT Name, "Home Town" FROM member; and more': (1, 1, 1),
    'Here:\n```sql\nSELECT Name, "Home Town"\nFROM member;\n```\nIt shows': (1, 1, 1),
    'Here:\n```\nSELECT Name, "Home Town"\nFROM member': (1, 1, 1),
    # The prompt's SELECT is gone on with, as if in a block, which a ``` ends.
    ' Name, "Home Town" FROM member\n```': (1, 1, 1),
    ' Name, "Home Town" FROM member\n```\nIt shows both': (1, 1, 1),
    'SELECT Name, "Home Town" FROM member;\n```\n': (1, 1, 1),
    " Name FROM member\n```": (0, 0, 1),
    " Name, Town FROM member\n```\n": (0, 0, 0),
    "```": (0, 0, 0),
    "WITH m AS (SELECT * FROM member) SELECT Name, \"Home Town\" FROM m": (1, 0, 1),
    # Cells stay in the order of the columns; clauses are sets.
    ' "Home Town", Name FROM member': (0, 1, 1),
    ' Name, "Home Town" FROM member WHERE ID > 0': (1, 0, 1),
    " Name FROM member": (0, 0, 1),
    " Name, Town FROM member": (0, 0, 0),
    "": (0, 0, 0),
    "I cannot": (0, 0, 0),
    "DROP TABLE member": (0, 0, 0),
    "; DELETE FROM member": (0, 0, 0),
}  # fmt: skip


@pytest.mark.parametrize("answer", ANSWERS)
def test_scores_with_databases(files, answer):
    task = make_task(files)
    execution, exact_set, parses = ANSWERS[answer]
    scores = task.score(task.prompts()[0], [answer])
    assert scores == {"execution": execution, "exact_set": exact_set, "parses": parses}
    assert tuple(scores) == task.metrics
    assert task.score(task.prompts()[0], [DEV[0]["query"]])["execution"] == 1.0  # nothing changed


def test_a_value_is_seen_by_rows_only(files):
    task = make_task(files)
    problem = task.prompts()[1]
    wrong = DEV[1]["query"].replace("Rome", "Oslo")
    assert task.score(problem, [wrong]) == {"execution": 0.0, "exact_set": 1.0, "parses": 1.0}


def test_without_databases_nothing_is_called_execution(files):
    task = make_task({**files, "databases": ""})
    assert task.metrics == ("exact_set", "parses") == Spider.metrics
    scores = task.score(task.prompts()[0], [" Name FROM member"])
    assert scores == {"exact_set": 0.0, "parses": 1.0}


def test_a_database_is_not_changed_and_has_to_fit(files):
    task = make_task(files)
    problems = task.prompts()
    path = Path(files["databases"]) / "club" / "club.sqlite"
    before = path.read_bytes()
    connection = sqlite3.connect(path)
    connection.execute("DROP TABLE member")
    connection.commit()
    connection.close()
    with pytest.raises(ValueError, match="dev.json entry 1: its query fails: no such table"):
        task.score(problems[0], [" 1"])
    path.write_bytes(before)
    task.score(problems[0], [" 1"])
    assert path.read_bytes() == before


def test_where_an_answer_has_its_query():
    assert query_of(" count(*)\nFROM t ") == "SELECT count(*)\nFROM t"
    assert query_of("select 1;") == "select 1"
    assert query_of("SELECT ';' , \";\" FROM t; x") == "SELECT ';' , \";\" FROM t"
    assert query_of("```\nSELECT 1\n") == "SELECT 1"
    assert query_of("It is\n```\nselect 1") == "select 1"
    assert query_of("It is\n```\n1\n```\n") == "SELECT 1"
    assert query_of(" count(*) FROM t\n```") == "SELECT count(*) FROM t"
    assert query_of(" count(*) FROM t\n```\nIt counts") == "SELECT count(*) FROM t"
    assert query_of(" count(*) FROM t\n```sql") == "SELECT count(*) FROM t"
    assert query_of("SELECTED FROM t") == "SELECT SELECTED FROM t"


def test_names_are_quoted_where_sqlite_wants_it():
    names = {"a": "a", "Order": '"Order"', "Home Town": '"Home Town"', "1st": '"1st"',
             'say "x"': '"say ""x"""', "group": '"group"', "\u00e9": '"\u00e9"'}  # fmt: skip
    assert {name: quoted(name) for name in names} == names


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": "no.json"}, "no.json: no such file; Spider's dev.json is at "),
        ({"tables": ""}, "path is empty: give the path of Spider's tables.json"),
        ({"databases": "nowhere"}, "databases=nowhere: no such folder"),
        ({"shots": -1}, "shots=-1 must be >= 0"),
        ({"shots": 1, "train": ""}, "path is empty: give the path of Spider's train_spider.json"),
        ({"limit": 0}, "limit=0 must be >= 1"),
    ],
)
def test_settings_that_are_refused(files, change, message):
    with pytest.raises((ValueError, OSError), match=message):
        make_task({**files, **change})


def written(files, key, value):
    Path(files[key]).write_text(value if isinstance(value, str) else json.dumps(value))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("path", "[", "dev.json: not JSON"),
        ("path", {}, "dev.json: .* is not a list with entries"),
        ("path", [DEV[0], 1], "dev.json entry 2: '1' is not an object"),
        ("path", [{**DEV[0], "db_id": "x"}], "dev.json entry 1: db_id='x' has no schema"),
        ("path", [{**DEV[0], "query": 1}], "dev.json entry 1: query='1' is not of the"),
        ("path", [{**DEV[0], "query": "SELECT x FROM member"}], "entry 1: query=.* no column x"),
        ("path", [{**DEV[0], "query": "SELECT (x"}], "cannot be read: not SQL: Expecting \\)$"),
        ("path", [{"db_id": "club"}], "dev.json entry 1: no 'question' in it"),
        ("path", [{**TRAIN[1]}], "no such file; database of .* entry 1 is at"),
        ("tables", [{"db_id": "club"}], "tables.json entry 1: no 'table_names_original' in it"),
        ("tables", [{**TABLES[0], "primary_keys": [99]}], "entry 1: columns and keys do not fit"),
        ("tables", [{**TABLES[0], "column_types": []}], "entry 1: columns and keys do not fit"),
    ],
)
def test_malformed_files_are_named(files, key, value, message):
    written(files, key, value)
    with pytest.raises((ValueError, OSError), match=message):
        make_task(files).prompts()


@needs_data
def test_spiders_own_questions():
    task = Spider(str(SPIDER / "dev.json"), str(SPIDER / "tables.json"))
    problems = task.prompts()
    assert len(problems) == 1034 and len({problem.id for problem in problems}) == 1034
    for problem in problems[::25]:
        right = problem.reference[0].partition("SELECT")[2] or problem.reference[0]
        assert task.score(problem, [right]) == {"exact_set": 1.0, "parses": 1.0}, right
        assert task.score(problem, [right + " WHERE"])["parses"] == 0.0
