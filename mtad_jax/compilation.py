"""Compiled programs kept on disk, so that a second run of the same shapes compiles nothing.

JAX's own persistent cache, in a folder of this user's, with two things mended: JAX writes its
entries in place, so that a run that is killed leaves half of one, which is read and complained of
for ever; and its bound on the size needs another package. JAX's key covers the program, its own
version, the flags and the kind of device.
"""

import contextlib
import dataclasses
import functools
import hashlib
import os
import platform
import re
import sys
import tempfile
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.monitoring

OFF = "off"
MAX_BYTES = 2 << 30
"""Most that the folder holds; above it, the entries used longest ago are dropped."""
_REQUEST = "/jax/compilation_cache/compile_requests_use_cache"
_HIT = "/jax/compilation_cache/cache_hits"
_SUFFIX = ".program"


@dataclasses.dataclass
class Counts:
    """Programs that were asked for since the cache was opened, and those that it had."""

    requests: int = 0
    hits: int = 0

    def __sub__(self, earlier: "Counts") -> "Counts":
        return Counts(self.requests - earlier.requests, self.hits - earlier.hits)

    def __str__(self) -> str:
        if not self.requests:
            return "no program needed compiling"
        if self.hits == self.requests:
            return f"{self.hits} programs from the cache"
        return f"{self.requests - self.hits} programs compiled, {self.hits} from the cache"


_counts = Counts()


def counts() -> Counts:
    """Return the counts so far; subtract earlier ones for those of a part of the work."""
    return dataclasses.replace(_counts)


def default_folder() -> Path:
    """Return this user's folder for compiled programs, one for each kind of processor.

    A home folder may be shared by unlike machines, and programs use what the processor can do.
    """
    home = Path.home()
    if os.name == "nt":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "mtad_jax" / "programs" / _processor()


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    text = info.read_text(errors="replace") if info.is_file() else platform.processor()
    found = re.search(r"^(flags|Features)\s*:(.*)$", text, re.MULTILINE)
    digest = hashlib.sha256((found[2] if found else text).encode()).hexdigest()[:8]
    return f"{platform.machine() or 'unknown'}-{digest}"


def enable(folder: str | Path | None = None) -> None:
    """Keep compiled programs on disk from now on; a second call without a folder does nothing.

    What the user has told JAX wins, as `JAX_COMPILATION_CACHE_DIR` or by `jax.config`. A folder
    that cannot be written is told on stderr in one line, and the work goes on without.

    Args:
      folder: where; "off": keep none; None: `default_folder`, unless JAX has been told.
    """
    _listen()
    if folder == OFF:
        jax.config.update("jax_enable_compilation_cache", False)
        return
    told = getattr(jax.config, "jax_compilation_cache_dir", None)
    if told or not getattr(jax.config, "jax_enable_compilation_cache", True):
        if folder is None or Path(folder) == Path(told or ""):
            return
    try:
        path = (default_folder() if folder is None else Path(folder)).expanduser().absolute()
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
        _prune(path, MAX_BYTES)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home folder
        _say_once(f"compiled programs are not kept: {error}")
        return
    _use_safe_files()
    jax.config.update("jax_enable_compilation_cache", True)
    jax.config.update("jax_compilation_cache_dir", str(path))
    least = getattr(jax.config, "jax_persistent_cache_min_compile_time_secs", None)
    if least == 1.0 and "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@functools.cache
def _listen() -> None:
    """Count programs from now on, once in a process."""
    jax.monitoring.register_event_listener(_count)


@functools.cache
def _say_once(line: str) -> None:
    print(line, file=sys.stderr)


def _count(event: str, **_: object) -> None:
    if event == _REQUEST:
        _counts.requests += 1
    elif event == _HIT:
        _counts.hits += 1


class ProgramFiles:
    """One file a program, complete or not there, with a checksum; what JAX asks of a cache."""

    def __init__(self, folder: str | Path):
        self._path = Path(folder)

    def get(self, key: str) -> bytes | None:
        """Return an entry; None where there is none, or a damaged one, which is dropped."""
        file = self._path / f"{key}{_SUFFIX}"
        try:
            data = file.read_bytes()
        except OSError:
            return None
        value, checksum = data[:-4], data[-4:]
        if zlib.crc32(value).to_bytes(4, "little") != checksum:
            with contextlib.suppress(OSError):
                file.unlink()
            return None
        with contextlib.suppress(OSError):
            os.utime(file)  # used just now: see `_prune`
        return value

    def put(self, key: str, value: bytes) -> None:
        """Write an entry; where it cannot be written, there is none."""
        temporary = self._path / f".{key}.{os.getpid()}.{threading.get_ident()}.partial"
        try:
            temporary.write_bytes(value + zlib.crc32(value).to_bytes(4, "little"))
            temporary.replace(self._path / f"{key}{_SUFFIX}")
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()


def _use_safe_files() -> None:
    """Have JAX keep its entries in `ProgramFiles`.

    JAX has no public name for this. Where the private one is gone, its own files are used.
    """
    try:
        from jax._src import compilation_cache

        compilation_cache.reset_cache()
        if hasattr(compilation_cache, "get_file_cache"):
            compilation_cache.get_file_cache = lambda path: (ProgramFiles(path), path)  # type: ignore[assignment]
    except (ImportError, AttributeError):
        pass


def _prune(folder: Path, most: int) -> None:
    """Drop the entries used longest ago until they take at most `most` bytes, and stale pieces."""
    entries = sorted(_entries(folder))
    total = sum(size for _, size, _ in entries)
    for _, size, file in entries:
        if total <= most:
            break
        with contextlib.suppress(OSError):
            file.unlink()
        total -= size


def _entries(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """Give when each file of the cache was last used, its size and its path."""
    for file in folder.glob("*"):
        if file.suffix in (_SUFFIX, ".partial"):
            with contextlib.suppress(OSError):  # another process has just dropped it
                state = file.stat()
                yield state.st_mtime, state.st_size, file
