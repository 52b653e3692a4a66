"""What is published of each accelerator, for floors of time and estimates of energy."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Chip:
    """One accelerator, as a program sees it.

    Attributes:
      name: as in a topology, such as "v5p".
      memory: bytes that a program may use.
      bandwidth: bytes a second between memory and compute; None: not published.
      flops: dense bfloat16 operations a second; None: not published.
      link: bytes a second that it can send over all of its links to other chips; None: not
        published.
      watts: power; None: not known.
      watts_are: where `watts` is from.
    """

    name: str
    memory: float
    bandwidth: float | None
    flops: float | None
    link: float | None
    watts: float | None
    watts_are: str


_GIB, _GB, _TERA = 2.0**30, 1e9, 1e12
_GUESS = "an assumption, not published"
_LIMIT = "the maker's limit of the board"

# TPU: compute and bandwidth from docs.cloud.google.com/tpu/docs/v4 ... v6e (official); links too,
# half of what is given for both directions, but v4's, which its paper has (arXiv 2304.01433). v4's
# power is the mean on its page; Google publishes none of the others. Memory is what the TPU
# compiler says it allows a program, a little below the size on the data sheet.
# GPU: the makers' data sheets (SXM boards, without sparsity); memory as sold.
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", 30.75 * _GIB, 1200 * _GB, 275 * _TERA, 300 * _GB, 170, "published, mean"),
        Chip("v5e", 15.75 * _GIB, 819 * _GB, 197 * _TERA, 200 * _GB, 200, _GUESS),
        Chip("v5p", 95.74 * _GIB, 2765 * _GB, 459 * _TERA, 600 * _GB, 450, _GUESS),
        Chip("v6e", 31.25 * _GIB, 1638 * _GB, 918 * _TERA, 400 * _GB, 300, _GUESS),
        Chip("a100-80g", 80 * _GB, 2039 * _GB, 312 * _TERA, 300 * _GB, 400, _LIMIT),
        Chip("h100", 80 * _GB, 3350 * _GB, 989 * _TERA, 450 * _GB, 700, _LIMIT),
        Chip("h200", 141 * _GB, 4800 * _GB, 989 * _TERA, 450 * _GB, 700, _LIMIT),
    )
}
"""Name -> chip."""

TPUS = tuple(name for name in CHIPS if name.startswith("v"))
"""Chips that a topology can be made of."""

_GPU_NAMES = {"a100": "a100-80g", "h100": "h100", "h200": "h200"}


def gpu(kind: str, memory: float) -> Chip:
    """Return the GPU that calls itself `kind`; of unknown ones only the memory (bytes) is known."""
    for part, name in _GPU_NAMES.items():
        if part in kind.lower():
            return CHIPS[name]
    return Chip(kind, memory, None, None, None, None, "unknown")


def host(memory: float) -> Chip:
    """Return this machine's processor, of which only the memory (bytes) is known."""
    return Chip("cpu", memory, None, None, None, None, "unknown")
