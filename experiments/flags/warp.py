"""Flags that say how sharply the models' distributions are drawn from."""

import dataclasses
from typing import Any

from absl import flags

from mtad_jax.decode.warp import Warp, check_warp

# --help shows the flags of the program, and these belong to whichever program defines them.
HELP_TOPIC = "Sharpening of the distributions"

TEMPERATURE, TOP_K, TOP_P, TAU = 1.0, 10, 0.9, 0.5  # of the paper's experiments
_WARP_FLAGS = ("temperature", "top_k", "top_p", "min_p")


def define_warp_flags(values: flags.FlagValues) -> None:
    """Define --temperature, --top_k, --top_p and --min_p."""
    real = flags.DEFINE_float
    real("temperature", None, f"0 is greedy. Default: {TEMPERATURE:g}.", flag_values=values)
    flags.DEFINE_integer(
        "top_k", None, f"Likeliest tokens kept; 0: all. Default: {TOP_K}.", flag_values=values
    )
    real("top_p", None, f"Mass of likeliest tokens kept. Default: {TOP_P}.", flag_values=values)
    real(
        "min_p", None, "Tokens less likely than this share of the likeliest are cut. Default: 0.",
        flag_values=values,
    )  # fmt: skip


def define_draft_warp_flags(values: flags.FlagValues) -> None:
    """Define --draft_temperature and the others."""
    for name in _WARP_FLAGS:
        define = flags.DEFINE_integer if name == "top_k" else flags.DEFINE_float
        meaning = f"--{name} of the draft model. Default: the target's."
        define(f"draft_{name}", None, meaning, flag_values=values)


def read_warp(values: flags.FlagValues, *, greedy: bool = False) -> Warp:
    """Return the sharpening; `greedy` is temperature 0, where the cuts change nothing.

    Raises:
      ValueError: contradictory or out of range.
    """
    given: dict[str, Any] = {f: values[f].value for f in _WARP_FLAGS}
    given = {flag: value for flag, value in given.items() if value is not None}
    if greedy:
        for flag, value in given.items():
            if value:
                raise ValueError(
                    f"--{flag}={value} contradicts --strategy=greedy, which takes the likeliest "
                    "token: leave it out or use --strategy=sample"
                )
        return Warp(temperature=0.0)
    warp = Warp(**{"temperature": TEMPERATURE, "top_k": TOP_K, "top_p": TOP_P} | given)
    check_warp(warp)
    return warp


def first_draft_warp_flag(values: flags.FlagValues) -> str:
    """Return the first of the draft's own warp flags that was given, as on the command line."""
    given = (f"draft_{f}" for f in _WARP_FLAGS if values[f"draft_{f}"].value is not None)
    return next(f"--{flag}={values[flag].value}" for flag in given)


def read_draft_warp(values: flags.FlagValues, warp: Warp) -> Warp | None:
    """Return the draft's own sharpening, the target's where a flag was not given; None: no flag.

    Raises:
      ValueError: out of range.
    """
    given: dict[str, Any] = {f: values[f"draft_{f}"].value for f in _WARP_FLAGS}
    given = {flag: value for flag, value in given.items() if value is not None}
    if not given:
        return None
    own = dataclasses.replace(warp, **given)
    try:
        check_warp(own)
    except ValueError as error:
        raise ValueError(f"the draft's {error}") from error
    return own
