"""The rotary settings of Hugging Face's `config.json`, in all spellings."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from mtad_jax.checkpoints.hf.fields import CONFIG, POSITIONS
from mtad_jax.json_file import Field, number, read_fields, shown, switch, whole
from mtad_jax.models.rope import Rope, RopeScaling

PLACES = ("rope_scaling", "rope_parameters")  # of transformers before version 5, and since
THETA = number(1e-3, 1e18, 10000.0)
FACTOR = number(1e-3, 1e6)
_LENGTH = whole(*POSITIONS, None, null=True)
_MAYBE = number(0, 1e6, None, null=True)
_ORIGINAL = "original_max_position_embeddings"
_KINDS: Mapping[str, Mapping[str, Field]] = {
    "default": {},
    "linear": {"factor": FACTOR},
    "dynamic": {"factor": FACTOR},
    "llama3": {
        "factor": FACTOR,
        "low_freq_factor": FACTOR,
        "high_freq_factor": FACTOR,
        _ORIGINAL: _LENGTH,
    },
    "yarn": {
        "factor": FACTOR,
        _ORIGINAL: _LENGTH,
        "beta_fast": _MAYBE,
        "beta_slow": _MAYBE,
        "attention_factor": _MAYBE,
        "mscale": _MAYBE,
        "mscale_all_dim": _MAYBE,
        "truncate": switch(True),
    },
}


def read_rope(hf: Mapping[str, Any], positions: int, theta: float) -> Rope:
    """Read the rotary settings in both spellings, as transformers 5 does.

    It takes `rope_scaling` where there are both, and then forgets the base that `rope_parameters`
    names; it takes the base in either before a `rope_theta` beside them, but an
    `original_max_position_embeddings` beside them before the one within. Where two places
    disagree, nobody knows which was meant, so that is refused.

    Args:
      hf: the `config.json`.
      positions: its `max_position_embeddings`.
      theta: the base where none is named, the family's own.

    Raises:
      ValueError: an unknown type, settings out of range, or two places that disagree.

    Source: transformers' `modeling_rope_utils.RotaryEmbeddingConfigMixin`.
    """
    given = {name: hf[name] for name in PLACES if hf.get(name)}
    for name, value in given.items():
        if not isinstance(value, Mapping) or any(isinstance(x, Mapping) for x in value.values()):
            raise ValueError(f"{CONFIG}: {name}={shown(value)} must be an object of plain values")
    found = {
        name: one_rope(name, hf, value, positions, "rope_theta", theta)
        for name, value in given.items()
    }
    if len(set(found.values())) == 2:
        raise disagreement(given)
    return next(iter(found.values()), Rope(base_of(CONFIG, hf, "rope_theta", theta), None))


def one_rope(
    name: str,
    hf: Mapping[str, Any],
    rope: Mapping[str, Any],
    positions: int,
    base: str,
    theta: float,
) -> Rope:
    """Read one object of rotary settings.

    Args:
      name: where it is in the `config.json`.
      hf: the `config.json`, which may have settings beside the object.
      rope: the object.
      positions: `max_position_embeddings`.
      base: what the setting is called that names the base beside the object.
      theta: the base where none is named.

    Raises:
      ValueError: as `read_rope`.
    """
    where, own = f"{CONFIG}: {name}", "rope_theta"
    found = base_of(CONFIG, hf, base, theta)
    if own in rope:
        inner = base_of(where, rope, own, theta)
        if base in hf and inner != found:
            raise _disagree(name, own, rope[own], base, hf[base])
        found = inner
    kind = rope.get("rope_type", rope.get("type", "default"))
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(
            f"{where}: rope type {shown(kind)} is not supported: {', '.join(_KINDS)} are"
        )
    s = read_fields(where, rope, _KINDS[kind])
    if _ORIGINAL in s:
        beside = read_fields(CONFIG, hf, {_ORIGINAL: _LENGTH})[_ORIGINAL]
        if beside and s[_ORIGINAL] and beside != s[_ORIGINAL]:
            raise _disagree(name, _ORIGINAL, s[_ORIGINAL], _ORIGINAL, beside)
        s[_ORIGINAL] = s[_ORIGINAL] or beside or positions
    return Rope(found, _READERS[kind](where, s, found))


def base_of(where: str, data: Mapping[str, Any], name: str, theta: float) -> float:
    """Return the base of the frequencies that a setting names.

    Raises:
      ValueError: it is out of range.
    """
    if name not in data:
        return theta
    return float(read_fields(where, data, {name: THETA})[name])


def reach(rope: Rope, positions: int) -> int:
    """Return the longest text of a model with so many `max_position_embeddings`.

    "yarn" says itself how far it stretches the trained context, and configs that were given it
    later leave the setting at the trained one.
    """
    scaling = rope.scaling
    if scaling is None or scaling.kind != "yarn":
        return positions
    stretched = int(scaling.factor * scaling.original_max_positions)
    return max(positions, min(stretched, POSITIONS[1]))


def disagreement(given: Mapping[str, Any]) -> ValueError:
    """Return the error that two objects of settings, by name, say different things."""
    said = " and ".join(f"{name}={shown(value)}" for name, value in given.items())
    return ValueError(f"{CONFIG}: {said} disagree: keep the one that is meant")


def _disagree(name: str, key: str, inner: Any, beside: str, outer: Any) -> ValueError:
    return ValueError(
        f"{CONFIG}: {beside}={shown(outer)} and {name}.{key}={shown(inner)} disagree: keep the "
        f"one that is meant, in {name}"
    )


def _none(where: str, s: Mapping[str, Any], theta: float) -> None:
    """No stretching; "dynamic" has none up to `max_position_embeddings` either.

    Beyond them, transformers' depends on the longest text of a call and on how a text was cut into
    calls; longer texts than that are refused by the decoder.
    """


def _linear(where: str, s: Mapping[str, Any], theta: float) -> RopeScaling:
    return RopeScaling("linear", float(s["factor"]))


def _llama3(where: str, s: Mapping[str, Any], theta: float) -> RopeScaling:
    low, high = float(s["low_freq_factor"]), float(s["high_freq_factor"])
    if low >= high:
        raise ValueError(f"{where}: low_freq_factor={low} must be below high_freq_factor={high}")
    return RopeScaling("llama3", float(s["factor"]), low, high, s[_ORIGINAL])


def _yarn(where: str, s: Mapping[str, Any], theta: float) -> RopeScaling:
    factor, fast, slow = float(s["factor"]), s["beta_fast"] or 32, s["beta_slow"] or 1
    if fast < slow:
        raise ValueError(f"{where}: beta_fast={fast} must not be below beta_slow={slow}")
    if theta <= 1:
        raise ValueError(f"{where}: rope_theta={theta} must be above 1 for yarn")
    magnitude = s["attention_factor"]
    if magnitude is None:

        def size(scale: float) -> float:
            return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0

        top, bottom = s["mscale"], s["mscale_all_dim"]
        magnitude = size(top) / size(bottom) if top and bottom else size(1)
    return RopeScaling(
        "yarn", factor, original_max_positions=s[_ORIGINAL], beta_fast=float(fast),
        beta_slow=float(slow), truncate=s["truncate"], magnitude=float(magnitude),
    )  # fmt: skip


_READERS: Mapping[str, Callable[[str, Mapping[str, Any], float], RopeScaling | None]] = {
    "default": _none,
    "linear": _linear,
    "dynamic": _none,
    "llama3": _llama3,
    "yarn": _yarn,
}
