"""Text of models and of users inside HTML."""

from html import escape


def safe(text: str) -> str:
    """Return a text as HTML holds it; half a surrogate pair, which no file can hold, becomes ?."""
    return escape(text.encode("utf-8", "replace").decode("utf-8"))
