"""Folders and files that appear complete or not at all."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mtad_jax.checkpoints.locks import lock_folder

CHECKPOINT = "config.json"
"""The file that every checkpoint has."""


@contextmanager
def new_folder(
    path: str | Path, *, overwrite: bool = False, need_bytes: int = 0, marker: str = CHECKPOINT
) -> Iterator[Path]:
    """Give a temporary folder beside `path`, and rename it to `path` once the block is done.

    The temporary folder's name is fixed and locked: what a killed run left is cleared by the next
    one, and two runs cannot write at once. An old folder is moved aside only for the rename.

    Args:
      path: must not exist, unless `overwrite`.
      overwrite: replace `path` if it is an empty folder or holds the marker; anything else was
        hardly meant.
      need_bytes: how much will be written.
      marker: a file that every folder of this kind has; that of checkpoints unless told otherwise.

    Raises:
      ValueError: `path` exists and may not be replaced, or another run writes it.
      OSError: not enough space, now or while writing, or `path` cannot be written, or its file
        system has no locks.
    """
    path = _absolute(path)
    temporary, old = path.with_name(f".{path.name}.partial"), path.with_name(f".{path.name}.old")
    path.parent.mkdir(parents=True, exist_ok=True)
    lock, renamed = _lock(temporary, path), False
    try:
        _recover(path, old)
        _check_output(path, overwrite, marker)
        _clear(temporary)
        free = shutil.disk_usage(path.parent).free
        if free < need_bytes:
            raise _no_space(path, need_bytes, free)
        yield temporary
        _sync(temporary)
        if path.exists():
            path.rename(old)
        temporary.rename(path)
        renamed = True
        _sync_one(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    except Exception as error:
        if "No space left on device" in f"{error} {error.__cause__}":  # tensorstore's kind too
            raise _no_space(path, need_bytes, shutil.disk_usage(path.parent).free) from error
        raise
    finally:
        if not renamed:  # else what has that name now is another run's
            shutil.rmtree(temporary, ignore_errors=True)
        os.close(lock)


@contextmanager
def new_file(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary file's name beside `path`, and rename it to `path` once the block is done.

    Args:
      path: must not exist, unless `overwrite`.
      overwrite: replace the file.

    Raises:
      ValueError: `path` exists and may not be replaced.
      OSError: it cannot be written.
    """
    path = _absolute(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    if os.path.lexists(path) and not overwrite:
        raise ValueError(f"{path}: output exists: use another name or --overwrite")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        _sync_one(temporary)
        temporary.replace(path)
        _sync_one(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _absolute(path: str | Path) -> Path:
    """Return the absolute path; a leading ~ is the home folder (`--output=~/x` from a shell)."""
    return Path(os.path.abspath(Path(path).expanduser()))


def _lock(temporary: Path, path: Path) -> int:
    """Create the folder and lock it; the system drops the lock when the process ends.

    Raises:
      ValueError: another run has the lock.
      OSError: the file system has none, or the folder cannot be opened.
    """
    temporary.mkdir(exist_ok=True)
    try:
        return lock_folder(temporary)
    except BlockingIOError as error:
        raise ValueError(f"{path}: another run is writing it: wait for its end") from error
    except OSError as error:
        with suppress(OSError):  # a killed run's files, if any, stay
            temporary.rmdir()
        raise OSError(
            f"{path}: {temporary.name} beside it cannot be locked ({error.strerror or error}): "
            "write elsewhere"
        ) from error


def _recover(path: Path, old: Path) -> None:
    """Undo a replacement that was cut between its two renames."""
    if old.exists() and not path.exists():
        old.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def _check_output(path: Path, overwrite: bool, marker: str) -> None:
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise ValueError(f"{path}: output exists: use another name or --overwrite")
    if path.is_symlink() or not path.is_dir():
        raise ValueError(f"{path}: output is not a folder: use another name")
    if any(path.iterdir()) and not (path / marker).is_file():
        kind = "a checkpoint" if marker == CHECKPOINT else f"a folder with {marker}"
        raise ValueError(f"{path}: output holds something else than {kind}: not replaced")


def _clear(folder: Path) -> None:
    for item in folder.iterdir():
        shutil.rmtree(item) if item.is_dir() and not item.is_symlink() else item.unlink()


def _no_space(path: Path, need: int, free: int) -> OSError:
    return OSError(
        errno.ENOSPC,
        f"no space left for {path}: about {need / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free: "
        "make room or write elsewhere",
    )


def _sync(folder: Path) -> None:
    """Force all files to disk, so that the rename cannot come before them."""
    for parent, _, files in os.walk(folder):
        for name in (*files, "."):
            _sync_one(Path(parent, name))


def _sync_one(path: Path) -> None:
    windows = os.name == "nt"  # it opens no folders, and syncs only what may be written
    if windows and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
