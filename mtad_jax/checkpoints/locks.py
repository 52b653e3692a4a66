"""Locks on open files, which the system drops when their process ends; on any system."""

import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
try:
    import msvcrt
except ImportError:  # all others
    msvcrt = None


def lock_file(descriptor: int) -> None:
    """Lock an open file until it is closed; where the system has no locks, do nothing.

    Raises:
      BlockingIOError: another process, or this one through another descriptor, has the lock.
      OSError: the file system has none.
    """
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    elif msvcrt is not None:  # pragma: no cover
        _lock_windows(descriptor)


def lock_folder(folder: Path) -> int:
    """Open a folder and lock it; return the descriptor to close.

    Raises:
      BlockingIOError: as `lock_file`; another process, whose lock it was, has renamed it.
      OSError: as `lock_file`; it cannot be opened.
    """
    try:
        return _open_and_lock(folder)
    except FileNotFoundError as error:
        raise _renamed(folder) from error


def _renamed(folder: Path) -> BlockingIOError:
    return BlockingIOError(f"{folder}: renamed by its owner just now")


def _open_and_lock(folder: Path) -> int:
    if fcntl is not None:
        descriptor = os.open(folder, os.O_RDONLY)
    else:  # a folder cannot be opened on Windows: a file beside it stands for it
        beside = folder.with_name(folder.name + ".lock")
        descriptor = os.open(beside, os.O_RDWR | os.O_CREAT)
    try:
        lock_file(descriptor)
        if fcntl is not None and os.fstat(descriptor).st_ino != folder.stat().st_ino:
            raise _renamed(folder)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _lock_windows(descriptor: int) -> None:  # pragma: no cover
    """Lock one byte far past the end, so that the file's own bytes stay readable."""
    assert msvcrt is not None
    place = os.lseek(descriptor, 0, os.SEEK_CUR)
    os.lseek(descriptor, 1 << 30, os.SEEK_SET)
    try:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except PermissionError as error:
        raise BlockingIOError(str(error)) from error
    finally:
        os.lseek(descriptor, place, os.SEEK_SET)
