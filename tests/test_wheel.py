"""What an installed package puts where; see setup.py and mtad_jax/__main__.py."""

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import mtad_jax
from mtad_jax.__main__ import COMMANDS, commands_folder

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("mtad_jax", "checkpoints_convert", "configs", "experiments")


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Build the wheel of a copy of this checkout, and unpack it into a folder of its own."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("out")
    for name in PACKAGES:
        skip = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=skip)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    code = f"from setuptools import build_meta; build_meta.build_wheel({str(out)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(out / "site")
    return out / "site"


def test_the_wheel_puts_one_package_into_site_packages(installed):
    info = f"mtad_jax-{mtad_jax.__version__}.dist-info"
    assert sorted(os.listdir(installed)) == ["mtad_jax", info]


def test_the_wheel_has_every_file(installed):
    def files(folder: Path) -> set[str]:
        # Notebooks are for the repository's readers and Colab: no package data.
        left_out = {"__pycache__", "colab"}
        kept = (file for file in folder.rglob("*") if file.is_file())
        return {str(f.relative_to(folder)) for f in kept if left_out.isdisjoint(f.parts)}

    own = {name for name in files(installed / "mtad_jax") if not name.startswith("_commands")}
    assert own == files(ROOT / "mtad_jax")
    for name in PACKAGES[1:]:
        assert files(installed / "mtad_jax" / "_commands" / name) == files(ROOT / name)


def test_an_installed_command_runs_anywhere(installed, tmp_path):
    (tmp_path / "experiments.py").write_text("raise SystemExit('the wrong one')")
    environment = os.environ | {"PYTHONPATH": str(installed)}
    flags = ["--prompt_ids=5,6", "--strategy=greedy", "--max_new_tokens=2"]

    def run(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "mtad_jax", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    done = run("generate", *flags)
    assert done.returncode == 0, done.stderr
    assert done.stdout and "finished by length" in done.stderr
    refused = run("generat")
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: 'generat' is no command") and not refused.stdout
    assert run("--help").returncode == 0


def test_every_command_is_there():
    assert commands_folder() == ROOT
    runners = {f"{folder}.{file.stem}" for folder in PACKAGES for file in _runners(folder)}
    assert set(COMMANDS.values()) == runners
    for module in COMMANDS.values():
        assert importlib.util.find_spec(module)


def _runners(folder: str) -> list[Path]:
    """Return the modules that run as programs."""
    files = (ROOT / folder).glob("*.py")
    return [
        f for f in files if f.name != "__main__.py" and '__name__ == "__main__"' in f.read_text()
    ]
