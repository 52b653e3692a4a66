"""Runs `mtad_jax.text.template_worker`, and ends it where a template does not end by itself.

One process serves all templates: it starts with the first, which takes a tenth of a second, and
ends with this process.
"""

import atexit
import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from mtad_jax.errors import install_hint

SECONDS = 20.0
"""How long a template may take; one of a real model takes a millisecond."""

_OLDEST = (3, 1, 6)  # of jinja2, as in pyproject.toml: its sandbox had holes before
_WORKER = Path(__file__).with_name("template_worker.py")
# By its path: as a module of the package it would import the package, and JAX with it.
_PROGRAM = "import runpy, sys; runpy.run_path(sys.argv[1])['serve']()"

_lock = threading.Lock()
_process: subprocess.Popen[bytes] | None = None


class TemplateFailure(ValueError):
    """A template that gives no text.

    Attributes:
      line: where in it, if known.
    """

    def __init__(self, message: str, line: int | None = None):
        super().__init__(message)
        self.line = line


def render(source: str, variables: Mapping[str, Any], *, seconds: float = SECONDS) -> str:
    """Return the text of a template.

    Args:
      source: the template.
      variables: what it may use, as JSON can hold it.
      seconds: the longest that it may take.

    Raises:
      TemplateFailure: it raises an error, is wrong, or takes too much time or memory.
      ValueError: variables that JSON cannot hold; jinja2 is missing or too old.
    """
    try:
        request = json.dumps({"source": source, "variables": variables, "seconds": seconds})
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"a template's variables must be as JSON has them: {error}") from error
    with _lock:
        answer = json.loads(_ask(request.encode() + b"\n", seconds))
    if "error" in answer:
        raise TemplateFailure(answer["error"], answer["line"])
    return answer["text"]


def stop() -> None:
    """End the process, if there is one; the next template starts another."""
    global _process
    process, _process = _process, None
    if process is None:
        return
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):  # what was not sent yet cannot be
            pipe.close()  # pyright: ignore[reportOptionalMemberAccess]


def _ask(request: bytes, seconds: float) -> bytes:
    """Return the answer to a request; the process does not outlive one that it cannot answer."""
    process, late, line = _running(), threading.Event(), b""
    assert process.stdin is not None and process.stdout is not None

    def end() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        with contextlib.suppress(BrokenPipeError):  # it is dead, and reading says so
            process.stdin.write(request)
            process.stdin.flush()
        line = process.stdout.readline()
    finally:  # Ctrl-C included: an answer that nobody waits for would be taken for the next one's
        timer.cancel()
        if late.is_set() or not line.endswith(b"\n"):
            stop()
    if line.endswith(b"\n"):
        return line
    if late.is_set():
        raise TemplateFailure(f"no end after {seconds:g} seconds")
    raise TemplateFailure("the process that ran it died")


def _running() -> subprocess.Popen[bytes]:
    """Return the process, a new one where there is none any more."""
    global _process
    if _process is not None and _process.poll() is not None:
        stop()
    if _process is None:
        _check_jinja()
        _process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM, str(_WORKER)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    return _process


def _check_jinja() -> None:
    """Raise ValueError where there is no jinja2, or one with known holes."""
    try:
        version = metadata.version("jinja2")
    except metadata.PackageNotFoundError:
        raise ValueError(f"chat templates need jinja2: {install_hint('chat')}") from None
    if tuple(int(part) for part in version.split(".")[:3] if part.isdecimal()) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        raise ValueError(
            f"chat templates need jinja2 >= {oldest}, this is {version}: {install_hint('chat')}"
        )


atexit.register(stop)
