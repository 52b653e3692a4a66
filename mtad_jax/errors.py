"""How an error is told: on one line."""


def one_line(error: BaseException) -> str:
    """Return an error's message on one line; its type's name if it has none."""
    return " ".join(str(error).split()) or type(error).__name__
