"""Run Python that a model wrote: in a process of its own, limited, and judged by how it ends.

A program runs on the standard library alone, with empty input, its output thrown away, an
environment of its own, hashes of strings that do not change from run to run, and an empty folder
that is deleted afterwards. It may start neither processes nor threads, nor open sockets. Its wall
time, its time on the processor, its memory and the size and number of its files are limited. When
it ends, or its time does, all that is left of it is killed, SIGTERM ignored or not. `isolation`
says which of two kinds of guard is in force:

"namespaces": the kernel keeps it from writing outside of its folder, from devices other than null,
  zero, random and urandom, from the network, and from seeing or signalling other processes,
  whatever it does. It can read the files that this process can, those in /run and /proc excepted,
  and reach FIFOs and Unix sockets in folders other than /run that its user may write to: this
  process's, or nobody where this process is root.
"audit hook": where the system has no namespaces or refuses them, a hook inside Python refuses the
  same. That stops accidents. It stops no program that is meant to get round it, and where this
  process is root, nothing else limits processes, and nothing threads: take a container then.

A program passes if a number that is drawn after its start, and handed to its process when the last
line of the tests has run, comes back: text that it prints, an early `os._exit(0)` and a closed
output do not pass. The tests run in its process, though: one that has studied this module could
fetch the number itself, just as one that returns an object equal to everything passes most tests.
"""

import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from absl import logging

Isolation = Literal["namespaces", "audit hook"]
MEMORY = 1 << 30  # bytes of addresses
_GRACE_S = 60.0  # for the start and the end of the processes around the program
_START = "from experiments.tasks.code_supervisor import main; main()"
_ROOT = str(Path(__file__).resolve().parents[2])


@dataclass(frozen=True)
class Outcome:
    """How a program ended.

    Attributes:
      verdict: "passed"; "failed": an exception; "timed out"; or "died": any other end.
      reason: on one line; "" where it passed. Partly the program's own words.
    """

    verdict: str
    reason: str = ""

    @property
    def passed(self) -> bool:
        """Whether all of it ran to its end."""
        return self.verdict == "passed"


def check_allowed(what: str, allowed: bool, seconds: float) -> None:
    """Check that code which a model wrote may run, and can.

    Args:
      what: the task, in errors.
      allowed: whether the user has said so.
      seconds: time of a program.

    Raises:
      ValueError: it may not; no time.
      OSError: no program can be run on this system.
    """
    if not allowed:
        raise ValueError(
            f"{what} runs code that the model writes, on this machine: give "
            "--allow_code_execution to allow it"
        )
    if not 0 < seconds <= 3600:
        raise ValueError(f"seconds={seconds} must be in (0, 3600]: the time of one program")
    isolation()


@functools.cache
def isolation() -> Isolation:
    """Return which kind of guard is in force on this machine; tried once.

    Raises:
      OSError: no program can be run here.
    """
    if not hasattr(os, "fork"):
        raise OSError("code of a model runs on Linux and macOS only: this system has no fork")
    kinds: tuple[Isolation, ...] = ("namespaces", "audit hook")
    outcomes = [Outcome("died", "not tried")]
    for kind in kinds:
        outcomes.append(run_program(["import json"], isolated_by=kind))
        if outcomes[-1].passed:
            if kind == "audit hook":
                logging.warning(
                    "code of the model runs guarded by an audit hook only, which stops accidents, "
                    "not attacks: namespaces: %s", outcomes[1].reason,
                )  # fmt: skip
            return kind
    raise OSError(f"no program can be run here: {outcomes[-1].verdict}: {outcomes[-1].reason}")


def run_program(
    sources: Sequence[str],
    *,
    seconds: float = 10.0,
    memory: int = MEMORY,
    isolated_by: Isolation | None = None,
) -> Outcome:
    """Run a program that nobody has read.

    Args:
      sources: its parts, Python, run one after the other in one module; the tests last.
      seconds: wall time, and time on the processor.
      memory: most bytes of addresses, Python's own included.
      isolated_by: None: the stronger kind that this machine has.

    Raises:
      OSError: no process can be started.
    """
    with tempfile.TemporaryDirectory(prefix="code-", ignore_cleanup_errors=True) as folder:
        job = {
            "sources": list(sources),
            "folder": folder,
            "seconds": seconds,
            "memory": memory,
            "isolation": isolated_by or isolation(),
        }
        text = json.dumps(job).encode()
        # A session of its own: Ctrl-C reaches this process alone, and a signal all of its group.
        with subprocess.Popen(
            [sys.executable, "-s", "-S", "-P", "-B", "-c", _START],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            cwd=folder, env=_environment(folder), start_new_session=True,
        ) as process:  # fmt: skip
            try:
                answer, complaint = process.communicate(text, timeout=seconds + _GRACE_S)
            except subprocess.TimeoutExpired:
                return Outcome("timed out", f"no end after {seconds + _GRACE_S:g} s")
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
    return _read(answer, complaint)


def _environment(folder: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    return kept | {
        "PATH": os.defpath, "HOME": folder, "TMPDIR": folder, "PYTHONPATH": _ROOT,
        "PYTHONHASHSEED": "0", "PYTHONUTF8": "1",
    }  # fmt: skip


def _read(answer: bytes, complaint: bytes) -> Outcome:
    """Return the outcome that the supervisor wrote; it writes none where it was killed itself."""
    try:
        verdict, reason = json.loads(answer)
    except ValueError:
        last = complaint.decode(errors="replace").strip().rpartition("\n")[2]
        return Outcome("died", f"and the processes around it: {last}" if last else "killed")
    return Outcome(verdict, " ".join(reason.split()))
