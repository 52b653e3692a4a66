"""Run a command line program so that every expected failure is one line on stderr."""

import contextlib
import functools
import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

import jax
from absl import app, flags, logging

from mtad_jax import compilation
from mtad_jax.cli_help import help_text
from mtad_jax.errors import one_line, out_of_memory

HELP_TOPIC = "Compiled programs"

INTERRUPTED = 130  # what a shell reports for a program ended by Ctrl-C (128 + SIGINT)
TERMINATED = (
    143  # and for one that was asked to end, as before its machine is taken (128 + SIGTERM)
)
EXPECTED = (KeyboardInterrupt, ValueError, OSError, flags.Error)
"""Failures that `tell` can tell; any other is a mistake of ours."""
_HELP = ("--help", "-help", "-h", "-?", "--helpshort", "--helpfull")
GRACE_S = 1.0
"""Seconds that an interrupted program has to notice; a compiler that runs does not."""


def run(
    main: Callable[[list[str]], int | None],
    argv: Sequence[str] | None = None,
    *,
    positional: bool = False,
) -> NoReturn:
    """Run `main` under absl and exit; wrong input ends in `error: ...` and no traceback.

    Caught are bad flags, positional arguments of a program that takes none, `ValueError`,
    `OSError`, a device without enough memory, and Ctrl-C. Anything else is a mistake of ours and
    keeps its traceback. `--verbosity=1` shows the traceback of the others too. Unless that flag
    says otherwise, only warnings are logged: orbax logs a dozen lines for every read. Compiled
    programs are kept as `--compilation_cache` says.

    Args:
      main: takes the program's name and its positional arguments; returns an exit code or None.
      argv: the command line, `sys.argv` if None.
      positional: whether the program takes positional arguments.

    Raises:
      SystemExit: always; 0 if all went well, 1 after an error. After Ctrl-C the process ends at
        once, with 130, and where `main` returns `TERMINATED` with that: threads of the compiler may
        still run, and do not survive Python's end.
    """
    _define_flags(flags.FLAGS)

    def guarded(rest: list[str]) -> int | None:
        try:
            with _interruptible(), memory_told():
                if rest[1:] and not positional:
                    raise ValueError(f"unexpected argument {rest[1]!r}: use --flag=value")
                compilation.enable(flags.FLAGS.compilation_cache)
                code = main(rest)
        except EXPECTED as error:
            code = tell(error)
        if code in (INTERRUPTED, TERMINATED):
            leave(code)
        return code

    parse = functools.partial(_parse, about=sys.modules[main.__module__].__doc__ or "")
    app.run(guarded, argv=None if argv is None else list(argv), flags_parser=parse)
    sys.exit(0)


@contextlib.contextmanager
def memory_told() -> Iterator[None]:
    """Make a device's lack of memory one of the `EXPECTED` failures, with what helps.

    Raises:
      ValueError: instead of JAX's own error; all others pass.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not out_of_memory(error):
            raise
        what = str(error).strip().split("\n")[0]  # tables of buffers follow
        raise ValueError(
            f"too little memory on a device ({what}): lower --batch_size or --max_new_tokens, hold "
            "weights or cache in int8 (--target_int8), or split the model by --mesh"
        ) from error


def tell(error: BaseException) -> int:
    """Print one of the `EXPECTED` failures as a line on stderr; return the exit code."""
    if isinstance(error, KeyboardInterrupt):
        print("error: interrupted", file=sys.stderr)
        return INTERRUPTED
    logging.debug("traceback of the error below", exc_info=True)
    print(f"error: {one_line(error)}", file=sys.stderr)
    return 1


def leave(code: int) -> NoReturn:
    """End the process at once, after flushing what was printed."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # the reader is gone, or it is closed
            stream.flush()
    os._exit(code)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """End the process on Ctrl-C even while the main thread is in the compiler.

    Python raises KeyboardInterrupt once the main thread is back in Python, which may take a minute.
    A thread that hears of the signal at once ends the process after `GRACE_S`, as a kill would:
    files here are whole or partial under another name at any time. A program that handles the
    signal itself is left alone.
    """
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if os.name != "posix" or not usual or threading.current_thread() is not threading.main_thread():
        yield
        return
    noticed = threading.Event()

    def notice(number: int, frame: object) -> None:
        noticed.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise KeyboardInterrupt

    read, write = os.pipe()
    os.set_blocking(write, False)

    def watch() -> None:
        while numbers := os.read(read, 16):
            handled = signal.getsignal(signal.SIGINT) is not notice
            if signal.SIGINT in numbers and not handled and not noticed.wait(GRACE_S):
                leave(tell(KeyboardInterrupt()))

    signal.signal(signal.SIGINT, notice)
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    thread = threading.Thread(target=watch, name="interrupts", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.close(write)
        thread.join()
        os.close(read)


def _define_flags(values: flags.FlagValues) -> None:
    """Define what every program has."""
    if "compilation_cache" not in values:
        flags.DEFINE_string(
            "compilation_cache", None, "Folder that keeps compiled programs for later runs; off: "
            "none. Default: JAX's, if it was told one, else one in your cache folder.",
            flag_values=values,
        )  # fmt: skip


_PATHS = (
    "answers_of", "chat_template", "converted", "data_dir", "draft", "output", "plot", "prompts",
    "rows", "source", "target", "tokenizer_of",
)  # fmt: skip


def _parse(argv: Sequence[str], about: str) -> list[str]:
    """Parse absl flags without the usage text that absl prints around an error or for --help."""
    if any(word in _HELP for word in itertools.takewhile(lambda word: word != "--", argv[1:])):
        print(help_text(flags.FLAGS, about), end="")
        sys.exit(0)
    try:
        rest = flags.FLAGS(argv)
    except flags.Error as error:
        print(f"error: {one_line(error)} (--help lists the flags)", file=sys.stderr)
        sys.exit(1)
    if flags.FLAGS["verbosity"].using_default_value:  # absl would raise it to INFO next
        flags.FLAGS.verbosity = logging.WARNING
    for name in _PATHS:  # shells leave the ~ of --output=~/x alone
        if name in flags.FLAGS and isinstance(value := flags.FLAGS[name].value, str):
            flags.FLAGS[name].value = os.path.expanduser(value)
    return rest
