"""Python of the documents, for tests that run it on models of their own."""

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def run_snippet(page: str, holding: str, replace: tuple[str, str] = ("", ""), **given) -> dict:
    """Run the one block of Python of `docs/<page>` that holds a text; its names.

    `given` are names that the block needs and does not make; one number may be replaced by another.
    """
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text("utf-8"), re.M | re.S)
    (code,) = (block for block in blocks if holding in block)
    assert replace[0] in code
    code = code.replace(*replace)
    names = {"__name__": "snippet", **given}
    exec(compile(code, f"docs/{page}", "exec"), names)
    return names
