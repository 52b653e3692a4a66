"""Rooms import only what pyproject.toml allows them, and importing needs nothing optional."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOT_LOADED = (
    "torch", "transformers", "matplotlib", "pandas", "jinja2", "lm_eval", "gguf", "configs",
    "experiments", "tunix", "gemma", "kauldron",
)  # fmt: skip
PLUG_INS = ROOT / "mtad_jax" / "integrations"  # each needs the program that it plugs into
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted(ROOT.glob("mtad_jax/**/*.py"))
    if path.stem != "__main__" and PLUG_INS not in path.parents
]


def python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)


def test_the_contracts_of_imports_hold():
    run = python(
        "from importlinter.cli import lint_imports as lint; "
        "raise SystemExit(lint(no_cache=True, no_logo=True))"
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.slow
def test_importing_every_module_loads_nothing_optional():
    run = python(
        f"import sys, {', '.join(MODULES)}; print([m for m in {NOT_LOADED} if m in sys.modules])"
    )
    assert run.stdout.strip() == "[]", run.stderr
