"""The demo, and the table of each model's own answers, on a pair that knows nothing."""

import pytest
from absl import flags
from tiny_pair import write_pair

from experiments import answers, demo
from experiments.tasks.shipped import make_tasks
from mtad_jax.completions import Piece


def run(program, run_on, *args):
    values = flags.FlagValues()
    program.define_flags(values)
    values([program.__name__, *args])
    run_on(values)


def test_what_was_drafted_is_marked():
    piece = Piece.of([("SELECT", True), (" na", True), ("me", False), ("", True), (" FROM", True)])
    assert piece == "SELECT name FROM"
    assert piece.spans == (("SELECT na", True), ("me", False), (" FROM", True))
    assert demo.marked(piece, coloured=False) == "SELECT na[me] FROM"
    green, plain = demo.GREEN, demo.PLAIN
    assert demo.marked(piece, coloured=True) == (f"{green}SELECT na{plain}me{green} FROM{plain}")


def test_a_verdict_shows_the_rows_or_what_was_wanted():
    [task] = make_tasks(0, 1, 3)
    assert task.example is not None
    assert demo.verdict(task, f" {task.example.sql}\n").startswith("right: ")
    assert demo.verdict(task, "SELECT 1") == f"WRONG, not the rows of: {task.example.sql}"


@pytest.mark.heavy
def test_the_demo_shows_every_rule_and_a_table(tmp_path, monkeypatch, capsys):
    target, draft = write_pair(tmp_path)
    monkeypatch.setattr(demo, "NEW_TOKENS", 6)
    pair = [f"--target={target}", f"--draft={draft}"]
    run(demo, demo.demo, *pair, "--questions=5")
    said = capsys.readouterr().out
    assert all(f"== {rule.label}: " in said for rule in demo.RULES)
    table = said[said.index("5 questions") :].splitlines()
    assert [line[:44].strip() for line in table[1:7]] == [rule.label for rule in demo.RULES]
    assert said.count("WRONG, not the rows of: SELECT") == len(demo.RULES)
    with pytest.raises(ValueError, match="--questions=4 must be >= 5"):
        run(demo, demo.demo, "--questions=4")


def test_shares_of_right_answers_by_tables_and_form():
    tasks = make_tasks(0, 40, 0)
    sizes = [len(task.example.tables) for task in tasks if task.example]
    lines = answers.table_lines(tasks, {"target": [n == 1 for n in sizes]})
    got = {line[:16].strip(): line[16:].split() for line in lines[1:-2]}
    assert got["tables: 1"][:2] == [str(sizes.count(1)), "100.0%"]
    assert got["tables: 2"][:2] == [str(sizes.count(2)), "0.0%"]
    share = sizes.count(1) / 40
    assert got["all"][:2] == ["40", f"{share:.1%}"]
    forms = [task.example.form for task in tasks if task.example]
    assert sum(int(got[form][0]) for form in set(forms)) == 40


@pytest.mark.slow
def test_answers_of_a_pair_that_knows_nothing(tmp_path, capsys):
    target, draft = write_pair(tmp_path)
    few = ["--questions=3", "--batch_size=2", "--max_new_tokens=4"]
    run(answers, answers.answers, f"--target={target}", f"--draft={draft}", *few)
    everything = capsys.readouterr().out.splitlines()[1].split()
    assert everything == "all 3 0.0% (0% to 56%) 0.0% (0% to 56%)".split()
    with pytest.raises(ValueError, match="--questions=0 must be >= 1"):
        run(answers, answers.answers, "--questions=0")
