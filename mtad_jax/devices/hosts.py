"""One run on several hosts: which process this is, and what all of them must have alike.

`jax.distributed` connects the processes. It ends a process from C++ when another one is lost, so
the runners have a parent that watches; see `docs/sharding.md`.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

HEARTBEAT_S = 45
"""Seconds after which the runtime takes a process for lost that answers no more."""
END_S = 60
"""Seconds that a process waits at its end for the others to end."""

_WHOLE = 1 << 20  # files up to this size are read whole for their digest
_SAMPLES, _SAMPLE = 64, 4096  # of larger ones: so many pieces, of so many bytes
_WEIGHT_FILES = (".bin", ".jinja", ".json", ".model", ".safetensors", ".txt")


@dataclass(frozen=True)
class Place:
    """Where a process stands in a run on several hosts.

    Attributes:
      host: of process 0.
      port: where process 0 calls the roll; the runtime's own coordinator has the next port.
      processes: how many there are.
      index: which of them this is, from 0 on.
    """

    host: str
    port: int
    processes: int
    index: int


def find_place(coordinator: str, processes: int | None, index: int | None) -> Place:
    """Return where this process stands.

    Args:
      coordinator: HOST:PORT of process 0, or "auto": what jax knows of a TPU pod, Slurm, ...
      processes: how many there are; None with "auto".
      index: which of them this is; None with "auto".

    Raises:
      ValueError: wrong address or numbers; "auto" found nothing, or numbers were given with it.
    """
    if coordinator == "auto":
        if (processes, index) != (None, None):
            raise ValueError(
                "--coordinator=auto finds --num_processes and --process_id itself: leave them out"
            )
        return _detected()
    if processes is None or index is None:
        raise ValueError(
            f"--coordinator={coordinator} needs --num_processes=N and --process_id=0 ... N-1"
        )
    if processes < 1:
        raise ValueError(f"--num_processes={processes} must be >= 1")
    if not 0 <= index < processes:
        raise ValueError(
            f"--process_id={index} must be between 0 and {processes - 1}: --num_processes="
            f"{processes}"
        )
    return Place(*_address(coordinator), processes, index)


def _address(text: str) -> tuple[str, int]:
    found = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\s/\[\]]+):([0-9]{1,5})", text)
    if found is None or not 1 <= int(found[2]) <= 65534:
        raise ValueError(
            f"--coordinator={text} is no HOST:PORT with a port between 1 and 65534: give e.g. "
            "--coordinator=10.0.0.2:8476, or auto"
        )
    return found[1].strip("[]"), int(found[2])


def _detected() -> Place:
    # jax has no public name for this: it detects only inside `initialize`, which is too late.
    from jax._src.clusters import ClusterEnv

    address, processes, index, _ = ClusterEnv.auto_detect_unset_distributed_params(
        None, None, None, None, None, 60
    )
    if address is None or processes is None or index is None:
        raise ValueError(
            "--coordinator=auto found no TPU pod, Slurm or other cluster: give "
            "--coordinator=HOST:PORT --num_processes=N --process_id=I"
        )
    host, port = address.rsplit(":", 1)
    return Place(host.strip("[]"), int(port) - 1, processes, index)  # jax's own is the runtime's


def join(place: Place, timeout_s: float) -> None:
    """Connect this process to the others; before jax is used for anything else.

    The process is aborted where they do not come within `timeout_s` seconds, at least a minute:
    they are there, but may still be importing.
    """
    host = f"[{place.host}]" if ":" in place.host else place.host
    jax.distributed.initialize(
        f"{host}:{place.port + 1}",
        place.processes,
        place.index,
        initialization_timeout=max(round(timeout_s), 60),
        heartbeat_timeout_seconds=HEARTBEAT_S,
        shutdown_timeout_seconds=END_S,
    )


def is_first() -> bool:
    """Say whether this process writes the results; true where there is but one."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def from_first(number: int) -> int:
    """Return process 0's number in every process; all must call it."""
    if not jax.distributed.is_initialized():
        return number
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def first_difference(mine: Mapping[str, str], theirs: Mapping[str, str]) -> str | None:
    """Return the first thing that is not the same, as "NAME: their value, not mine"."""
    for name in {**mine, **theirs}:
        a, b = (facts.get(name, "none") for facts in (mine, theirs))
        if a != b:
            return f"{name}: {b}, not {a}"
    return None


def code_digest(packages: Iterable[str | Path]) -> str:
    """Return a digest of all Python files of some package folders, by name and content."""
    digest = hashlib.sha256()
    for package in map(Path, packages):
        for file in sorted(package.rglob("*.py")):
            digest.update(f"{package.name}/{file.relative_to(package).as_posix()}\0".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:12]


def checkpoint_digest(folder: str | Path) -> str:
    """Return a digest of a checkpoint folder.

    It covers the names and sizes of its configs, tokenizer and weight files, the content of files
    up to 1 MB, and of larger ones 64 pieces of 4 KB from their start to their end: enough to tell
    weights apart, not to find a single damaged byte.

    Raises:
      OSError: a file cannot be read.
    """
    folder = Path(folder)
    files = [file for file in folder.glob("*") if file.suffix in _WEIGHT_FILES]
    files += [*(folder / "params").rglob("*"), *folder.glob("*/*.jinja")]
    digest = hashlib.sha256()
    for file in sorted(file for file in files if file.is_file()):
        size = file.stat().st_size
        digest.update(f"{file.relative_to(folder).as_posix()}\0{size}\0".encode())
        with file.open("rb") as stream:
            if size <= _WHOLE:
                digest.update(stream.read())
                continue
            for i in range(_SAMPLES):
                stream.seek((size - _SAMPLE) * i // (_SAMPLES - 1))
                digest.update(stream.read(_SAMPLE))
    return digest.hexdigest()[:12]
