"""The processes around a program under test: what `experiments.tasks.code_execution` starts.

With namespaces there are three: this one, which cannot be seen from inside; process 1 of the new
namespaces, whose end ends all that is there; and the program's. Without them this one takes the
place of process 1. Either ends by itself in time, also when whoever started it is gone.
"""

import json
import os
import signal
import sys
import time
from typing import Any, NoReturn

from experiments.tasks import code_namespaces, code_program

_MOST_REPORT = 4096  # bytes
_POLL_S = 0.005
_MEMORY_FOLDER = 64 << 20  # bytes


def main() -> None:
    """Read a job from stdin, run it, and write its outcome to stdout, both as JSON.

    A job has `sources`, `folder`, `seconds`, `memory` and `isolation`; an outcome is a pair of
    verdict and reason.
    """
    job = json.load(sys.stdin)
    answer = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    sys.path.remove(os.environ.pop("PYTHONPATH"))  # the project is not the program's business
    try:
        if job["isolation"] == "namespaces":
            code_namespaces.enter(job["folder"], _MEMORY_FOLDER)
            first = os.fork()
            if first:
                os.waitpid(first, 0)
                os._exit(0)
            code_namespaces.end_with_parent()
        else:
            code_namespaces.adopt_orphans()
        outcome = _supervise(job, answer)
    except OSError as error:
        outcome = ("died", f"it could not be started: {error}")
    os.write(answer, json.dumps(outcome).encode())
    os._exit(0)


def _supervise(job: dict[str, Any], answer: int) -> tuple[str, str]:
    """Run a program in a process of its own, and judge how it ended."""
    tickets, ticket_in = os.pipe()
    reports, report_in = os.pipe()
    runner = os.fork()
    if not runner:
        for descriptor in (answer, ticket_in, reports):
            os.close(descriptor)
        _become_program(job, tickets, report_in)
    os.close(report_in)
    ticket = os.urandom(32)  # drawn after the fork: the program's memory does not have it
    os.write(ticket_in, ticket)
    status = _wait(runner, job["seconds"])
    _end_the_rest(runner)
    os.set_blocking(reports, False)
    try:
        report = os.read(reports, _MOST_REPORT)
    except BlockingIOError:
        report = b""
    if status is None:
        return "timed out", f"no end after {job['seconds']:g} s"
    return _judge(status, report, ticket)


def _become_program(job: dict[str, Any], tickets: int, report: int) -> NoReturn:
    isolated = job["isolation"] == "namespaces"
    try:
        os.setsid()  # a signal to the program's group is not one to this process
        os.dup2(0, 2)
        if isolated:
            code_namespaces.drop_rights()
        else:
            code_namespaces.end_with_parent()
        code_program.limit_resources(job["seconds"], job["memory"])
    except BaseException as error:
        os.write(report, f"!it could not be limited: {error}".encode())
        os._exit(1)
    code_program.run(job["sources"], tickets, report, None if isolated else job["folder"])


def _wait(runner: int, seconds: float) -> int | None:
    """Return the program's exit status, or None where its time ended first; reap all others."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended, status = os.waitpid(-1, os.WNOHANG)
        if ended == runner:
            return status
        if not ended:
            time.sleep(_POLL_S)
    os.kill(runner, signal.SIGKILL)
    os.waitpid(runner, 0)
    return None


def _end_the_rest(runner: int) -> None:
    """Kill what the program left; in namespaces nothing escapes the end of process 1."""
    if os.getpid() == 1:
        return
    try:
        os.killpg(runner, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    end = time.monotonic() + 1
    while time.monotonic() < end:
        try:
            if not os.waitpid(-1, os.WNOHANG)[0]:
                _kill_children()
                time.sleep(_POLL_S)
        except ChildProcessError:
            return


def _kill_children() -> None:
    """Kill this process's children, among them adopted ones; only Linux lists them."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            children = file.read().split()
    except OSError:
        return
    for child in children:
        os.kill(int(child), signal.SIGKILL)


def _judge(status: int, report: bytes, ticket: bytes) -> tuple[str, str]:
    if report == ticket and status == 0:
        return "passed", ""
    if report[:1] == b"!":
        return "failed", report[1:].decode(errors="replace")
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        verdict = "timed out" if number == signal.SIGXCPU else "died"
        return verdict, f"ended by signal {number} ({signal.strsignal(number)})"
    return "died", f"ended with status {os.WEXITSTATUS(status)} before its tests did"
