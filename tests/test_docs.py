"""The documents say what the code has, and their Python runs."""

import importlib
import importlib.util
import inspect
import re
from pathlib import Path

import pytest
from absl import flags

import mtad_jax
from experiments import answers, benchmark, calibrate, demo, generate, plan, quantization, report
from mtad_jax.recipes import RECIPES

ROOT = Path(__file__).resolve().parents[1]
DOCS = sorted(p for p in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")) if p.name != "CHANGELOG.md")
PROGRAMS = (answers, benchmark, calibrate, demo, generate, plan, quantization, report)
CLI = ROOT / "mtad_jax" / "cli.py"  # what all programs have
OTHERS = {
    "config",  # of train, by ml_collections
    "strategy",  # of the conformance suite
    # of lm_eval
    *("model", "model_args", "tasks", "gen_kwargs", "apply_chat_template", "use_cache", "device"),
    *("command", "worker", "zone", "nodes"),  # of gcloud and srun
    "xla_force_host_platform_device_count",  # of XLA
}
each_document = pytest.mark.parametrize("path", DOCS, ids=lambda p: p.relative_to(ROOT).as_posix())


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def test_the_table_of_strategies_has_every_recipe_and_its_settings():
    text = text_of(ROOT / "docs" / "strategies.md")
    rows = dict(re.findall(r"^\| `(\w+)` \| `\w+\(([^)]*)\)`", text, flags=re.MULTILINE))
    assert rows == {name: ", ".join(inspect.signature(r).parameters) for name, r in RECIPES.items()}


def test_every_recipe_says_whether_it_is_lossless():
    for name, recipe in RECIPES.items():
        text = inspect.getdoc(recipe) or ""
        assert re.search(r"\b(lossless|lossy|deterministic)\b", text, re.IGNORECASE), name


def exists(dotted: str) -> bool:
    """Whether a name such as `mtad_jax.decode.warp.Warp` is a module or of one."""
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for name in parts[cut:]:
            if not hasattr(found, name):
                return name in getattr(found, "__annotations__", {})
            found = getattr(found, name)
        return True
    return False


@each_document
def test_modules_and_names_exist(path):
    found = set(re.findall(r"(?<![\w./])mtad_jax(?:\.\w+)+", text_of(path)))
    commands = re.findall(r"python -m ((?:experiments|checkpoints_convert)[.\w]*)", text_of(path))
    imported = re.findall(r"^from (mtad_jax[\w.]*) import ([\w, ]+)$", text_of(path), re.MULTILINE)
    found |= {f"{module}.{name}" for module, names in imported for name in names.split(", ")}
    missing = [name for name in sorted(found) if not exists(name)]
    assert missing + [name for name in commands if importlib.util.find_spec(name) is None] == []


@each_document
def test_files_exist(path):
    rooms = "mtad_jax|experiments|configs|checkpoints_convert|tests|docs"
    found = set(re.findall(rf"(?<![\w/.])(?:{rooms})/[\w./]*\w", text_of(path)))
    links = re.findall(r"\]\(([\w./]+)\)", text_of(path))
    missing = [name for name in sorted(found) if not (ROOT / name).exists()]
    assert missing + [link for link in links if not (path.parent / link).exists()] == []


@pytest.fixture(scope="module")
def known_flags():
    """Flags of all programs; of those that define them on import, by their text."""
    names = set(flags.FLAGS) | {"help", "helpfull"}
    for module in PROGRAMS:
        values = flags.FlagValues()
        module.define_flags(values)
        names |= set(values)
    for path in (*ROOT.glob("checkpoints_convert/*.py"), *ROOT.glob("experiments/*.py"), CLI):
        names |= set(re.findall(r'DEFINE_\w+\(\s*"(\w+)"', text_of(path)))
    return names | OTHERS


@each_document
def test_flags_exist(path, known_flags):
    found = set(re.findall(r"(?<![\w-])--([a-z]\w+)(?![\w-])", text_of(path)))
    unknown = {f for f in found if f not in known_flags and f.removeprefix("no") not in known_flags}
    assert sorted(unknown) == []


def snippets() -> list:
    """Blocks of Python that name all that they use: those that begin with an import."""
    found = []
    for path in DOCS:
        for i, code in enumerate(re.findall(r"^```python\n(.*?)^```", text_of(path), re.M | re.S)):
            whole = code.startswith(("import ", "from ")) and "llama" not in code
            if whole:
                found.append(pytest.param(code, id=f"{path.stem}-{i}"))
    return found


@pytest.mark.parametrize("code", snippets())
@pytest.mark.slow
def test_snippets_run(code):
    code = code.replace("max_new_tokens=100", "max_new_tokens=8")
    exec(compile(code, "snippet", "exec"), {"__name__": "snippet"})


@pytest.mark.slow
def test_the_front_door_names_what_is_public():
    doc = inspect.getdoc(mtad_jax) or ""
    listed = doc[doc.index("Text in, text out:") :]
    assert [name for name in mtad_jax.__all__ if not re.search(rf"\b{name}\b", listed)] == []
    example = "\n".join(re.findall(r"^    (.*)$", doc[: doc.index("Text in, text out:")], re.M))
    assert "mtad_jax.Pipeline.shipped()" in example
    exec(compile(example, "help(mtad_jax)", "exec"), {})


def test_stability_lists_every_public_name_and_no_other():
    text = text_of(ROOT / "docs" / "stability.md")
    table = re.findall(r"^\|(?: `([\w.]+)`)? \|[^|]*\|(.*)\|$", text, re.MULTILINE)
    listed, module = {}, ""
    for cell, names in table:
        module = cell or module
        listed.setdefault(module, set()).update(re.findall(r"`(\w+)`", names))
    for name in ("mtad_jax", "mtad_jax.adapters", "mtad_jax.plots", "mtad_jax.testing"):
        assert listed[name] == set(importlib.import_module(name).__all__), name
    doc = inspect.getdoc(mtad_jax.rules) or ""
    assert [n for n in mtad_jax.rules.__all__ if not re.search(rf"\b{n}\b", doc)] == []
