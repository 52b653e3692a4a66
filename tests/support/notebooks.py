"""Notebooks read and run without a kernel: plain Python, cell by cell."""

import ast
import json
from pathlib import Path
from typing import Any

from html_pages import Page


def cells(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def code_of(path: Path) -> list[str]:
    return ["".join(cell["source"]) for cell in cells(path) if cell["cell_type"] == "code"]


def run(path: Path) -> tuple[dict[str, Any], list[Any]]:
    """Run all cells; return the names they leave, and what the last lines of cells give.

    What a notebook would show of a value is made, so that it is known to work.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    shown = []
    for number, code in enumerate(code_of(path)):
        tree = ast.parse(code)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        where = f"{path.name} cell {number}"
        exec(compile(tree, where, "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), where, "eval"), names)
            if value is not None:
                show(value)
                shown.append(value)
    return names, shown


def show(value: Any) -> None:
    assert len(repr(value)) < 1000
    if hasattr(value, "_repr_html_"):
        Page(value._repr_html_())
