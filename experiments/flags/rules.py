"""--strategy and the flags of its settings: the recipes of `mtad_jax` are what there is.

A flag that was not given is None, so that a setting which the chosen rule has not is told apart
from a default and never ignored. Defaults are the recipe's own.
"""

import inspect
from collections.abc import Callable
from typing import Any

from absl import flags

from mtad_jax import recipes
from mtad_jax.decode.protocols import Strategy
from mtad_jax.decode.request import Request

flags.disclaim_key_flags()

STRATEGIES = recipes.RECIPES

# Flag -> its absl type and meaning; the flag has the parameter's name, but for `_PARAMETER`.
RULE_FLAGS: dict[str, tuple[Callable[..., Any], str]] = {
    "depth": (flags.DEFINE_integer, "Drafted tokens a round."),
    "width": (flags.DEFINE_integer, "Beams."),
    "tau": (flags.DEFINE_float, "Threshold on the likelihood ratio."),
    "draw": (flags.DEFINE_string, "How beams are chosen: search or sample (mtjd: exact, too)."),
    "branching": (flags.DEFINE_list, "Children of each node of every level, e.g. 4,2,2."),
    "leniency": (flags.DEFINE_float, "Accept while u < p / (leniency q); 1 is lossless."),
    "chains": (flags.DEFINE_integer, "Chains drafted side by side."),
    "rho": (flags.DEFINE_string, "Factor of the acceptance: best or chains."),
    "epsilon": (flags.DEFINE_float, "A token as likely as this always passes."),
    "alpha": (flags.DEFINE_float, "A token above alpha exp(-entropy) passes."),
    "draft_kind": (flags.DEFINE_string, "What is drafted, e.g. beam, chain or tree."),
    "fallback": (flags.DEFINE_float, "Draft while the draft's likeliest token has so much mass."),
    "rollback": (flags.DEFINE_float, "A drafted token this unlikely (in nats) is taken back."),
    "accept": (flags.DEFINE_float, "Chance that as many beams are accepted as are kept."),
    "ngram": (flags.DEFINE_integer, "Last tokens of the text that are looked up in it."),
}
_PARAMETER = {"draft_kind": "draft"}  # --draft is the draft model


def takers(flag: str) -> list[str]:
    """Return the strategies that a flag means something to."""
    name = _PARAMETER.get(flag, flag)
    return [s for s, recipe in STRATEGIES.items() if name in inspect.signature(recipe).parameters]


def define_strategy_flags(values: flags.FlagValues) -> None:
    """Define --strategy and its settings."""
    flags.DEFINE_enum("strategy", "mmtad", list(STRATEGIES), "Decoding rule.", flag_values=values)
    for flag, (define, meaning) in RULE_FLAGS.items():
        define(flag, None, f"{meaning} Of {', '.join(takers(flag))}.", flag_values=values)


def read_strategy(values: flags.FlagValues, request: Request | None = None) -> Strategy:
    """Return the decoding rule, checked against what is asked of it.

    Raises:
      ValueError: a flag was given that the rule cannot honour, or a value is out of range.
    """
    strategy = STRATEGIES[values.strategy](**_given(values))
    # The real vocabulary is not known before the models are.
    strategy.check(request or Request())
    return strategy


def read_rule(values: flags.FlagValues) -> dict[str, Any]:
    """Return the rule as an output row has it: its name as `strategy`, and all its settings.

    Raises:
      ValueError: as `read_strategy`.
    """
    bound = inspect.signature(STRATEGIES[values.strategy]).bind(**_given(values))
    bound.apply_defaults()
    return {"strategy": values.strategy, **bound.arguments}


def _given(values: flags.FlagValues) -> dict[str, Any]:
    """Return the settings that flags give the chosen rule.

    Raises:
      ValueError: a flag was given that the rule cannot honour.
    """
    name, settings = values.strategy, {}
    for flag in RULE_FLAGS:
        value = values[flag].value
        if value is None:
            continue
        if name not in takers(flag):
            raise ValueError(
                f"--{flag}={_shown(value)} means nothing to --strategy={name}: leave it out or use "
                f"{_either(takers(flag))}"
            )
        settings[_PARAMETER.get(flag, flag)] = _whole(flag, value)
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
