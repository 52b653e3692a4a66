"""Programs with a config file in this process; its overrides are looked up on the command line."""

import sys
from typing import Any
from unittest import mock

from absl import flags


def run(program: Any, run_on: Any, *args: object) -> Any:
    """Define a program's flags, parse a command line, and run a function of the program on it."""
    values, argv = flags.FlagValues(), [program.__name__, *map(str, args)]
    with mock.patch.object(sys, "argv", argv):
        program.define_flags(values)
        values(argv)
        return run_on(values)
