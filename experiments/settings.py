"""Flags that say which models decode, by which rule and how sharply; contradictions are refused.

A flag that was not given is None, so that a setting which the chosen rule cannot honour is told
apart from a default and never ignored.
"""

import dataclasses
import re
from typing import Any

from absl import flags

from mtad_jax import recipes
from mtad_jax.decode.strategy import Request, Strategy
from mtad_jax.pipeline import Pipeline
from mtad_jax.warp import Warp, check_warp

# --help shows the flags of the program, and these belong to whichever program defines them.
flags.disclaim_key_flags()

STRATEGIES = ("greedy", "sample", "speculative", "mtad", "mmtad")
DRAWS = ("search", "sample")
DEPTH, WIDTH, TAU, DRAW = 4, 4, 0.5, "search"
TEMPERATURE, TOP_K, TOP_P = 1.0, 10, 0.9  # of the paper's experiments

_HONOURED = {
    "greedy": (),
    "sample": (),
    "speculative": ("depth",),
    "mtad": ("depth", "width", "tau", "draw"),
    "mmtad": ("depth", "width", "tau", "draw"),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What every prompt of a run is decoded with.

    Attributes:
      strategy: the decoding rule.
      warp: sharpening of both models' distributions.
      max_new_tokens: most tokens a prompt gets.
      eos_id: end tokens; None: the checkpoint's; (): ends are ignored.
      stop: strings that end a text.
      seed: of the run.
    """

    strategy: Strategy
    warp: Warp
    max_new_tokens: int
    eos_id: tuple[int, ...] | None
    stop: tuple[str, ...]
    seed: int

    def call(self) -> dict[str, Any]:
        """Return the keyword arguments of a `Pipeline` call."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}


def define_model_flags(values: flags.FlagValues) -> None:
    """Define --target and --draft."""
    flags.DEFINE_string(
        "target", None, "Checkpoint folder, ours or Hugging Face's. Default: the shipped pair.",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_string(
        "draft", None, "Checkpoint folder of the small model, beside --target.", flag_values=values
    )


def define_warp_flags(values: flags.FlagValues) -> None:
    """Define --temperature, --top_k and --top_p."""
    flags.DEFINE_float(
        "temperature", None, f"0 is greedy. Default: {TEMPERATURE:g}.", flag_values=values
    )
    flags.DEFINE_integer(
        "top_k", None, f"Likeliest tokens kept; 0: all. Default: {TOP_K}.", flag_values=values
    )
    flags.DEFINE_float(
        "top_p", None, f"Mass of likeliest tokens kept. Default: {TOP_P}.", flag_values=values
    )


def define_strategy_flags(values: flags.FlagValues) -> None:
    """Define --strategy and its settings."""
    flags.DEFINE_enum("strategy", "mmtad", STRATEGIES, "Decoding rule.", flag_values=values)
    flags.DEFINE_integer(
        "depth", None, f"Drafted tokens a round. Default: {DEPTH}.", flag_values=values
    )
    flags.DEFINE_integer(
        "width", None, f"Beams of the draft. Default: {WIDTH}.", flag_values=values
    )
    flags.DEFINE_float(
        "tau", None, f"Threshold on the joint likelihood ratio. Default: {TAU}.", flag_values=values
    )
    flags.DEFINE_enum(
        "draw", None, DRAWS, f"How the draft's beams are chosen. Default: {DRAW}.",
        flag_values=values,
    )  # fmt: skip


def define_text_flags(values: flags.FlagValues) -> None:
    """Define what ends a text, and the seed."""
    flags.DEFINE_integer("max_new_tokens", 128, "Most tokens a prompt gets.", flag_values=values)
    flags.DEFINE_integer("seed", 0, "Seed of all random draws.", flag_values=values)
    flags.DEFINE_list(
        "eos_id", None, "End token ids, e.g. 2 or 2,7. Default: the checkpoint's.",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_bool("ignore_eos", False, "Go on past end tokens.", flag_values=values)
    flags.DEFINE_multi_string(
        "stop", None, "String that ends a text, itself left out; repeatable.", flag_values=values
    )


def read_settings(values: flags.FlagValues) -> Settings:
    """Return the settings that the flags ask for.

    Raises:
      ValueError: flags contradict each other, or a value is out of range.
    """
    if values.max_new_tokens < 1:
        raise ValueError(f"--max_new_tokens={values.max_new_tokens} must be >= 1")
    if values.ignore_eos and values.eos_id is not None:
        raise ValueError(
            f"--eos_id={','.join(values.eos_id)} contradicts --ignore_eos: give one of them"
        )
    if "" in (values.stop or ()):
        raise ValueError("--stop= is empty: give the string that ends a text, or leave it out")
    eos = None if values.eos_id is None else tuple(parse_ids("eos_id", values.eos_id))
    return Settings(
        strategy=read_strategy(values),
        warp=read_warp(values, greedy=values.strategy == "greedy"),
        max_new_tokens=values.max_new_tokens,
        eos_id=() if values.ignore_eos else eos,
        stop=tuple(values.stop or ()),
        seed=values.seed,
    )


def read_strategy(values: flags.FlagValues) -> Strategy:
    """Return the decoding rule.

    Raises:
      ValueError: a flag was given that the rule cannot honour, or a value is out of range.
    """
    name = values.strategy
    for flag in ("depth", "width", "tau", "draw"):
        if values[flag].value is not None and flag not in _HONOURED[name]:
            able = [s for s in STRATEGIES if flag in _HONOURED[s]]
            raise ValueError(
                f"--{flag}={values[flag].value} means nothing to --strategy={name}: leave it out "
                f"or use {' or '.join(able)}"
            )
    if name in ("greedy", "sample"):
        return getattr(recipes, name)()
    depth = DEPTH if values.depth is None else values.depth
    if name == "speculative":
        strategy = recipes.speculative(depth)
    else:
        strategy = getattr(recipes, name)(
            depth=depth,
            width=WIDTH if values.width is None else values.width,
            tau=TAU if values.tau is None else values.tau,
            draw=values.draw or DRAW,
        )
    # Against a vocabulary without limit: the real one is not known before the models are.
    top_k = TOP_K if values.top_k is None else values.top_k
    strategy.check(Request(top_k=max(top_k, 0), draft_top_k=max(top_k, 0)))
    return strategy


def read_warp(values: flags.FlagValues, *, greedy: bool = False) -> Warp:
    """Return the sharpening; `greedy` is temperature 0, where top-k and top-p change nothing.

    Raises:
      ValueError: contradictory or out of range.
    """
    if greedy:
        for flag in ("temperature", "top_k", "top_p"):
            if values[flag].value:
                raise ValueError(
                    f"--{flag}={values[flag].value} contradicts --strategy=greedy, which takes "
                    "the likeliest token: leave it out or use --strategy=sample"
                )
        return Warp(temperature=0.0)
    warp = Warp(
        temperature=TEMPERATURE if values.temperature is None else values.temperature,
        top_k=TOP_K if values.top_k is None else values.top_k,
        top_p=TOP_P if values.top_p is None else values.top_p,
    )
    check_warp(warp)
    return warp


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
            "--draft is missing: this strategy drafts; give --draft=DIR or use --strategy=sample "
            "or greedy"
        )
    if not needs_draft and values.draft is not None:
        raise ValueError(
            f"--draft={values.draft} means nothing to --strategy={values.strategy}: leave it out "
            "or use speculative, mtad or mmtad"
        )


def load_models(values: flags.FlagValues) -> Pipeline:
    """Open the models that --target and --draft name, or the shipped pair."""
    if values.target is None:
        return Pipeline.shipped()
    return Pipeline.load(values.target, values.draft)


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
