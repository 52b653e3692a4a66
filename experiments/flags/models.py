"""Flags that say which models decode, what of them is int8, and where they lie."""

import math
from typing import Any

from absl import flags
from jax.sharding import Mesh

from mtad_jax.checkpoints.load import LoadedModel
from mtad_jax.checkpoints.pair import exit_layers
from mtad_jax.devices.sharding import make_mesh
from mtad_jax.pipeline import Pipeline

HELP_TOPIC = "Models, and where they lie"
INT8_FLAGS = ("target_int8", "draft_int8")

BUILT_IN_ARE_TEXT = "the built-in prompts are text: give --prompts=FILE.jsonl with prompt_ids"
MESH_FLAGS = ("mesh", "shard_draft")  # no text depends on these


def define_model_flags(values: flags.FlagValues) -> None:
    """Define which models there are, what of them is int8, and where they lie."""
    text = flags.DEFINE_string
    text(
        "target", None, "Checkpoint folder, ours or Hugging Face's. Default: the shipped pair.",
        flag_values=values,
    )  # fmt: skip
    text(
        "draft", None, "Checkpoint folder of the small model, of --target; or early_exit:N, the "
        "target's own first N layers.", flag_values=values,
    )  # fmt: skip
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


def check_models(values: flags.FlagValues, needs_draft: bool) -> None:
    """Check --target and --draft against what the rule needs.

    Raises:
      ValueError: a draft is missing, or given without use.
    """
    check_pair(values)
    if needs_draft and values.target is not None and values.draft is None:
        raise ValueError(
            f"--draft is missing: --strategy={values.strategy} drafts: give --draft=DIR or use a "
            "strategy without a draft model, e.g. sample"
        )
    if not needs_draft and values.draft is not None:
        raise ValueError(without_draft(f"--draft={values.draft}", values.strategy))


def check_pair(values: flags.FlagValues, *, both: bool = False) -> None:
    """Check that --draft comes with --target, and with `both` that neither comes alone.

    Raises:
      ValueError: it does not.
    """
    if values.target is None and values.draft is not None and exit_layers(values.draft) is None:
        raise ValueError(
            f"--draft={values.draft} needs --target=DIR; leave both out for the shipped pair"
        )
    if both and values.target is not None and values.draft is None:
        raise ValueError(
            f"--target={values.target} needs --draft=DIR: give --target and --draft, or neither, "
            "for the shipped pair"
        )


def check_no_draft_flags(values: flags.FlagValues) -> None:
    """Raise ValueError on what a rule without a draft model would ignore."""
    for flag in ("shard_draft", "draft_int8"):
        if values[flag].value:
            raise ValueError(without_draft(f"--{flag}", values.strategy))


def without_draft(flag: str, strategy: str) -> str:
    """Return what to say of a flag on a draft model that the rule has not."""
    return (
        f"{flag} means nothing to --strategy={strategy}, which has no draft model: leave it out or "
        "use a strategy that drafts, e.g. speculative"
    )


def check_reads_text(model: LoadedModel, path: str | None, what: str) -> None:
    """Check that a model can take text.

    Args:
      model: the model.
      path: where it came from; None: the shipped pair.
      what: what is text, and the cure where there is one.

    Raises:
      ValueError: its folder holds no tokenizer files.
    """
    if model.tokenizer is None:
        raise ValueError(f"{path}: no tokenizer files, and {what}")


def load_models(values: flags.FlagValues) -> Pipeline:
    """Open the models that --target and --draft name, or the shipped pair, on --mesh.

    Raises:
      ValueError: as `Pipeline.load` and `check_pair`; before any weights are read where the mesh
        does not suit.
    """
    check_pair(values)
    how: dict[str, Any] = {flag: getattr(values, flag) for flag in (*INT8_FLAGS, "shard_draft")}
    how["mesh"] = read_mesh(values)
    if values.target is None:
        return Pipeline.shipped(draft=values.draft, **how)
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
