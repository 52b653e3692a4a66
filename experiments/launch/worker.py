"""The program itself as a child process, with the noise of its runtime kept back.

The runtime under jax speaks of a lost process with pages of C++ stack traces; those are held until
it is known whether another process was the cause.
"""

import asyncio
import contextlib
import dataclasses
import os
import re
import signal
import sys

_LAST_WORDS = re.compile(  # what is written from here on belongs to an abort or a traceback
    rb"F[0-9]{4} [0-9:.]+ +[0-9]+ |[WE][0-9]{4} [0-9:.]+ +[0-9]+ (coordination|preemption)_|"
    rb"Fatal Python error|Traceback \(most recent call last\)"
)
_GLOO = re.compile(rb"(\[Gloo\] |^[0-9 ]*is connected to [0-9]+ peer ranks)[^\n]*\n?")
_OF_ANOTHER = re.compile(r"Gloo|NCCL|(reset|closed) by peer")
_MEANING = (  # of what the runtime says when it aborts
    (
        r"stopped sending heartbeats\):\s*(?:/job:\S*task:)?([0-9]+)",
        "its runtime heard no more of process {}: see that one's host",
    ),
    (
        r"CoordinationService/RegisterTask",
        "its runtime and the others did not meet at the port after --coordinator's: open that port",
    ),
    (r"F[0-9]{4} \S+ +[0-9]+ \S+\] (.{1,300})", "its runtime aborted: {}"),
)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a child ended.

    Attributes:
      code: its exit code; negative: the signal that ended it.
      failure: why it failed, on one line; None: it did not.
      cause: whether that is no mere consequence of another process's end.
      held: what it wrote to stderr that was kept back.
    """

    code: int
    failure: str | None
    cause: bool
    held: bytes


class Child:
    """A process with a pipe to stdin, by which it knows that its parent lives."""

    def __init__(self, process: asyncio.subprocess.Process):
        self._process = process
        self._error = self._held = b""
        self._holding = self._inside_line = False

    @classmethod
    async def start(cls, *flags: str) -> "Child":
        """Run this very command again, with more flags."""
        command = [sys.executable, *sys.orig_argv[1:], *flags]
        pipe = asyncio.subprocess.PIPE
        return cls(
            await asyncio.create_subprocess_exec(
                *command, stdin=pipe, stderr=pipe, start_new_session=True
            )
        )

    async def wait(self) -> Outcome:
        """Pass its stderr on until it ends; return how it did."""
        await self._forward()
        if self._inside_line:  # a progress bar that nothing follows
            sys.stderr.write("\n")
        code = await self._process.wait()
        if code == 0:
            return Outcome(0, None, False, self._held)
        if self._error:
            error = self._error.decode(errors="replace")
            return Outcome(code, error, not _OF_ANOTHER.search(error), self._held)
        if code < 0 and -code != signal.SIGABRT:
            name = signal.Signals(-code).name
            full = " (was the host's memory full?)" * (name == "SIGKILL")
            return Outcome(code, f"ended by {name}{full}", True, self._held)
        held = self._held.decode(errors="replace")
        for pattern, meaning in _MEANING:
            found = re.search(pattern, held)
            if found:
                return Outcome(code, meaning.format(*found.groups()), False, b"")
        how = f"exit code {code}" if code > 0 else signal.Signals(-code).name
        if b"Traceback" in self._held:
            how = next(line.strip() for line in reversed(held.splitlines()) if line.strip())
        return Outcome(code, f"failed: {how[:300]}", False, self._held)

    def kill(self) -> None:
        """End it and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    async def _forward(self) -> None:
        """Copy stderr piece by piece, so that a progress bar moves; hold what is noise."""
        stream, rest = self._process.stderr, b""
        assert stream is not None
        while data := await stream.read(1 << 16):
            *lines, rest = re.split(rb"(?<=[\r\n])", rest + data)
            if b"%|" in rest:  # a progress bar, which ends its line with the next one's start
                lines, rest = [*lines, rest], b""
            for line in lines:
                self._line(line)
        self._line(rest)

    def _line(self, line: bytes) -> None:
        line = _GLOO.sub(b"", line)  # which may come behind a progress bar
        if not line:
            return
        if line.startswith(b"error: "):
            self._error = line.removeprefix(b"error: ").strip()
        elif self._holding or _LAST_WORDS.match(line):
            self._holding = True
            self._held += line
        else:
            sys.stderr.buffer.write(line)
            sys.stderr.buffer.flush()
            self._inside_line = not line.endswith(b"\n")
