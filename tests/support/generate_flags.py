"""The runner in this process, without the wrapper that turns errors into lines."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

from absl import flags

from experiments import generate as program
from experiments.flags.settings import RunSettings, read_settings, resolved_flags


@contextlib.contextmanager
def _command_line(args) -> Iterator[flags.FlagValues]:
    """The flags of a command line, parsed; flags of rules from elsewhere are looked up in it."""
    values, argv = flags.FlagValues(), ["generate", *map(str, args)]
    with mock.patch.object(sys, "argv", argv):
        program.define_flags(values)
        values(argv)
        yield values


def run(*args) -> int:
    """Run the program."""
    with _command_line(args) as values:
        return program.generate(values)


def resolved(*args) -> dict[str, Any]:
    """Return what flags come to, by their names."""
    with _command_line(args) as values:
        return resolved_flags(values, read_settings(values))


def read(*args) -> RunSettings:
    """Return the settings that flags ask for."""
    with _command_line(args) as values:
        return read_settings(values)
