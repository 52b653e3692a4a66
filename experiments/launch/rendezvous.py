"""The roll of a run on several hosts: who is there, whether all are alike, and how it ended.

The supervising parents talk a line of JSON at a time over TCP; process 0's is the server, and the
only one that decides. So a lost process is known at once and by its number, whatever the runtime
under it does: a closed connection is a lost process, and so is silence.
"""

import asyncio
import contextlib
import errno
import json
from collections.abc import Coroutine
from typing import Any

from mtad_jax.devices.hosts import END_S, Place, first_difference

BEAT_S = 5.0
"""Seconds between two signs of life."""
SILENCE_S = 25.0
"""Seconds without one after which a host is taken for lost."""
SETTLE_S = 2.0
"""Seconds that a failure waits for the one that caused it."""

Message = dict[str, Any]


class _Line:
    """One connection, a line of JSON each way."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self._reader, self._writer = reader, writer

    async def receive(self, timeout_s: float) -> Message | None:
        """Return the next message; None where there will be none."""
        try:
            found = json.loads(await asyncio.wait_for(self._reader.readline(), timeout_s))
        except (OSError, TimeoutError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    async def send(self, message: Message) -> None:
        """Send; where nobody listens any more, the reading side finds out."""
        try:
            self._writer.write(json.dumps(message).encode() + b"\n")
            await asyncio.wait_for(self._writer.drain(), BEAT_S)
        except (OSError, TimeoutError):
            pass

    async def close(self) -> None:
        """Hang up; what was sent before still arrives."""
        self._writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            await asyncio.wait_for(self._writer.wait_closed(), BEAT_S)


class _Roll:
    """What both sides share; `verdict` is the failure that ends all, or None at a good end."""

    def __init__(self, place: Place, facts: dict[str, str]):
        self.place, self._facts = place, facts
        self.verdict: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._tasks: list[asyncio.Task] = []
        self._opened: list[_Line] = []

    def start(self, work: Coroutine) -> None:
        """Do something meanwhile, until the roll is closed."""
        self._tasks.append(asyncio.create_task(work))

    async def close(self) -> None:
        """Hang up, and stop whatever is still waited for."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(
            *self._tasks, *(line.close() for line in self._opened), return_exceptions=True
        )

    def _open(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> _Line:
        self._opened.append(_Line(reader, writer))
        return self._opened[-1]

    def _decide(self, verdict: str | None) -> None:
        if not self.verdict.done():
            self.verdict.set_result(verdict)

    async def _beat(self, line: _Line) -> None:
        while True:
            await line.send({"kind": "beat"})
            await asyncio.sleep(BEAT_S)


class Caller(_Roll):
    """Process 0's side: calls the roll and decides."""

    _announced = False

    async def join(self, timeout_s: float) -> None:
        """Wait until all processes are there and alike, or the verdict is known.

        Raises:
          ValueError: the port cannot be had.
        """
        self._lines: dict[int, _Line] = {}
        self._left, self._all_in = set(range(self.place.processes)), asyncio.Event()
        # A plain function: asyncio complains aloud of handlers that are cancelled at the end.
        self._server = await _listen(self.place, lambda *line: self.start(self._welcome(*line)))
        if self.place.processes == 1:
            self._all_in.set()
        everybody = asyncio.create_task(self._all_in.wait())
        self._tasks.append(everybody)
        await asyncio.wait(
            {everybody, self.verdict}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
        )
        if not everybody.done() and not self.verdict.done():
            absent = [i for i in range(1, self.place.processes) if i not in self._lines]
            await self.fail(
                f"{_processes(absent)} of {self.place.processes} never joined within "
                f"{timeout_s:g} s: start the same command there too, with --coordinator="
                f"{self.place.host}:{self.place.port} reachable from it, or raise --join_timeout"
            )
        if not self.verdict.done():
            await self._broadcast({"kind": "go"})

    async def end(self, failure: str | None, cause: bool = True) -> None:
        """Say that this process ended, or why it failed; see `fail`."""
        if failure is None:
            await self._done(self.place.index)
        else:
            await self.fail(f"process {self.place.index}: {failure}", cause)

    async def fail(self, failure: str, cause: bool = True) -> None:
        """End all with this failure; at once if it is no consequence of another one."""
        if not cause:
            self.start(self._fail_later(failure))
        else:
            await self._announce(failure)

    async def _fail_later(self, failure: str) -> None:
        await asyncio.sleep(SETTLE_S)
        await self.fail(failure)

    async def close(self) -> None:
        """Hang up, and close the port."""
        self._server.close()
        await super().close()

    async def _announce(self, verdict: str | None) -> None:
        """Tell all the verdict, once; this process ends when it knows it, so it is the last."""
        if not self._announced:
            self._announced = True
            await self._broadcast({"kind": "verdict", "text": verdict})
            self._decide(verdict)

    async def _broadcast(self, message: Message) -> None:
        await asyncio.gather(*(line.send(message) for line in self._lines.values()))

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take in a process that calls; what does not speak as one is sent away."""
        line = self._open(reader, writer)
        hello = await line.receive(SILENCE_S) or {}
        index, facts = hello.get("index"), hello.get("facts")
        if not isinstance(index, int) or not isinstance(facts, dict):
            await line.close()
            return
        refusal = self._refusal(index, facts)
        if refusal is None:
            self._lines[index] = line
            self.start(self._beat(line))
            self.start(self._follow(index, line))
            if len(self._lines) == self.place.processes - 1:
                self._all_in.set()
        elif self._all_in.is_set():  # nobody is missing: it is no part of this run
            text = f"{refusal} (the run under way goes on without it)"
            await line.send({"kind": "verdict", "text": text})
            await line.close()
        else:
            await line.send({"kind": "verdict", "text": refusal})
            await self._announce(refusal)

    def _refusal(self, index: int, facts: Message) -> str | None:
        """Say why a process that calls cannot be taken in; None: it can."""
        different = first_difference(self._facts, facts)
        if different:
            return f"process {index} differs from process 0 in {different}: give all the same"
        if index in self._lines or not 0 < index < self.place.processes:
            return f"--process_id={index} was given twice: give each process its own"
        return None

    async def _follow(self, index: int, line: _Line) -> None:
        while not self.verdict.done():
            message = await line.receive(SILENCE_S)
            if message is None:
                await self.fail(f"process {index} was lost: see its own messages, or its host")
            elif message["kind"] == "failed":
                await self.fail(f"process {index}: {message['text']}", message["cause"])
            elif message["kind"] == "done":
                await self._done(index)

    async def _done(self, index: int) -> None:
        self._left.discard(index)
        if not self._left:
            await self._announce(None)
        elif len(self._left) == self.place.processes - 1:
            self.start(self._wait_for_the_rest(index))

    async def _wait_for_the_rest(self, first: int) -> None:
        await asyncio.sleep(END_S + SILENCE_S)
        slow = _processes(sorted(self._left))
        await self.fail(f"{slow} did not end within {END_S + SILENCE_S:g} s of process {first}")


class Answerer(_Roll):
    """The side of every other process: answers, and does as process 0 decides."""

    _line: _Line | None = None

    async def join(self, timeout_s: float) -> None:
        """Wait until process 0 says that all are there, or the verdict is known."""
        self._line = await self._call(timeout_s)
        if self._line is None:
            return
        await self._line.send({"kind": "hello", "index": self.place.index, "facts": self._facts})
        self.start(self._beat(self._line))
        joined = asyncio.get_running_loop().create_future()
        self.start(self._follow(self._line, joined))
        await asyncio.wait({joined, self.verdict}, return_when=asyncio.FIRST_COMPLETED)

    async def _call(self, timeout_s: float) -> _Line | None:
        """Connect to process 0; None where the verdict came first."""
        loop, at = asyncio.get_running_loop(), f"{self.place.host}:{self.place.port}"
        end = loop.time() + timeout_s
        while not self.verdict.done():
            try:
                found = asyncio.open_connection(self.place.host, self.place.port)
                return self._open(*await asyncio.wait_for(found, BEAT_S))
            except (OSError, TimeoutError) as error:
                if loop.time() >= end:
                    self._decide(
                        f"process 0 never answered at {at} within {timeout_s:g} s "
                        f"({_reason(error)}): start it there, or raise --join_timeout"
                    )
            await asyncio.sleep(0.2)
        return None

    async def end(self, failure: str | None, cause: bool = True) -> None:
        """Tell process 0 that this one ended, or why it failed."""
        if self._line is not None and failure is None:
            await self._line.send({"kind": "done"})
        elif self._line is not None:
            await self._line.send({"kind": "failed", "text": failure, "cause": cause})
        if failure is not None and cause:
            self._decide(f"process {self.place.index}: {failure}")

    async def _follow(self, line: _Line, joined: asyncio.Future) -> None:
        while not self.verdict.done():
            message = await line.receive(SILENCE_S)
            if message is None:
                at = f"{self.place.host}:{self.place.port}"
                self._decide(f"process 0 ({at}) was lost: see its own messages, or its host")
            elif message["kind"] == "verdict":
                self._decide(message["text"])
            elif message["kind"] == "go":
                joined.set_result(None)


def make_roll(place: Place, facts: dict[str, str]) -> Caller | Answerer:
    """Return this process's side of the roll; `facts` must be equal in all processes."""
    return (Answerer if place.index else Caller)(place, facts)


async def _listen(place: Place, welcome: Any) -> asyncio.Server:
    """Open process 0's port, and see that the runtime's is free."""
    local = place.host in ("localhost", "127.0.0.1", "::1")
    host = place.host if local else None  # None: every interface, as the runtime's coordinator
    port = place.port + 1
    try:
        probe = await asyncio.start_server(welcome, host, port)
        probe.close()
        await probe.wait_closed()
        port = place.port
        return await asyncio.start_server(welcome, host, port)
    except OSError as error:
        used = error.errno == errno.EADDRINUSE
        raise ValueError(
            f"--coordinator={place.host}:{place.port}: port {port} "
            f"{'is in use' if used else f'cannot be had ({_reason(error)})'} on this host: choose "
            "another (it takes two, the one given and the next)"
        ) from error


def _processes(indices: list[int]) -> str:
    return f"process{'es' * (len(indices) > 1)} {', '.join(map(str, indices))}"


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
