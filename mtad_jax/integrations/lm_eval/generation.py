"""The generation settings of a request, `generation_kwargs` of a task or `--gen_kwargs`, as ours.

Everything is honoured, or refused in one line. As in lm_eval a request is greedy unless it says
that it samples; sharpening that neither it nor `--model_args` names is none at all.
"""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

from mtad_jax.decode.checks import check_count
from mtad_jax.decode.warp import Warp, check_warp

WARP = ("temperature", "top_k", "top_p", "min_p")
"""Settings of the warp; also among `--model_args`, where they are the defaults of sampling."""

_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_KNOWN = ("until", "do_sample", *WARP, *_LENGTHS, "min_new_tokens", "repetition_penalty", "seed")
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What the requests of one group ask for.

    Attributes:
      stop: strings that end a text.
      settings: of a `Pipeline` call: `max_new_tokens`, `warp`, and others that were given.
    """

    stop: tuple[str, ...]
    settings: dict[str, Any]


def read_wanted(kwargs: Mapping[str, Any], own: Mapping[str, Any], max_gen_toks: int) -> Wanted:
    """Return what a request's settings come to.

    Args:
      kwargs: of the request.
      own: the warp's settings and the seed that `--model_args` gives.
      max_gen_toks: most tokens of an answer where the request does not say.

    Raises:
      ValueError: one that there is not, contradictory, or out of range.
    """
    given = {name: value for name, value in kwargs.items() if value is not None}
    if given.get("num_beams") == 1:  # what it is without beams
        del given["num_beams"]
    for name, value in given.items():
        if name == "num_beams":
            raise ValueError(f"num_beams={value}: give --model_args strategy=beam,width={value}")
        if name not in _KNOWN:
            raise ValueError(
                f"generation_kwargs has {name}={value!r}, which mtad_jax cannot honour: there are "
                f"{', '.join(_KNOWN)}"
            )
    lengths = [name for name in _LENGTHS if name in given]
    if len(lengths) > 1:
        raise ValueError(f"{' and '.join(lengths)} say the same: give one of them")
    longest = given[lengths[0]] if lengths else max_gen_toks
    settings: dict[str, Any] = {
        "max_new_tokens": check_count(lengths[0] if lengths else "max_gen_toks", longest, 1),
        "warp": _warp(given, own),
    }
    if "min_new_tokens" in given:
        settings["min_new_tokens"] = check_count("min_new_tokens", given["min_new_tokens"], 0)
    penalty = _number(given, "repetition_penalty", 1.0)
    if penalty != 1:  # which changes nothing, and which some rules cannot honour
        settings["repetition_penalty"] = penalty
    settings["seed"] = check_count("seed", given.get("seed", own.get("seed", 0)), 0)
    return Wanted(_stop(given.get("until", ())), settings)


def _stop(until: Any) -> tuple[str, ...]:
    """Return the strings that end a text; empty ones end nothing, as in lm_eval."""
    strings = [until] if isinstance(until, str) else until
    if not isinstance(strings, list | tuple) or not all(isinstance(s, str) for s in strings):
        raise ValueError(f"until={until!r} must be a string or a list of strings")
    return tuple(dict.fromkeys(filter(None, strings)))


def _warp(given: Mapping[str, Any], own: Mapping[str, Any]) -> Warp:
    """Return the sharpening; temperature 0 where the request does not sample.

    Raises:
      ValueError: contradictory or out of range.
    """
    samples = given.get("do_sample")
    if samples not in (None, True, False):
        raise ValueError(f"do_sample={samples!r} must be true or false")
    greedy = samples is not None and not samples
    given = dict(own) | dict(given)
    temperature = _number(given, "temperature", 1.0 if samples else 0.0)
    warp = Warp(
        temperature=temperature,
        top_k=check_count("top_k", given.get("top_k", 0), 0),
        top_p=_number(given, "top_p", 1.0),
        min_p=_number(given, "min_p", 0.0),
    )
    check_warp(warp)
    if samples and temperature == 0:
        raise ValueError("do_sample=True contradicts temperature=0, which is greedy: give one")
    if temperature and not greedy:
        return warp
    unused = [f"{n}={given[n]}" for n in WARP if given.get(n) and (n, given[n]) != ("top_p", 1)]
    if unused:
        _log.warning(
            "%s: not used, since the task asks for greedy answers; --gen_kwargs "
            "do_sample=true,temperature=1 has them drawn", ", ".join(unused),
        )  # fmt: skip
    return Warp(temperature=0.0)


def _number(given: Mapping[str, Any], name: str, default: float) -> float:
    value = given.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name}={value!r} must be a number")
    return float(value)
