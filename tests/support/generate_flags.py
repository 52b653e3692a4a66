"""The runner in this process, without the wrapper that turns errors into lines."""

from absl import flags

from experiments import generate as program
from experiments.flags.settings import RunSettings, read_settings


def _values(args) -> flags.FlagValues:
    values = flags.FlagValues()
    program.define_flags(values)
    values(["generate", *map(str, args)])
    return values


def run(*args) -> int:
    """Run the program."""
    return program.generate(_values(args))


def read(*args) -> RunSettings:
    """Return the settings that flags ask for."""
    return read_settings(_values(args))
