"""The process in which a program that nobody has read runs, and what it is refused there."""

import math
import os
import resource
import sys
import types
from collections.abc import Callable, Sequence
from typing import NoReturn

_MOST_FILE_BYTES = 16 << 20
_MOST_OPEN_FILES = 64
_MOST_REASON = 300  # characters
_REFUSED = frozenset({
    "os.exec", "os.fork", "os.forkpty", "os.kill", "os.killpg", "os.posix_spawn", "os.spawn",
    "os.system", "pty.spawn", "socket.__new__", "subprocess.Popen",
})  # fmt: skip
_CHANGES = frozenset({
    "os.chflags", "os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.removexattr",
    "os.rename", "os.rmdir", "os.setxattr", "os.symlink", "os.truncate", "os.utime",
    "sqlite3.connect",
})  # fmt: skip
_LIBRARIES = frozenset({"ctypes.dlopen", "ctypes.dlsym"})
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def limit_resources(seconds: float, memory: int) -> None:
    """Limit time on the processor, memory, files and, to none, further processes and threads.

    Args:
      seconds: on the processor.
      memory: most bytes of addresses.
    """
    whole = math.ceil(seconds)
    limits = {
        "RLIMIT_CPU": (whole, whole + 1),
        "RLIMIT_FSIZE": (_MOST_FILE_BYTES, _MOST_FILE_BYTES),
        "RLIMIT_NOFILE": (_MOST_OPEN_FILES, _MOST_OPEN_FILES),
        "RLIMIT_CORE": (0, 0),
        "RLIMIT_NPROC": (0, 0),
        "RLIMIT_AS": (memory, memory),
    }
    for name, pair in limits.items():
        try:
            resource.setrlimit(getattr(resource, name), pair)
        except (ValueError, OSError):
            if sys.platform == "linux":  # others do not have them all
                raise


def run(sources: Sequence[str], ticket: int, report: int, folder: str | None) -> NoReturn:
    """Run a program's parts one after the other, in one module, and end this process.

    The parts are compiled one by one, so that none can swallow the beginning of the next.

    Args:
      sources: Python.
      ticket: descriptor that is read when all parts have run. What it gives goes to `report`, and
        is nowhere in this process before.
      report: descriptor of the answer: the ticket, or `!` and what went wrong.
      folder: the only one that may be written, where nothing but a hook refuses the rest.
    """
    read, write, leave = os.read, os.write, os._exit  # the program may replace them
    module = types.ModuleType("program")  # so that no `if __name__ == "__main__":` runs
    sys.modules["program"] = module
    try:
        sys.addaudithook(_hook(folder))
        for number, source in enumerate(sources):
            code = compile(source, f"<part {number}>", "exec", dont_inherit=True)
            exec(code, module.__dict__)
        write(report, read(ticket, 64))
        leave(0)
    except BaseException as error:
        write(report, b"!" + _reason(error))
        leave(1)
    raise AssertionError("os._exit came back")


def _reason(error: BaseException) -> bytes:
    """Return what to say of an error, whose own text may be anything."""
    name = type(error).__name__
    try:
        return f"{name}: {error}"[:_MOST_REASON].encode(errors="replace")
    except BaseException:
        return name[:_MOST_REASON].encode(errors="replace")


def _hook(folder: str | None) -> Callable[[str, tuple], None]:
    """Return a hook that refuses processes, signals and sockets.

    With a folder, it also refuses to write elsewhere and to call the C library. A program that
    means to get round it can.
    """
    inside = None if folder is None else os.path.realpath(folder)
    realpath, decode, beginning = os.path.realpath, os.fsdecode, f"{inside}{os.sep}"

    def check(path: object) -> None:
        if isinstance(path, (str, bytes, os.PathLike)):
            found = realpath(decode(path))
            if found not in (inside, os.devnull) and not found.startswith(beginning):
                raise PermissionError(f"{found[:100]}: outside of the program's folder")

    def hook(event: str, arguments: tuple) -> None:
        if event in _REFUSED or (inside and event in _LIBRARIES):
            raise PermissionError(f"{event} is refused to a program under test")
        if inside and (event in _CHANGES or (event == "open" and arguments[2] & _WRITING)):
            for argument in arguments[:2]:
                check(argument)

    return hook
