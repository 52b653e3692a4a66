"""How an error is told: on one line."""

import jax


def one_line(error: BaseException) -> str:
    """Return an error's message on one line; its type's name if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def install_hint(extra: str) -> str:
    """Return the commands that install an extra of this package, which is on no index."""
    return (
        f"pip install '.[{extra}]' in a checkout, else pip install 'mtad-jax[{extra}] @ git+URL' "
        "with its repository's URL"
    )


def out_of_memory(error: BaseException) -> bool:
    """Say whether a device, or its compiler, had too little memory."""
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
