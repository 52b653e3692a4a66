"""Flags that say which models decode, by which rule and how sharply; contradictions are refused.

A flag that was not given is None, so that a setting which the chosen rule cannot honour is told
apart from a default and never ignored.
"""

import dataclasses
import math
import re
from typing import Any

from absl import flags
from jax.sharding import Mesh

from experiments.flags.rules import define_strategy_flags, read_strategy
from mtad_jax.decode.checks import check_lengths
from mtad_jax.decode.protocols import Strategy
from mtad_jax.decode.request import Request
from mtad_jax.decode.warp import Warp, check_warp
from mtad_jax.devices.sharding import make_mesh
from mtad_jax.pipeline import Pipeline

# --help shows the flags of the program, and these belong to whichever program defines them.
flags.disclaim_key_flags()

TEMPERATURE, TOP_K, TOP_P, TAU = 1.0, 10, 0.9, 0.5  # of the paper's experiments
INT8_FLAGS = ("target_int8", "draft_int8")
MESH_FLAGS = ("mesh", "shard_draft")  # no text depends on these
_WARP_FLAGS = ("temperature", "top_k", "top_p", "min_p")


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
    define_strategy_flags(values)
    define_warp_flags(values)
    define_draft_warp_flags(values)
    define_control_flags(values, max_new_tokens=128)
    _define_text_flags(values)


def setting_flags() -> list[str]:
    """Return the names of the flags that a text depends on."""
    values = flags.FlagValues()
    define_setting_flags(values)
    return [name for name in values if name not in MESH_FLAGS]


def define_model_flags(values: flags.FlagValues) -> None:
    """Define which models there are, what of them is int8, and where they lie."""
    text = flags.DEFINE_string
    text(
        "target", None, "Checkpoint folder, ours or Hugging Face's. Default: the shipped pair.",
        flag_values=values,
    )  # fmt: skip
    text("draft", None, "Checkpoint folder of the small model, of --target.", flag_values=values)
    define_placement_flags(values, mesh_default="the first device")


def define_placement_flags(values: flags.FlagValues, *, mesh_default: str) -> None:
    """Define what of the models is int8, and which devices hold what of them.

    `mesh_default` says what happens without --mesh.
    """
    text = flags.DEFINE_string
    for flag in INT8_FLAGS:
        who = flag.removesuffix("_int8")
        meaning = f"What of the {who} is int8: weights, kv (the cache) or weights,kv."
        text(flag, "", meaning, flag_values=values)
    text(
        "mesh", None, "Devices to split the models over: data (rows), fsdp (weights) and model "
        f"(heads), e.g. data:1,model:4. Default: {mesh_default}.", flag_values=values,
    )  # fmt: skip
    flags.DEFINE_bool(
        "shard_draft", False, "Split the draft like the target. Default: whole on every device.",
        flag_values=values,
    )  # fmt: skip


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
            raise ValueError(_without_draft(first_draft_warp_flag(values), values.strategy))
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


def check_no_draft_flags(values: flags.FlagValues) -> None:
    """Raise ValueError on what a rule without a draft model would ignore."""
    for flag in ("shard_draft", "draft_int8"):
        if values[flag].value:
            raise ValueError(_without_draft(f"--{flag}", values.strategy))


def read_controls(values: flags.FlagValues) -> dict[str, Any]:
    """Return what `define_control_flags` asks for, as keyword settings; see `RunSettings`.

    Raises:
      ValueError: flags contradict each other, or a value is out of range.
    """
    _check_least(values, max_new_tokens=1, min_new_tokens=0)
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


def _check_least(values: flags.FlagValues, **least: int) -> None:
    """Raise ValueError on a number that is too small."""
    for flag, smallest in least.items():
        value: Any = values[flag].value
        if value < smallest:
            raise ValueError(f"--{flag}={value} must be >= {smallest}")


def _check_text_flags(values: flags.FlagValues) -> None:
    """Raise ValueError on what needs no model to be refused."""
    _check_least(values, samples=1)
    if "" in (values.stop or ()):
        raise ValueError("--stop= is empty: give the string that ends a text, or leave it out")


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


def check_models(values: flags.FlagValues, needs_draft: bool) -> None:
    """Check --target and --draft against what the rule needs.

    Raises:
      ValueError: a draft is missing, or given without use.
    """
    if values.draft is not None and values.target is None:
        raise ValueError(
            f"--draft={values.draft} needs --target=DIR; leave both out for the shipped pair"
        )
    if needs_draft and values.target is not None and values.draft is None:
        raise ValueError(
            f"--draft is missing: --strategy={values.strategy} drafts: give --draft=DIR or use a "
            "strategy without a draft model, e.g. sample"
        )
    if not needs_draft and values.draft is not None:
        raise ValueError(_without_draft(f"--draft={values.draft}", values.strategy))


def _without_draft(flag: str, strategy: str) -> str:
    """Return what to say of a flag on a draft model that the rule has not."""
    return (
        f"{flag} means nothing to --strategy={strategy}, which has no draft model: leave it out or "
        "use a strategy that drafts, e.g. speculative"
    )


def load_models(values: flags.FlagValues) -> Pipeline:
    """Open the models that --target and --draft name, or the shipped pair, on --mesh.

    Raises:
      ValueError: as `Pipeline.load`; before any weights are read where the mesh does not suit.
    """
    how: dict[str, Any] = {flag: getattr(values, flag) for flag in (*INT8_FLAGS, "shard_draft")}
    how["mesh"] = read_mesh(values)
    if values.target is None:
        return Pipeline.shipped(**how)
    if values.draft is None and values.draft_int8:
        raise ValueError("--draft_int8 needs a draft: give --draft=DIR or leave it out")
    return Pipeline.load(values.target, values.draft, **how)


def read_mesh(values: flags.FlagValues) -> Mesh | None:
    """Return the mesh that --mesh asks for; None without it.

    Raises:
      ValueError: it does not match the devices or the rows decoded together, or --shard_draft has
        nothing to split.
    """
    if values.shard_draft and values.mesh is None:
        raise ValueError("--shard_draft needs --mesh, e.g. --mesh=model:4: give it or leave it out")
    if values.shard_draft and values.target is not None and values.draft is None:
        raise ValueError("--shard_draft needs a draft: give --draft=DIR or leave it out")
    if values.mesh is None:
        return None
    mesh = make_mesh(values.mesh)
    given = [name for name in ("batch_size", "samples") if name in values]
    counts: dict[str, int] = {f"--{name}": getattr(values, name) for name in given}
    split = mesh.shape["data"]
    if math.prod(counts.values()) % split:
        shown = " * ".join(f"{flag}={n}" for flag, n in counts.items()) or "one text at a time"
        cure = "raise it to a multiple, or " if given else ""
        raise ValueError(
            f"--mesh={values.mesh} splits rows over data:{split}, which does not divide {shown}: "
            f"{cure}give a mesh without data, e.g. model:{mesh.size}"
        )
    return mesh


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
