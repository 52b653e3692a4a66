"""Files of mtad_jax import nothing from outside the package, and nothing optional."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = ("configs", "experiments", "checkpoints_convert")
OPTIONAL = ("torch", "transformers", "matplotlib")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(ROOT.glob("mtad_jax/**/*.py"))}


def imports(tree: ast.AST) -> set[str]:
    """Names of the modules that are imported anywhere below `tree`."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "relative import: write the whole name"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in FILES else node.module for name in names}
    return found


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_imported_from_outside(name):
    imported = imports(ast.parse(FILES[name].read_text()))
    assert not {other.split(".")[0] for other in imported} & set(OUTSIDE)


def test_importing_the_package_loads_nothing_optional():
    banned = OPTIONAL + OUTSIDE
    code = f"import sys, {', '.join(FILES)}; print([m for m in {banned} if m in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"
