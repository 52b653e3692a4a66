"""Keeps JAX from looking for a TPU where there is none.

With the TPU compiler installed (the `tpu` extra), JAX loads it to look for TPUs, and on a machine
without one it prints several lines straight to the terminal, from C++.
"""

import importlib.util
import os
from collections.abc import Iterable, Iterator
from importlib.metadata import entry_points
from pathlib import Path

import jax

_GOOGLE = "0x1ae0"  # PCI vendor
_NO_SIGNS = ("TPU_SKIP_MDS_QUERY", "TPU_LIBRARY_PATH")  # jax and libtpu set these themselves
_OTHERS = {"xla_cuda": "cuda", "xla_rocm": "rocm"}  # starts of JAX plugins' names: their platforms


def leave_out_absent_tpu() -> None:
    """Say which platforms JAX may open, where it would look for a TPU that is not there.

    Nothing is changed where `JAX_PLATFORMS` or `jax_platforms` is set, where there is any sign of a
    TPU, where the TPU compiler is not installed, or where a plugin is that is not known here. What
    is left in are the platforms that JAX would open itself, in its order.
    """
    if getattr(jax.config, "jax_platforms", None) or "JAX_PLATFORMS" in os.environ:
        return
    if importlib.util.find_spec("libtpu") is None or any(_tpu_signs()):
        return
    platforms = platforms_without_tpu(point.name for point in entry_points(group="jax_plugins"))
    if platforms is None:
        return
    try:
        jax.config.update("jax_platforms", ",".join(platforms))
    except RuntimeError:  # JAX has been used already, and has looked
        pass


def platforms_without_tpu(plugins: Iterable[str]) -> list[str] | None:
    """Return the platforms of a machine without TPU by its JAX plugins; None: one is unknown."""
    found = []
    for name in plugins:
        platform = next((p for start, p in _OTHERS.items() if name.startswith(start)), None)
        if platform is None:
            return None
        found.append(platform)
    return [*sorted(set(found)), "cpu"]


def _tpu_signs(root: Path = Path("/")) -> Iterator[str]:
    """Give every sign that a TPU may be here: its devices, or settings for one."""
    yield from (str(path) for path in root.glob("dev/accel*"))
    yield from (str(path) for path in root.glob("dev/vfio/[0-9]*"))
    for vendor in root.glob("sys/bus/pci/devices/*/vendor"):
        if vendor.read_text().strip() == _GOOGLE:
            yield str(vendor)
    for name in os.environ:
        if name == "JAX_FORCE_TPU_INIT" or (name.startswith("TPU_") and name not in _NO_SIGNS):
            yield name
