"""Run a command line program so that every expected failure is one line on stderr."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import app, flags, logging

from mtad_jax.errors import one_line

INTERRUPTED = 130  # what a shell reports for a program ended by Ctrl-C (128 + SIGINT)
EXPECTED = (KeyboardInterrupt, ValueError, OSError, flags.Error)
"""Failures that `tell` can tell; any other is a mistake of ours."""

_PATHS = ("converted", "data_dir", "draft", "output", "prompts", "source", "target")


def run(main: Callable[[list[str]], int | None], argv: Sequence[str] | None = None) -> NoReturn:
    """Run `main` under absl and exit; wrong input ends in `error: ...` and no traceback.

    Caught are bad flags, positional arguments (no program here takes any), `ValueError`, `OSError`
    and Ctrl-C. Anything else is a mistake of ours and keeps its traceback. `--verbosity=1` shows
    the traceback of the others too. Unless that flag says otherwise, only warnings are logged:
    orbax logs a dozen lines for every read.

    Args:
      main: takes the arguments left over (the program's name only); returns an exit code or None.
      argv: the command line, `sys.argv` if None.

    Raises:
      SystemExit: always; 0 if all went well, 1 after an error, 130 after Ctrl-C.
    """

    def guarded(rest: list[str]) -> int | None:
        try:
            if rest[1:]:
                raise ValueError(f"unexpected argument {rest[1]!r}: use --flag=value")
            return main(rest)
        except EXPECTED as error:
            sys.exit(tell(error))

    app.run(guarded, argv=None if argv is None else list(argv), flags_parser=_parse)
    sys.exit(0)


def tell(error: BaseException) -> int:
    """Print one of the `EXPECTED` failures as a line on stderr; return the exit code."""
    if isinstance(error, KeyboardInterrupt):
        print("error: interrupted", file=sys.stderr)
        return INTERRUPTED
    logging.debug("traceback of the error below", exc_info=True)
    print(f"error: {one_line(error)}", file=sys.stderr)
    return 1


def _parse(argv: Sequence[str]) -> list[str]:
    """Parse absl flags without the usage text that absl prints around an error."""
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
