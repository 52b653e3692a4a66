"""The same command on several hosts as one run.

With `--coordinator` a runner becomes the parent of itself: it calls the roll with the other hosts'
parents, runs the program as a child, and ends all of them with one line where one is lost. The
child is the ordinary program with `jax.distributed`. `docs/sharding.md` has commands and times.
"""

import asyncio
import hashlib
import inspect
import math
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from absl import flags

import experiments
import mtad_jax
from experiments.launch.rendezvous import Answerer, Caller, make_roll
from experiments.launch.worker import Child
from experiments.rows.output import rows_kept
from experiments.tasks import stories
from mtad_jax import cli
from mtad_jax.devices.hosts import Place, checkpoint_digest, code_digest, find_place, join
from mtad_jax.registry import find

HELP_TOPIC = "Several hosts"

_NAMES = ("coordinator", "num_processes", "process_id", "join_timeout", "supervisor")
# The texts do not depend on these; of checkpoints the content is compared, not the name.
_FREE = (*_NAMES, "target", "draft", "output", "overwrite", "resume")
_COMPUTING = ("jax", "jaxlib", "libtpu", "flax", "numpy", "qwix", "tokenizers", "sentencepiece")
_GONE_S = 5.0  # seconds that a killed child may take to be gone


def define_host_flags(values: flags.FlagValues) -> None:
    """Define --coordinator and the flags that go with it."""
    text, whole = flags.DEFINE_string, flags.DEFINE_integer
    text("coordinator", None, "HOST:PORT of process 0 in a run on several hosts, the same command "
         "on each; auto: what a TPU pod or Slurm says. The next port is used too.",
         flag_values=values)  # fmt: skip
    whole("num_processes", None, "How many processes the run has.", flag_values=values)
    whole("process_id", None, "Which of them this is, from 0 on.", flag_values=values)
    flags.DEFINE_float("join_timeout", 300.0, "Seconds in which all processes must have joined.",
                       flag_values=values)  # fmt: skip
    whole("supervisor", None, "Given by the program to itself.", flag_values=values)


def run(
    values: flags.FlagValues,
    define: Callable[[flags.FlagValues], None],
    program: Callable[[flags.FlagValues], int | None],
) -> int:
    """Run a program by its flags, on this host alone or as one of several.

    Args:
      values: the flags, parsed.
      define: defines them; what it defines must be equal on all hosts.
      program: what to run; returns an exit code or None.

    Returns:
      The exit code. Non-zero in every process where any of them failed.

    Raises:
      ValueError: wrong flags; whatever `program` raises, without --coordinator.
    """
    place = read_place(values)
    if place is None:
        return program(values) or 0
    if values.supervisor is None:
        return asyncio.run(_supervise(place, values, _facts(place, values, define)))
    return _run_child(place, values, program)


def check_alone(values: flags.FlagValues, reason: str) -> None:
    """Refuse --coordinator for a program that cannot run on several hosts.

    Raises:
      ValueError: it was given.
    """
    if values.coordinator is not None:
        raise ValueError(f"--coordinator={values.coordinator}: {reason}: run it on one host")


def read_place(values: flags.FlagValues) -> Place | None:
    """Return this process's place in the run; None without --coordinator.

    Raises:
      ValueError: wrong or contradictory flags.
    """
    if values.coordinator is None:
        for name in ("num_processes", "process_id", "supervisor"):
            if values[name].value is not None:
                raise ValueError(f"--{name}={values[name].value} needs --coordinator=HOST:PORT")
        return None
    if not 0 < values.join_timeout < math.inf:
        raise ValueError(f"--join_timeout={values.join_timeout:g} must be > 0 seconds")
    if values.supervisor not in (None, os.getppid()):
        raise ValueError("--supervisor is for the program itself: leave it out")
    place = find_place(values.coordinator, values.num_processes, values.process_id)
    if place.processes > 1 and values.mesh is None:
        raise ValueError(
            f"{place.processes} processes need --mesh, the layout of all their devices, e.g. "
            f"--mesh=data:{place.processes} with one device each"
        )
    return place


def _facts(
    place: Place, values: flags.FlagValues, define: Callable[[flags.FlagValues], None]
) -> dict[str, str]:
    """Return what must be equal in all processes, the first difference to tell of first."""
    packages = [Path(package.__path__[0]) for package in (mtad_jax, experiments)]
    own = flags.FlagValues()
    define(own)
    given = {name: _short(str(values[name].value)) for name in own if name not in _FREE}
    read: dict[str, Any] = {f: values[f].value for f in ("prompts", "data_dir") if f in own}
    if isinstance(read.get("prompts"), str):  # in the benchmark it is their number
        given["prompts"] = _content(read["prompts"])
    for name in ("chat_template", "corpus", "table"):  # a template, and files of rules
        if name in own and values[name].value is not None:
            given[name] = _content(str(values[name].value))
    if read.get("data_dir") is not None:
        given["data_dir"] = _content(Path(read["data_dir"]) / stories.FOLDER / "test.txt")
    facts = {
        "--num_processes": str(place.processes),
        "the code of mtad_jax and experiments": code_digest(packages),
        **{f"the version of {name}": _version(name) for name in _COMPUTING},
        **{f"--{name}": value for name, value in given.items()},
    }
    for name in _outside_rules(values):
        facts[f"the code of {name}"] = _content(inspect.getsourcefile(find(name)) or name)
    assets = resources.files("mtad_jax") / "assets"
    for name in ("target", "draft"):
        with resources.as_file(assets / name) as shipped:
            folder = values[name].value or (shipped if values.target is None else None)
            found = checkpoint_digest(folder) if folder else "none"
        facts[f"the files of the checkpoint --{name}"] = found
    return facts


def _outside_rules(values: flags.FlagValues) -> list[str]:
    """Return the names of the rules that are not of this package."""
    asked = [values.strategy] if "strategy" in values else []
    if "rule" in values:
        asked += [text.split()[0] for text in values.rule or () if text.strip()]
    return [name for name in asked if ":" in name]


def _short(value: str) -> str:
    """Return a flag's value as a line of an error can show it."""
    plain = len(value) <= 200 and value.isprintable()  # a prompt may have lines
    return value if plain else f"a value of digest {_digest(value.encode())}"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # libtpu, where there is no TPU
        return "none"


def _content(path: str | Path) -> str:
    """Return a digest of a file that prompts are read from; it may have any name on each host."""
    try:
        return f"a file of digest {_digest(Path(path).read_bytes())}"
    except OSError:
        return str(path)  # the program itself says so


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]


async def _supervise(place: Place, values: flags.FlagValues, facts: dict[str, str]) -> int:
    """Call the roll, run the child, and return the exit code."""
    roll, loop, signals = make_roll(place, facts), asyncio.get_running_loop(), []

    def interrupt(number: int) -> None:
        signals.append(number)
        roll.start(roll.end("interrupted"))

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt, number)
    await roll.join(values.join_timeout)
    held = b"" if roll.verdict.done() else await _run_until_verdict(roll)
    verdict = await roll.verdict
    await roll.close()
    sys.stderr.buffer.write(held)
    if verdict is None:
        return 0
    kept = ""
    if place.index == 0 and values.output and ".partial" not in verdict:
        kept = rows_kept(values.output)
    print(f"error: {verdict}{kept}", file=sys.stderr)
    return 128 + signals[0] if signals else 1


async def _run_until_verdict(roll: Caller | Answerer) -> bytes:
    """Run the child until the verdict is known; return what is still to be shown of its stderr."""
    child = await Child.start(f"--supervisor={os.getpid()}")
    ended = asyncio.create_task(child.wait())
    try:
        await asyncio.wait({ended, roll.verdict}, return_when=asyncio.FIRST_COMPLETED)
        if roll.verdict.done():
            return b""
        outcome = ended.result()
        await roll.end(outcome.failure, outcome.cause)
        verdict = await roll.verdict
        return outcome.held if verdict is None or str(outcome.failure) in verdict else b""
    finally:
        child.kill()
        await asyncio.wait({ended}, timeout=_GONE_S)


def _run_child(
    place: Place,
    values: flags.FlagValues,
    program: Callable[[flags.FlagValues], int | None],
) -> int:
    """Run the program as one of the processes; a failure ends it at once."""
    # Process 0 alone has results to print. What C++ writes to stdout is no output of ours: it goes
    # to stderr, where the parent sorts it out.
    sys.stdout = open(os.devnull, "w") if place.index else os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    code = 1
    try:
        with cli.memory_told():
            join(place, values.join_timeout)
            code = program(values) or 0
    except cli.EXPECTED as error:
        code = cli.tell(error)
    except Exception:
        traceback.print_exc()
    sys.stdout.flush()
    if code:
        sys.stderr.flush()
        os._exit(code)  # at an ordinary end jax would wait for the others, who will not come
    return 0


def _end_with_parent() -> None:
    """End this process when its parent, which holds the other end of stdin, is no more."""
    os.read(0, 1)
    os._exit(1)
