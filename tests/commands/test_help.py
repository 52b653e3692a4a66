"""`--help` of every runner: flags by topic, whole names, no line wider than the terminal."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags

from mtad_jax.cli_help import help_text

ROOT = Path(__file__).resolve().parents[2]
RUNNERS = ["generate", "benchmark", "calibrate", "demo", "plan", "quantization", "answers"]


@pytest.mark.parametrize("name", RUNNERS)
def test_every_flag_is_told_once_under_a_topic(name):
    program, values = importlib.import_module(f"experiments.{name}"), flags.FlagValues()
    program.define_flags(values)
    for width in (60, 100):
        text = help_text(values, program.__doc__, width)
        shown = re.findall(r"^  --(?:\[no\])?(\w+)", text, flags=re.MULTILINE)
        assert sorted(shown) == sorted(values)
        assert max(map(len, text.splitlines())) <= width
        topics = re.findall(r"^[A-Z][^\n]*:$(?=\n  --)", text, flags=re.MULTILINE)
        assert len(topics) == len(set(topics)) and "Models, and where they lie:" in topics
        assert "absl" not in text and str(ROOT) not in text


def test_meanings_defaults_and_long_names():
    values = flags.FlagValues()
    flags.DEFINE_integer("few", 0, "How many.", flag_values=values)
    flags.DEFINE_enum("kind", "a", ["a", "b"], "Which.", flag_values=values)
    long = [f"number_{i}" for i in range(9)]
    flags.DEFINE_enum("many", None, long, "Which.", flag_values=values)
    flags.DEFINE_bool("on", False, "Whether.", flag_values=values)
    flags.DEFINE_multi_string("again", None, "Some.", flag_values=values)
    flags.DEFINE_float("a_name_that_is_longer_than_any", None, "Long.", flag_values=values)
    lines = help_text(values, "What\nit does.\n\nMore.", 60).splitlines()
    assert lines[:5] == ["What it does.", "", "More.", "", "Flags:"]
    assert [" ".join(line.split()) for line in lines[5:]] == [
        "--few=N How many. Default: 0.",
        "--kind=a|b Which. Default: a.",
        "--many=NAME Which. One of number_0, number_1,",
        "number_2, number_3, number_4, number_5,",
        "number_6, number_7, number_8.",
        "--[no]on Whether.",
        "--again=TEXT Some.",
        "--a_name_that_is_longer_than_any=X",
        "Long.",
    ]


@pytest.mark.slow
def test_help_of_a_program_ends_well():
    command = [sys.executable, "-m", "experiments.generate", "--depth=3", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and not done.stderr
    assert done.stdout.startswith("Continue a prompt") and "--compilation_cache=" in done.stdout
