"""`--model_args`: the models, the rule with its settings, and what lm_eval adds of its own."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from mtad_jax.calibration.candidates import shown
from mtad_jax.checkpoints.pair import exit_layers
from mtad_jax.decode.checks import check_count
from mtad_jax.decode.protocols import Strategy
from mtad_jax.decode.request import Request
from mtad_jax.devices.sharding import make_mesh
from mtad_jax.pipeline import Pipeline
from mtad_jax.registry import find, flag_of, make, settings_of

AUTO_BATCH = 16
"""Requests of a batch for `--batch_size auto`: on most devices little is won by more."""

_PLATFORMS = {"gpu": ("gpu", "cuda", "rocm")}  # what JAX calls a platform: what users do
_UNSAID = (None, "cuda:0")  # lm_eval's command fills in the second where no device was given


def read_strategy(name: str, given: Mapping[str, Any], own: Sequence[str], top_k: int) -> Strategy:
    """Return the decoding rule that the arguments ask for.

    Args:
      name: of its recipe, or `module:name`.
      given: all arguments that are not the model's own.
      own: names of those that are.
      top_k: tokens that the warp keeps unless a request says otherwise; 0: all.

    Raises:
      ValueError: there is no such rule, or none of its settings has this name; a value is out of
        range, or a setting that it needs is missing.
    """
    try:
        known = {flag_of(key): setting for key, setting in settings_of(find(name)).items()}
    except ValueError as error:
        raise ValueError(f"strategy={name}: {str(error).removeprefix(f'{name}: ')}") from error
    there = ", ".join(known) or "none"
    for key, setting in known.items():
        if key in own:
            raise ValueError(f"strategy={name}: its setting {key} is an argument here: rename it")
        if setting.required and key not in given:
            raise ValueError(f"{key} is missing: strategy={name} needs it: give {key}=...")
    for key, value in given.items():
        if key not in known:
            raise ValueError(
                f"{key}={value} means nothing to mtad_jax with strategy={name}: settings of the "
                f"rule are {there}, all others {', '.join(own)}"
            )
    strategy = make(name, **{known[k].name: known[k].read(_text(v)) for k, v in given.items()})
    strategy.check(Request(top_k=top_k, draft_top_k=top_k))
    return strategy


def _text(value: Any) -> str:
    """Return a value, which lm_eval has read already, as `Setting.read` takes it."""
    return shown(tuple(value) if isinstance(value, list) else value)


def open_pipeline(
    target: Any,
    draft: Any,
    strategy: str,
    *,
    needs_draft: bool,
    dtype: Any,
    mesh: str | None,
    shard_draft: bool,
    target_int8: Any,
    draft_int8: Any,
) -> Pipeline:
    """Open the models; without a target the shipped pair.

    Args:
      target, draft: folders; the draft may be early_exit:N.
      strategy: name of the rule, for messages.
      needs_draft: whether it drafts with a model.
      dtype: as `mtad_jax.load`'s; "auto": None.
      mesh: as `make_mesh` reads it.
      shard_draft: as `Pipeline.load`'s, and so are the others.

    Raises:
      ValueError: a draft is missing, or something is given without use; as `Pipeline.load`.
    """
    dtype = None if dtype == "auto" else dtype
    if target is None:
        own = draft if exit_layers(draft) is None else None
        for name, value in (("draft", own), ("dtype", dtype)):
            if value is not None:
                raise ValueError(f"{name}={value} needs target=DIR, or leave it out, too")
    elif needs_draft and draft is None:
        raise ValueError(
            f"draft is missing: strategy={strategy} drafts: give draft=DIR, or a strategy without "
            "a draft model, e.g. strategy=greedy"
        )
    if not needs_draft:
        for name, value in (
            ("draft", draft), ("shard_draft", shard_draft), ("draft_int8", draft_int8)
        ):  # fmt: skip
            if value:
                raise ValueError(
                    f"{name}={value} means nothing to strategy={strategy}, which has no draft "
                    "model: leave it out or use a strategy that drafts, e.g. strategy=mmtad"
                )
    how: dict[str, Any] = {
        "mesh": None if mesh is None else make_mesh(str(mesh)),
        "shard_draft": shard_draft,
        "target_int8": target_int8,
        "draft_int8": draft_int8,
    }
    if target is None:
        return Pipeline.shipped(draft=draft, **how)
    folders = [None if path is None else str(path) for path in (target, draft)]
    return Pipeline.load(*folders, dtype=dtype, **how)  # type: ignore[arg-type]


def read_batch_size(size: Any, most: Any) -> int:
    """Return the requests of a batch.

    Args:
      size: a number, "auto" or "auto:N".
      most: lm_eval's `--max_batch_size`, a bound on "auto"; None: none.

    Raises:
      ValueError: neither, below 1, or a bound without "auto".
    """
    text = str(size)
    if text.partition(":")[0] == "auto":
        bound = AUTO_BATCH if most is None else check_count("max_batch_size", most, 1)
        return min(AUTO_BATCH, bound)
    if most is not None:
        raise ValueError(
            f"max_batch_size={most} bounds batch_size=auto, and batch_size={text}: give one of them"
        )
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"batch_size={text} must be a whole number >= 1, or auto")
    return int(text)


def check_device(device: str | None) -> None:
    """Check that lm_eval's `--device`, where it was given, names the platform that JAX computes on.

    Raises:
      ValueError: it does not; a process's devices are JAX's to choose.
    """
    here = jax.default_backend()
    if device not in _UNSAID and device not in _PLATFORMS.get(here, (here,)):
        raise ValueError(
            f"device={device}: JAX computes on {here} here: leave it out, and choose by the "
            "environment, e.g. JAX_PLATFORMS=cpu or CUDA_VISIBLE_DEVICES=1"
        )
