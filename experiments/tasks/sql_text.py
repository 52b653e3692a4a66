"""SQL as text: what stands in its strings, and what around them."""

import re
from collections.abc import Callable

STRING = re.compile(r"'(?:[^']|'')*'")
_PARTS = re.compile(f"({STRING.pattern})")


def outside_strings(sql: str, change: Callable[[str], str]) -> str:
    """The SQL with every part changed that is not in a string."""
    parts = _PARTS.split(sql)
    parts[::2] = map(change, parts[::2])
    return "".join(parts)
