"""What several families' settings may be, and checks of one against another."""

from typing import Any

from mtad_jax.json_file import Field, whole

CONFIG = "config.json"

# Far above every model there is, and low enough that whatever is within can be laid out.
VOCAB = whole(1, 1 << 24)
WIDTH = whole(1, 1 << 20)
MLP_WIDTH = whole(1, 1 << 22)
LAYERS = whole(1, 1 << 12)
POSITIONS = (1, (1 << 31) - 1)
HEADS = (1, 1 << 14)


def or_off(field: Field, default: Any) -> Field:
    """The same setting with a default, and null as a value of its own: switched off."""
    return Field(
        f"{field.wanted} or null", lambda value: value is None or field.fits(value), default
    )


def check_divides(**sizes: int) -> None:
    """Check that the second of two settings divides the first.

    Raises:
      ValueError: it does not.
    """
    (whole_name, size), (part_name, part) = sizes.items()
    if size % part:
        raise ValueError(f"{CONFIG}: {part_name}={part} must divide {whole_name}={size}")
