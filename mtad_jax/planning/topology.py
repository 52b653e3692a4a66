"""The devices of a plan: TPUs that are described to the compiler, or those of this machine."""

import importlib.util
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax

from mtad_jax.errors import install_hint
from mtad_jax.planning.chips import CHIPS, TPUS, Chip, gpu, host


@dataclass(frozen=True)
class Machine:
    """Devices of one kind.

    Attributes:
      name: such as "v5p:2x2x1".
      chip: what each of them is.
      devices: what programs are compiled for.
    """

    name: str
    chip: Chip
    devices: Sequence[Any]

    @property
    def is_tpu(self) -> bool:
        """Whether arrays lie in a TPU's tiles."""
        return self.devices[0].platform == "tpu"


def use_platform(name: str) -> None:
    """Say which devices JAX may open in this process: "cpu" or "cuda".

    Must come before JAX is first used: it would look for a TPU, complain that there is none, and
    lock the TPU compiler for all other processes.
    """
    jax.config.update("jax_platforms", name)


def tpu(text: str) -> Machine:
    """Return the TPUs of a topology such as "v5p:2x2x1", which need not be there.

    Raises:
      ValueError: unknown kind or shape, or the TPU compiler is not installed.
    """
    found = re.fullmatch(r"(\w+):([1-9]\d*(?:x[1-9]\d*){1,2})", text)
    if found is None or found[1] not in TPUS:
        raise ValueError(
            f"topology={text!r} is unknown: write kind:shape with one of {', '.join(TPUS)}, such "
            "as v5p:2x2x1 or v5e:4x4"
        )
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            f"topology={text}: the TPU compiler is missing (Linux): {install_hint('tpu')}"
        )
    _describe_host()
    from jax.experimental import topologies

    options: dict[str, Any] = {}
    if found[1] == "v4":
        options["chip_config_name"] = "megacore"  # both cores of a chip are one device
    if math.prod(map(int, found[2].split("x"))) == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        topology = topologies.get_topology_desc(text, platform="tpu", **options)
    except Exception as error:  # the plugin's own kinds of error
        reason = str(error).split("\n")[0]
        raise ValueError(
            f"topology={text}: there is no such slice ({reason}): e.g. v5p:2x2x1, v5e:4x4, v6e:2x4"
        ) from error
    return Machine(text, CHIPS[found[1]], topology.devices)


def _describe_host() -> None:
    """Tell the TPU compiler's library that it runs on no TPU host, before it is loaded.

    Else it asks Google's metadata server who it is, for minutes, and locks itself against other
    processes. What is set already is left alone.
    """
    for name, value in {
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5p-8",
    }.items():
        os.environ.setdefault(name, value)


def local(backend: str, count: int | None = None) -> Machine:
    """Return this machine's devices: its GPUs, or its processor as `count` simulated devices.

    Args:
      backend: "cpu" or "gpu".
      count: devices; None: all GPUs, one processor.

    Raises:
      ValueError: an unknown back end, no GPU, or fewer devices than asked for.
    """
    if backend not in ("cpu", "gpu"):
        raise ValueError(f"backend={backend!r} must be cpu or gpu; for TPUs give a topology")
    if backend == "cpu":
        _simulate(count or 1)
    try:
        devices = jax.devices(backend)
    except RuntimeError as error:
        raise ValueError(
            f"backend={backend}: JAX finds no {backend.upper()} here: give --topology=v5p:2x2x1 or "
            "--backend=cpu to plan without one"
        ) from error
    count = count or (len(devices) if backend == "gpu" else 1)
    if count > len(devices):
        raise ValueError(f"backend={backend}: {count} devices asked for, {len(devices)} are here")
    devices = devices[:count]
    if backend == "gpu":
        memory = (devices[0].memory_stats() or {}).get("bytes_limit", 0)
        chip = gpu(devices[0].device_kind, memory)
    else:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        chip = host(total / count)
    return Machine(f"{backend}:{count}", chip, devices)


def _simulate(count: int) -> None:
    """Make JAX show the processor as `count` devices, unless it has been used already."""
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:
        pass  # the caller counts what there is
