"""--strategy and the flags of its settings, which are the parameters of the recipes.

A flag that was not given is None, so that a setting which the chosen rule has not is told apart
from a default and never ignored. Defaults are the recipe's own.

`--strategy=module:name` takes a recipe of any importable module. Its flags must be there before the
command line is parsed, so the command line is looked at for it when flags are defined.
"""

import inspect
import itertools
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from absl import flags

from mtad_jax import recipes
from mtad_jax.calibration.candidates import Candidate
from mtad_jax.decode.protocols import Strategy
from mtad_jax.decode.request import Request
from mtad_jax.registry import Setting, find, flag_of, make, settings_of

HELP_TOPIC = "The decoding rule, and settings of rules"

_DEFINE = {
    bool: flags.DEFINE_bool,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
    tuple: flags.DEFINE_list,
}


def rule_flags(asked: str | None = None) -> dict[str, dict[str, Setting]]:
    """Return all flags of rules: flag -> rule -> its setting; those of `asked`, too."""
    found: dict[str, dict[str, Setting]] = {}
    for rule in dict.fromkeys((*recipes.RECIPES, *filter(None, [asked]))):
        try:
            settings = settings_of(find(rule))
        except ValueError:  # of `asked`; the parser says it
            continue
        for name, setting in settings.items():
            found.setdefault(flag_of(name), {})[rule] = setting
    return found


def asked_rule(args: Sequence[str]) -> str | None:
    """Return the last --strategy of a command line that is not parsed yet; None: there is none."""
    found = None
    for word, following in itertools.zip_longest(args, args[1:]):
        if word == "--":
            break
        name, equals, value = word.partition("=")
        if name in ("--strategy", "-strategy"):
            found = value if equals else following
    return found


class _RuleParser(flags.ArgumentParser):
    """Takes the names of recipes, and refuses a recipe whose settings cannot be flags."""

    def __init__(self, *, taken: Collection[str]):
        self._taken = taken

    def parse(self, argument: str) -> str:
        """Return the name; raise ValueError where `find` does, or a flag is not free."""
        try:
            settings = settings_of(find(argument))
        except ValueError as error:
            raise ValueError(_without_name(argument, error)) from error
        for name in settings:
            if flag_of(name) in self._taken:
                raise ValueError(f"its setting {name} has the name of another flag: rename it")
        return argument

    def flag_type(self) -> str:
        """Return what --help calls it."""
        return "name or module:name"


def _without_name(name: str, error: ValueError) -> str:
    """Return what an error says of a name, which the flag's own message has before it."""
    return str(error).removeprefix(f"{name}: ")


def define_strategy_flags(values: flags.FlagValues) -> None:
    """Define --strategy and its settings; after all other flags, whose names are not free."""
    parser = _RuleParser(taken=frozenset(values))
    meaning = f"Decoding rule: {', '.join(recipes.RECIPES)}; module:name for one of your own."
    flags.DEFINE(parser, "strategy", "mmtad", meaning, flag_values=values)
    for flag, rules in rule_flags(asked_rule(sys.argv[1:])).items():
        if flag not in values:
            setting = list(rules.values())[-1]
            _DEFINE[setting.type](flag, None, _meaning(rules), flag_values=values)


def _meaning(rules: Mapping[str, Setting]) -> str:
    """Return what a flag means to each rule that has it."""
    names: dict[str, list[str]] = {}
    for rule, setting in rules.items():
        names.setdefault(setting.meaning, []).append(rule)
    return " ".join(f"{', '.join(of)}: {meaning}" for meaning, of in names.items())


def read_strategy(values: flags.FlagValues, request: Request | None = None) -> Strategy:
    """Return the decoding rule, checked against what is asked of it.

    Raises:
      ValueError: a flag was given that the rule cannot honour, or a value is out of range.
    """
    strategy = make(values.strategy, **_given(values))
    # The real vocabulary is not known before the models are.
    strategy.check(request or Request())
    return strategy


def read_rule(values: flags.FlagValues) -> dict[str, Any]:
    """Return the rule as an output row has it: its name as `strategy`, and all its settings.

    Raises:
      ValueError: as `read_strategy`.
    """
    recipe = find(values.strategy)
    bound = inspect.signature(recipe).bind(**_given(values))
    bound.apply_defaults()
    shown = {name: bound.arguments[name] for name in settings_of(recipe)}
    return {"strategy": values.strategy, **shown}


def read_candidates(values: flags.FlagValues) -> list[Candidate]:
    """Return the rules that --rule names, each with its settings on one line.

    Raises:
      ValueError: as `Candidate.parse`.
    """
    found = []
    for text in values.rule or ():
        try:
            found.append(Candidate.parse(text))
        except ValueError as error:
            raise ValueError(f"--rule={text}: {error}") from error
    return found


def _given(values: flags.FlagValues) -> dict[str, Any]:
    """Return the settings that flags give the chosen rule.

    Raises:
      ValueError: a flag was given that the rule cannot honour, or one that it needs is missing.
    """
    name, settings = values.strategy, {}
    for flag, rules in rule_flags(name).items():
        value = values[flag].value
        if value is None:
            if name in rules and rules[name].required:
                raise ValueError(f"--{flag} is missing: --strategy={name} needs it")
            continue
        if name not in rules:
            raise ValueError(
                f"--{flag}={_shown(value)} means nothing to --strategy={name}: leave it out or use "
                f"{_either(list(rules))}"
            )
        settings[rules[name].name] = _whole(flag, value)
    return settings


def _whole(flag: str, value: Any) -> Any:
    """Return a list's items as integers, anything else as it is.

    Raises:
      ValueError: an item is none.
    """
    if not isinstance(value, list):
        return value
    try:
        return tuple(int(item) for item in value)
    except ValueError as error:
        raise ValueError(
            f"--{flag}={_shown(value)} must be whole numbers, e.g. --{flag}=4,2,2"
        ) from error


def _shown(value: Any) -> str:
    """Return a value as the command line has it."""
    return ",".join(value) if isinstance(value, list) else str(value)


def _either(names: list[str]) -> str:
    """Return names as a choice; of many the last ones, which are the project's own."""
    shown = names[-3:]
    return ", ".join(shown[:-1]) + " or " + shown[-1] if shown[1:] else shown[0]
