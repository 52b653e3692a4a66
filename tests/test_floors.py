"""Files of mtad_jax import only from strictly lower floors, and nothing from outside."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = [
    "errors",
    "types lazy atomic cli hosts token_bytes tokenizer_settings models decode calibration "
    "planning planning.chips planning.collectives",
    "sharding planning.topology",
    "quantize",
    "warp keys tree cache orbax_io torch_reader tokenizer_files",
    "models.base models.layers decode.state hf_reader tokenizers",
    "models.llama models.opt decode.law decode.result decode.strategy detokenize",
    "decode.commit decode.certificate decode.beams decode.pairs decode.verifiers decode.lossless "
    "decode.loop hf",
    "decode.drafters decode.checks hf_params",
    "decode.draft_verify decode.beam_search decode.settings checkpoint hf_writer "
    "decode.trees decode.lookup decode.confident decode.mtjd decode.dsbd",
    "recipes decode.generate saving planning.program",
    "pipeline calibration.candidates calibration.calls planning.memory",
    "testing.fakes testing.models testing.results calibration.meter planning.costs planning.fit",
    "testing.strategies calibration.decide calibration.predict planning.report",
    "testing calibration.report",
    "calibration.search",
    "calibration.calibrate",
    "",  # mtad_jax/__init__.py: the public names
]
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


def floors() -> dict[str, int]:
    return {
        f"mtad_jax.{name}": floor for floor, names in enumerate(FLOORS) for name in names.split()
    } | {"mtad_jax": len(FLOORS) - 1}


def breaches(name: str, imported: set[str]) -> list[str]:
    floor = floors()
    ours = {other for other in imported if other.split(".")[0] == "mtad_jax"}
    return sorted(other for other in ours if floor[other] >= floor[name])


def test_every_file_has_one_floor():
    missing = sorted(FILES.keys() - floors().keys())
    assert not missing, f"give these a floor in {Path(__file__).name}: {missing}"
    stale = sorted(floors().keys() - FILES.keys())
    assert not stale, f"no such files: {stale}"


@pytest.mark.parametrize("name", FILES)
def test_imports_come_from_lower_floors(name):
    imported = imports(ast.parse(FILES[name].read_text()))
    assert not breaches(name, imported), f"{name} imports from its own floor or higher"
    top = {other.split(".")[0] for other in imported}
    assert not top & set(OUTSIDE), f"{name} imports from outside the package"
    if name.startswith("mtad_jax.models."):
        assert not any(other.startswith("mtad_jax.decode") for other in imported)
    if name.startswith("mtad_jax.decode."):
        models = {other for other in imported if other.startswith("mtad_jax.models")}
        assert models <= {"mtad_jax.models.base"}, f"{name} knows an architecture"


def test_a_breach_is_seen():
    source = "from mtad_jax.decode import generate as g\ndef f():\n    import mtad_jax.warp"
    found = imports(ast.parse(source))
    assert breaches("mtad_jax.models.base", found) == ["mtad_jax.decode.generate"]
    assert breaches("mtad_jax.cache", found) == ["mtad_jax.decode.generate", "mtad_jax.warp"]


def test_importing_the_package_loads_nothing_optional():
    banned = OPTIONAL + OUTSIDE
    code = f"import sys, {', '.join(FILES)}; print([m for m in {banned} if m in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"
