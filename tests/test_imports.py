"""Rooms import only what pyproject.toml allows them, and importing needs nothing optional."""

import subprocess
import sys
from pathlib import Path

from importlinter.cli import lint_imports

ROOT = Path(__file__).resolve().parents[1]
NOT_LOADED = ("torch", "transformers", "matplotlib", "configs", "experiments")
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted(ROOT.glob("mtad_jax/**/*.py"))
    if path.stem != "__main__"
]


def test_the_contracts_of_imports_hold(capsys):
    found = lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True, no_logo=True)
    assert found == 0, capsys.readouterr().out


def test_importing_every_module_loads_nothing_optional():
    code = f"import sys, {', '.join(MODULES)}; print([m for m in {NOT_LOADED} if m in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"
