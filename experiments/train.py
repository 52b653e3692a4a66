"""Trains a target from scratch, or distils a draft from a target.

`python -m experiments.train --config=configs/train_target.py --data_dir=DIR --output=DIR`;
with `configs/train_draft.py` also `--target=DIR`, a checkpoint; with
`configs/train_smollm2_draft.py` the draft is cut out of that target. The output folder gets
`checkpoints/` (orbax), `export/` (a Hugging Face folder), `recipe.json` and `metrics.json`.
"""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from absl import flags
from ml_collections import config_flags

from experiments.training import export as train_export
from experiments.training.loop import Trainer
from mtad_jax import cli
from mtad_jax.checkpoints import load as checkpoint
from mtad_jax.checkpoints.load import LoadedModel
from mtad_jax.devices.sharding import make_mesh

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

# What may differ when a run goes on: what is still to come, and what it says meanwhile.
_FREE = ("phases", "rates", "held_out", "log_every", "eval_every", "eval_rows", "save_every")


def main(argv: list[str]) -> None:
    """Run the recipe that the flags name."""
    del argv
    config: Any = _given(_CONFIG)
    data_dir, output = Path(_given(_DATA)), Path(_given(_OUTPUT))
    tokenizer = data_dir / train_export.TOKENIZER
    if not config.init_layers and not tokenizer.is_file():
        raise ValueError(f"no {tokenizer}: build it with python -m experiments.corpus")
    target = _read_target(config, _TARGET.value)
    lm = None if target is None else target.lm
    check_output(output, config, _RESUME.value)
    mesh = None if _MESH.value is None else make_mesh(_MESH.value)
    trainer = Trainer(config, data_dir, output, lm, lambda line: print(line, flush=True), mesh)
    train_export.write_report(output / "recipe.json", config.to_dict())
    trainer.train()
    hf, files = train_export.hf_config(trainer.model.module.config), data_dir
    if config.init_layers and target is not None:
        hf, files = target.config | {"num_hidden_layers": len(config.init_layers)}, target.folder
    train_export.export(output / "export", trainer.state.params, hf, files)
    train_export.write_report(output / "metrics.json", trainer.evaluate())
    trainer.close()


def check_output(output: Path, config: Any, resume: bool) -> None:
    """Check that the output folder is fresh or, to resume, holds a run of the same recipe.

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


def _given(flag: flags.FlagHolder) -> Any:
    if flag.value is None:
        raise ValueError(f"--{flag.name} is missing")
    return flag.value


def _read_target(config: Any, path: str | None) -> LoadedModel | None:
    if (path is not None) != (config.distill > 0):
        raise ValueError("--target goes with a recipe whose distill is above 0, and only with it")
    if path is None:
        return None
    target = checkpoint.load(path, dtype=jnp.float32)
    rows = target.lm.model.vocab_size
    if not config.init_layers and rows != config.model.vocab_size:
        raise ValueError(f"{path}: vocab_size {rows}, the draft's is {config.model.vocab_size}")
    return target


if __name__ == "__main__":
    cli.run(main)
