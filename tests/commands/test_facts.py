"""What a run's settings say: against git itself, the checkpoints, and what JSON can hold."""

import dataclasses
import json
import math
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import jax
import ml_collections
import numpy as np
import pytest
from tiny_pair import write_ids_only_pair

import mtad_jax
from experiments.bench import facts
from mtad_jax.decode.warp import Warp
from mtad_jax.devices.hosts import checkpoint_digest
from mtad_jax.pipeline import Pipeline

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_ids_only_pair(tmp_path_factory.mktemp("pair"))


def documented(section: str) -> set[str]:
    """Keys in a table of docs/records.md."""
    text = (ROOT / "docs" / "records.md").read_text(encoding="utf-8")
    part = text.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return {
        name
        for cell in re.findall(r"^\| (`[^|]*) \|", part, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", cell)
    }


@pytest.mark.slow
def test_the_facts_of_a_run(folders, monkeypatch):
    pipe = Pipeline.load(*folders)
    words = ["/usr/bin/python3", "-m", "experiments.generate", "--prompt=it's", "--supervisor=17"]
    monkeypatch.setattr(sys, "orig_argv", words)
    found = facts.run_facts(pipe, config={"depth": 4, "tau": math.inf}, seed=3)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert set(found) == documented("`settings.json`") - {
        "problems", "rules", "resumed", "compile_seconds",
    }  # fmt: skip
    assert shlex.split(found["command"]) == ["python", *words[1:4]]
    assert found["config"] == {"depth": 4, "tau": "inf"} and found["seed"] == 3
    assert found["versions"]["jax"] == jax.__version__
    assert found["versions"]["mtad-jax"] == mtad_jax.__version__
    assert found["device"].items() >= {"platform": "cpu", "kind": "cpu", "count": 1}.items()
    assert 1 <= found["device"]["cpu_cores"] <= (os.cpu_count() or 1)
    assert found["energy"]["source"] is None and found["energy"]["reason"]
    for name, folder in zip(("target", "draft"), folders, strict=True):
        model = found["models"][name]
        loaded = getattr(pipe, name)
        assert model == {
            "path": str(folder),
            "digest": checkpoint_digest(folder),
            "family": "llama",
            "parameters": sum(x.size for x in jax.tree.leaves(loaded.lm.params)),
            "dtype": "float32",
            "int8": [],
        }


@pytest.mark.slow
def test_int8_and_meshes_are_of_the_same_parameters(folders):
    whole = facts.model_facts(Pipeline.load(folders[0]).target)
    # Which has the one key/value head twice.
    mesh = mtad_jax.make_mesh("model:2", jax.devices()[:2])
    pipe = Pipeline.load(folders[0], mesh=mesh, target_int8="weights,kv")
    found = facts.model_facts(pipe.target)
    assert found == whole | {"int8": ["kv", "weights"]}
    assert facts.run_facts(pipe, config={}, seed=None)["device"]["count"] == 2
    assert facts.run_facts(pipe, config={}, seed=None)["models"]["draft"] is None


def test_a_checkpoint_that_is_gone(tmp_path, monkeypatch):
    pipe = Pipeline.load(write_ids_only_pair(tmp_path)[0])

    def gone(folder):
        raise FileNotFoundError(folder)

    monkeypatch.setattr(facts, "checkpoint_digest", gone)
    assert facts.model_facts(pipe.target)["digest"] is None


def git(folder: Path, *args: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    run = subprocess.run(["git", *who, *args], cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_the_revision_is_that_of_the_code(tmp_path, monkeypatch):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder in (ours, theirs):
        folder.mkdir()
        git(folder, "init", "-q")
        (folder / "code.py").write_text(f"# {folder.name}\n")
        git(folder, "add", ".")
        git(folder, "commit", "-qm", "first")
    code, head = ours / "code.py", git(ours, "rev-parse", "HEAD")
    monkeypatch.chdir(theirs)
    monkeypatch.setenv("GIT_DIR", str(theirs / ".git"))  # as in a hook
    assert facts.git_revision(code) == {"revision": head, "changed": False}
    installed = ours / "venv" / "code.py"
    installed.parent.mkdir()
    installed.write_text("# a package that lies there\n")
    assert facts.git_revision(installed) is None
    assert facts.git_revision(code) == {"revision": head, "changed": False}
    code.write_text("# changed\n")
    assert facts.git_revision(code) == {"revision": head, "changed": True}


def test_no_revision_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "code.py").touch()
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert facts.git_revision(tmp_path / "code.py") is None
    assert facts.git_revision(tmp_path / "nowhere" / "code.py") is None
    monkeypatch.setenv("PATH", "")
    assert facts.git_revision(ROOT / "setup.py") is None


def test_what_json_cannot_hold():
    @dataclasses.dataclass
    class Own:
        path: Path
        sizes: tuple[int, ...]

    config = ml_collections.ConfigDict({"warp": {"top_k": 3}, "tau": [0.5, math.nan]})
    given = {
        "config": config, "own": Own(Path("a/b"), (1, 2)), "array": np.arange(2), 3: None,
        "number": np.float32(0.5), "large": -math.inf, "names": {"b", "a"}, "on": True,
        "warp": Warp(temperature=0.0), "jax": jax.numpy.zeros(1),
    }  # fmt: skip
    found = facts.plain(given)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["config"] == {"warp": {"top_k": 3}, "tau": [0.5, "nan"]}
    assert found["own"] == {"path": "a/b", "sizes": [1, 2]} and found["names"] == ["a", "b"]
    assert (found["array"], found["number"], found["large"]) == ([0, 1], 0.5, "-inf")
    assert found["on"] is True and found["3"] is None and found["jax"] == [0.0]
    assert found["warp"]["temperature"] == 0.0


def test_the_line_of_a_machine():
    line = facts.machine_line()
    known = rf"mtad-jax {mtad_jax.__version__}, jax {jax.__version__}, Python 3\.\d+\.\d+"
    assert re.fullmatch(rf"{known}, cpu \(cpu\), \d+ CPU cores", line)


def test_the_processor_where_the_system_is_another(tmp_path, monkeypatch):
    monkeypatch.setattr(facts, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(facts.platform, "processor", lambda: "")
    assert facts.processor() is None
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Some CPU: 3 GHz\n")
    assert facts.processor() == "Some CPU: 3 GHz"
