"""Compiled programs are kept, safely; see mtad_jax/compilation.py."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mtad_jax.compilation import Counts, ProgramFiles, _prune, default_folder

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
ARGUMENTS = ("--prompt=Once upon", "--strategy=greedy", "--max_new_tokens=4")


def run(home: Path, *command: str, **environment: str) -> subprocess.CompletedProcess:
    """Run python as a user whose cache is under `home`, and who told JAX nothing."""
    env = {k: v for k, v in os.environ.items() if "CACHE" not in k}
    env |= {"XDG_CACHE_HOME": str(home), "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=env | environment, capture_output=True, text=True
    )


def generate(home: Path, *flags: str, **environment: str) -> subprocess.CompletedProcess:
    done = run(home, "-m", "experiments.generate", *ARGUMENTS, *flags, **environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("[") or flags or environment, done.stderr
    return done


def test_a_second_run_compiles_nothing(tmp_path):
    first, second = generate(tmp_path), generate(tmp_path)
    assert re.search(r"; [1-9]\d* programs compiled, \d+ from the cache\]\n$", first.stderr)
    assert re.search(r"; [1-9]\d* programs from the cache\]\n$", second.stderr)
    assert first.stdout == second.stdout
    assert second.stderr.count("\n") == 1
    # Half an entry, as a killed writer of another kind would leave it, is compiled anew, silently.
    for file in tmp_path.rglob("*.program"):
        file.write_bytes(file.read_bytes()[:100])
    third, fourth = generate(tmp_path), generate(tmp_path)
    assert "programs compiled, 0 from the cache" in third.stderr
    assert re.search(r"; [1-9]\d* programs from the cache\]\n$", fourth.stderr)
    assert third.stderr.count("\n") == 1 and third.stdout == first.stdout


def test_no_cache_and_a_cache_elsewhere(tmp_path):
    generate(tmp_path / "home", "--compilation_cache=off")
    assert not (tmp_path / "home").exists()
    generate(tmp_path / "home", f"--compilation_cache={tmp_path / 'own'}")
    assert not (tmp_path / "home").exists()
    assert list((tmp_path / "own").glob("*.program"))


def test_what_jax_was_told_wins(tmp_path):
    told = tmp_path / "told"
    code = (
        "import jax, mtad_jax; mtad_jax.Pipeline.shipped();"
        "print(jax.config.jax_compilation_cache_dir)"
    )
    done = run(tmp_path / "home", "-c", code, JAX_COMPILATION_CACHE_DIR=str(told))
    assert done.stdout == f"{told}\n" and not (tmp_path / "home").exists()
    done = run(tmp_path / "home", "-c", code, JAX_ENABLE_COMPILATION_CACHE="false")
    assert done.stdout == "None\n" and not (tmp_path / "home").exists()


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    done = generate(tmp_path, f"--compilation_cache={tmp_path / 'file' / 'x'}")
    assert done.stderr.startswith("compiled programs are not kept: ")
    assert done.stderr.count("\n") == 2


def test_entries_are_whole_or_none(tmp_path):
    files = ProgramFiles(tmp_path)
    assert files.get("key") is None
    files.put("key", b"program")
    assert files.get("key") == b"program"
    assert len(os.listdir(tmp_path)) == 1
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"prog")
    assert files.get("key") is None and not file.exists()
    ProgramFiles(tmp_path / "gone").put("key", b"program")  # as a full disk: no entry, no error
    assert ProgramFiles(tmp_path / "gone").get("key") is None


def test_the_folder_stays_small(tmp_path):
    files = ProgramFiles(tmp_path)
    for age, key in enumerate("abcd"):
        files.put(key, bytes(96))
        os.utime(tmp_path / f"{key}.program", (1000 - age, 1000 - age))
    assert files.get("d") is not None  # the oldest, but used just now
    _prune(tmp_path, 250)
    assert sorted(os.listdir(tmp_path)) == ["a.program", "d.program"]


def test_the_default_folder_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if sys.platform == "linux":
        assert default_folder().parent == tmp_path / "mtad_jax" / "programs"


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        (Counts(), "no program needed compiling"),
        (Counts(3, 3), "3 programs from the cache"),
        (Counts(5, 2) - Counts(1, 1), "3 programs compiled, 1 from the cache"),
    ],
)
def test_what_is_said(counts, text):
    assert str(counts) == text
