"""Trains a target from scratch, or distils a draft from a target.

`python -m experiments.train --config=configs/train_target.py --data_dir=DIR --output=DIR`;
with `configs/train_draft.py` also `--target=DIR`, a checkpoint, ours or Hugging Face's; with
`configs/train_smollm2_draft.py` the draft is cut out of that target. The output folder gets
`checkpoints/` (orbax), `export/` (a Hugging Face folder), `recipe.json`, `target.json` (the digest
of the target) and `metrics.json`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from absl import flags
from ml_collections import config_flags

from experiments.training import export as train_export
from experiments.training.loop import Trainer, check_counts
from experiments.training.losses import read_losses
from mtad_jax import cli
from mtad_jax.checkpoints import load as checkpoint
from mtad_jax.checkpoints.hf.configs import TOKEN_FIELDS
from mtad_jax.checkpoints.load import LoadedModel
from mtad_jax.checkpoints.pair import with_layers
from mtad_jax.devices.hosts import checkpoint_digest
from mtad_jax.devices.sharding import make_mesh
from mtad_jax.json_file import read_object
from mtad_jax.models.linen import LinenLM
from mtad_jax.models.protocol import BoundLM

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Recipe, e.g. configs/train_target.py; --config.seed=1 and so on change it."
)
_DATA = flags.DEFINE_string("data_dir", None, "Folder that experiments.corpus wrote.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder for checkpoints and export.")
_TARGET = flags.DEFINE_string("target", None, "Checkpoint of the target to distil from.")
_MESH = flags.DEFINE_string(
    "mesh", None, "Devices to split the run over: data (rows), fsdp (weights) and model (heads), "
    "e.g. data:2,fsdp:4. Default: data, all devices.",
)  # fmt: skip
_RESUME = flags.DEFINE_bool("resume", False, "Go on from the latest checkpoint in --output.")

_TEACHER = "target.json"  # beside recipe.json: which target was distilled
# What may differ when a run goes on: what is still to come, and what it says meanwhile.
_FREE = ("phases", "rates", "held_out", "log_every", "eval_every", "eval_rows", "save_every")


def main(argv: list[str]) -> None:
    """Run the recipe that the flags name."""
    del argv
    config: Any = _given(_CONFIG)
    data_dir, output = Path(_given(_DATA)), Path(_given(_OUTPUT))
    check_counts(config)  # before a large target is read
    read_losses(config.losses)
    target, first = _read(_TARGET.value), _read(config.init_from)
    if target is None and first is None and not (data_dir / train_export.TOKENIZER).is_file():
        raise ValueError(
            f"no {data_dir / train_export.TOKENIZER}: build it with python -m experiments.corpus"
        )
    check_tokenizer(data_dir, target)
    teacher = None if target is None else checkpoint_digest(target.folder)
    check_output(output, config, _RESUME.value, teacher)
    mesh = None if _MESH.value is None else make_mesh(_MESH.value)
    trainer = Trainer(
        config, data_dir, output, _bound(target), lambda line: print(line, flush=True), mesh,
        ends=(train_export.EOS,) if target is None else target.eos_ids, first=_bound(first),
    )  # fmt: skip
    train_export.write_report(output / "recipe.json", config.to_dict())
    train_export.write_report(output / _TEACHER, {"digest": teacher})
    trainer.train()
    hf, files = export_as(config, trainer.model, target, first)
    train_export.export(output / "export", trainer.state.params, hf, files or data_dir)
    train_export.write_report(output / "metrics.json", trainer.evaluate())
    trainer.close()


def check_output(output: Path, config: Any, resume: bool, teacher: str | None) -> None:
    """Check that the output folder is fresh or, to resume, holds a run of the same recipe.

    Args:
      output: the folder.
      config: the recipe.
      resume: whether to go on.
      teacher: `checkpoint_digest` of the target that is distilled; None: there is none.

    Raises:
      ValueError: it is not.
    """
    file = output / "recipe.json"
    if not file.is_file():
        if output.exists() and any(output.iterdir()):
            raise ValueError(f"{output} exists and holds no run: choose another --output")
        return
    if not resume:
        raise ValueError(f"{output} holds a run: give --resume to go on, or another --output")
    old, new = json.loads(file.read_text(encoding="utf-8")), json.loads(config.to_json())
    changed = [key for key in new if key not in _FREE and old.get(key) != new[key]]
    if changed:
        raise ValueError(f"{file}: the run there has other settings of {', '.join(changed)}")
    before = read_object(output / _TEACHER)
    if before is not None and before.get("digest") != teacher:  # older runs have none
        raise ValueError(
            f"{output / _TEACHER}: the run there is distilled from a target of digest "
            f"{before.get('digest')}, and --target's is {teacher}: give the same --target, or "
            "another --output"
        )


def check_tokenizer(data_dir: Path, target: LoadedModel | None) -> None:
    """Check that the ids of the data are those of the target, where both have sentencepiece's file.

    Raises:
      ValueError: they have two tokenizers.
    """
    if target is None:
        return
    files = [folder / train_export.TOKENIZER for folder in (data_dir, target.folder)]
    if all(file.is_file() for file in files) and files[0].read_bytes() != files[1].read_bytes():
        raise ValueError(
            f"{files[0]} is another tokenizer than the target's: build the data with "
            "python -m experiments.corpus --tokenizer_of=TARGET"
        )


def export_as(
    config: Any, model: LinenLM, target: LoadedModel | None, first: LoadedModel | None
) -> tuple[Mapping[str, Any], Path | None]:
    """Return the `config.json` of the export, and whose tokenizer it gets; None: the data's."""
    if first is not None:
        return first.config, first.folder
    if target is None:
        return train_export.hf_config(model.module.config), None
    if config.init_layers:
        return with_layers(target.config, len(config.init_layers)), target.folder
    ids = {key: target.config[key] for key in TOKEN_FIELDS if key in target.config}
    return train_export.hf_config(model.module.config) | ids, target.folder


def _given(flag: flags.FlagHolder) -> Any:
    if flag.value is None:
        raise ValueError(f"--{flag.name} is missing")
    return flag.value


def _read(path: str | None) -> LoadedModel | None:
    return checkpoint.load(path, dtype=jnp.float32) if path else None


def _bound(model: LoadedModel | None) -> BoundLM | None:
    return None if model is None else model.lm


if __name__ == "__main__":
    cli.run(main)
