"""The documents say what the code has."""

import inspect
import re
from pathlib import Path

from mtad_jax.recipes import RECIPES

ROOT = Path(__file__).resolve().parents[1]


def test_the_table_of_strategies_has_every_recipe_and_its_settings():
    text = (ROOT / "docs" / "strategies.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| `\w+\(([^)]*)\)`", text, flags=re.MULTILINE))
    assert rows == {name: ", ".join(inspect.signature(r).parameters) for name, r in RECIPES.items()}


def test_every_recipe_says_whether_it_is_lossless():
    for name, recipe in RECIPES.items():
        text = inspect.getdoc(recipe) or ""
        assert re.search(r"\b(lossless|lossy|deterministic)\b", text, re.IGNORECASE), name
