"""What is published of each accelerator, for floors of time and estimates of energy."""

import re
from dataclasses import dataclass, replace


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
# GPU: the makers' data sheets (SXM boards, without sparsity); memory as sold, where none is
# measured.
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", 30.75 * _GIB, 1200 * _GB, 275 * _TERA, 300 * _GB, 170, "published, mean"),
        Chip("v5e", 15.75 * _GIB, 819 * _GB, 197 * _TERA, 200 * _GB, 200, _GUESS),
        Chip("v5p", 95.74 * _GIB, 2765 * _GB, 459 * _TERA, 600 * _GB, 450, _GUESS),
        Chip("v6e", 31.25 * _GIB, 1638 * _GB, 918 * _TERA, 400 * _GB, 300, _GUESS),
        Chip("a100-40g", 40 * _GB, 1555 * _GB, 312 * _TERA, 300 * _GB, 400, _LIMIT),
        Chip("a100-80g", 80 * _GB, 2039 * _GB, 312 * _TERA, 300 * _GB, 400, _LIMIT),
        Chip("h100", 80 * _GB, 3350 * _GB, 989 * _TERA, 450 * _GB, 700, _LIMIT),
        Chip("h200", 141 * _GB, 4800 * _GB, 989 * _TERA, 450 * _GB, 700, _LIMIT),
    )
}
"""Name -> chip."""

TPUS = tuple(name for name in CHIPS if name.startswith("v"))
"""Chips that a topology can be made of."""

# Words of a device's own name; those of other boards and of slices (MIG) tell that it is slower.
_GPU_WORDS = {
    "a100-40g": {"a100", "40gb"},
    "a100-80g": {"a100", "80gb"},
    "h100": {"h100"},
    "h200": {"h200"},
}
_OTHERS = {"mig", "pcie", "nvl"}


def gpu(kind: str, memory: float) -> Chip:
    """Return the GPU that calls itself `kind`, such as "NVIDIA H100 80GB HBM3".

    Args:
      kind: its name. Of one that is not in `CHIPS` only the memory is known.
      memory: bytes that a program may use, measured; 0: unknown, and what is sold counts.
    """
    words = set(re.findall(r"[a-z0-9]+", kind.lower()))
    for name, own in _GPU_WORDS.items():
        if own <= words and not words & _OTHERS:
            return replace(CHIPS[name], memory=memory or CHIPS[name].memory)
    return Chip(kind, memory, None, None, None, None, "unknown")


# As JAX calls them: "lite" is what is sold as e.
_TPU_KINDS = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
}


def tpu_of(kind: str) -> Chip | None:
    """Return the TPU that calls itself `kind`, such as "TPU v5 lite"; None: not in `CHIPS`."""
    return CHIPS.get(_TPU_KINDS.get(kind, ""))


def host(memory: float) -> Chip:
    """Return this machine's processor, of which only the memory (bytes) is known."""
    return Chip("cpu", memory, None, None, None, None, "unknown")
