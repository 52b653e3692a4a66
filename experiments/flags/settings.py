"""Flags that a text depends on: models, rule, sharpness and controls; contradictions are refused.

A flag that was not given is None, so that a setting which the chosen rule cannot honour is told
apart from a default and never ignored.
"""

import dataclasses
import re
from typing import Any

from absl import flags

from experiments.flags.models import (
    MESH_FLAGS,
    check_no_draft_flags,
    define_model_flags,
    without_draft,
)
from experiments.flags.rules import (
    define_strategy_flags,
    flag_of,
    read_rule,
    read_strategy,
    rule_flags,
)
from experiments.flags.warp import (
    define_draft_warp_flags,
    define_warp_flags,
    first_draft_warp_flag,
    read_draft_warp,
    read_warp,
)
from mtad_jax.decode.checks import check_lengths
from mtad_jax.decode.protocols import Strategy
from mtad_jax.decode.request import Request
from mtad_jax.decode.warp import Warp

# --help shows the flags of the program, and these belong to whichever program defines them.
HELP_TOPIC = "Texts: their tokens, length, end and number"


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """What every prompt of a run is decoded with.

    Attributes:
      strategy: the decoding rule.
      warp: sharpening of both models' distributions.
      draft_warp: another one for the draft's; None: the same.
      max_new_tokens: most tokens a prompt gets.
      min_new_tokens: tokens before which no end token comes.
      eos_id: end tokens; None: the checkpoint's; (): ends are ignored.
      stop: strings that end a text.
      banned_ids: tokens that never come; None: all may.
      repetition_penalty: of tokens that are in the text already; None: none.
      samples: texts for each prompt.
      seed: of the run.
    """

    strategy: Strategy
    warp: Warp
    draft_warp: Warp | None
    max_new_tokens: int
    min_new_tokens: int
    eos_id: tuple[int, ...] | None
    stop: tuple[str, ...]
    banned_ids: tuple[int, ...] | None
    repetition_penalty: float | None
    samples: int
    seed: int

    def call(self) -> dict[str, Any]:
        """Return the keyword arguments of a `Pipeline` call."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}


def define_setting_flags(values: flags.FlagValues) -> None:
    """Define all flags that a text depends on, but for its prompt, and where the models lie."""
    define_model_flags(values)
    define_warp_flags(values)
    define_draft_warp_flags(values)
    define_control_flags(values, max_new_tokens=128)
    _define_text_flags(values)
    define_strategy_flags(values)


def setting_flags() -> list[str]:
    """Return the names of the flags that a text depends on."""
    values = flags.FlagValues()
    define_setting_flags(values)
    return [name for name in values if name not in MESH_FLAGS]


def resolved_flags(values: flags.FlagValues, settings: RunSettings) -> dict[str, Any]:
    """Return what a text depends on by the names of the flags, defaults included.

    Settings of other rules are left out, and for a rule without a draft model all of the draft's.
    None stays where the checkpoint says it, as for end tokens.
    """
    others = rule_flags(values.strategy)
    found = {name: values[name].value for name in setting_flags() if name not in others}
    found |= {flag_of(name): value for name, value in read_rule(values).items()}
    warps = {"": settings.warp, "draft_": settings.draft_warp or settings.warp}
    for start, warp in warps.items():
        found |= {start + f.name: getattr(warp, f.name) for f in dataclasses.fields(warp)}
    if not settings.strategy.needs_draft:
        found = {name: value for name, value in found.items() if not name.startswith("draft")}
    return found


def define_control_flags(values: flags.FlagValues, *, max_new_tokens: int) -> None:
    """Define what may come and which tokens end a text; `max_new_tokens` is that flag's default."""
    whole, ids = flags.DEFINE_integer, flags.DEFINE_list
    whole("max_new_tokens", max_new_tokens, "Most tokens a prompt gets.", flag_values=values)
    whole("min_new_tokens", 0, "Tokens before which no end token comes.", flag_values=values)
    ids("banned_ids", None, "Token ids that never come, e.g. 5,17.", flag_values=values)
    flags.DEFINE_float(
        "repetition_penalty", None, "Above 1: tokens of prompt and text get less likely.",
        flag_values=values,
    )  # fmt: skip
    ids(
        "eos_id", None, "End token ids, e.g. 2 or 2,7. Default: the checkpoint's.",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_bool("ignore_eos", False, "Go on past end tokens.", flag_values=values)


def _define_text_flags(values: flags.FlagValues) -> None:
    """Define how many texts there are, the strings that end them, and the seed."""
    whole = flags.DEFINE_integer
    whole("samples", 1, "Texts for each prompt.", flag_values=values)
    whole(
        "seed", 0, "Seed of all random draws but those of prompt rows that have a `seed`.",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_multi_string(
        "stop", None, "String that ends a text, itself left out; repeatable.", flag_values=values
    )


def read_settings(values: flags.FlagValues) -> RunSettings:
    """Return the settings that the flags ask for.

    Raises:
      ValueError: flags contradict each other, or a value is out of range.
    """
    controls = read_controls(values)
    _check_text_flags(values)
    warp = read_warp(values, greedy=values.strategy == "greedy")
    draft_warp = read_draft_warp(values, warp)
    request = Request(
        top_k=warp.top_k,
        draft_top_k=(draft_warp or warp).top_k,
        samples=values.samples,
        penalty=values.repetition_penalty is not None,
    )
    strategy = read_strategy(values, request)
    if not strategy.needs_draft:
        if draft_warp is not None:
            raise ValueError(without_draft(first_draft_warp_flag(values), values.strategy))
        check_no_draft_flags(values)
    return RunSettings(
        strategy=strategy,
        warp=warp,
        draft_warp=draft_warp,
        stop=tuple(values.stop or ()),
        samples=values.samples,
        seed=values.seed,
        **controls,
    )


def read_controls(values: flags.FlagValues) -> dict[str, Any]:
    """Return what `define_control_flags` asks for, as keyword settings; see `RunSettings`.

    Raises:
      ValueError: flags contradict each other, or a value is out of range.
    """
    check_least(values, max_new_tokens=1, min_new_tokens=0)
    check_lengths(values.min_new_tokens, values.max_new_tokens)
    if values.ignore_eos:
        for flag in ("eos_id", "min_new_tokens"):
            value = values[flag].value
            if value:
                shown = ",".join(value) if isinstance(value, list) else value
                raise ValueError(f"--{flag}={shown} contradicts --ignore_eos: give one of them")
    return {
        "max_new_tokens": values.max_new_tokens,
        "min_new_tokens": values.min_new_tokens,
        "eos_id": () if values.ignore_eos else _read_ids(values, "eos_id"),
        "banned_ids": _read_ids(values, "banned_ids"),
        "repetition_penalty": values.repetition_penalty,
    }


def check_least(values: flags.FlagValues, **least: int) -> None:
    """Raise ValueError on a number that was given or has a default, and is too small."""
    for flag, smallest in least.items():
        value: Any = values[flag].value
        if value is not None and value < smallest:
            raise ValueError(f"--{flag}={value} must be >= {smallest}")


def _check_text_flags(values: flags.FlagValues) -> None:
    """Raise ValueError on what needs no model to be refused."""
    check_least(values, samples=1)
    if "" in (values.stop or ()):
        raise ValueError("--stop= is empty: give the string that ends a text, or leave it out")


def _read_ids(values: flags.FlagValues, name: str) -> tuple[int, ...] | None:
    """Return the token ids of a flag; None where it was not given."""
    items = values[name].value
    return None if items is None else tuple(parse_ids(name, items))


def parse_ids(name: str, items: list[str]) -> list[int]:
    """Return the token ids of a flag's list.

    Raises:
      ValueError: empty, or an item is no id.
    """
    if not items:
        raise ValueError(f"--{name} is empty: give ids, e.g. --{name}=1,2,3")
    for item in items:
        if not re.fullmatch(r"\s*[0-9]+\s*", item):
            raise ValueError(f"--{name} holds {item!r}: give ids >= 0, e.g. --{name}=1,2,3")
    return [int(item) for item in items]
