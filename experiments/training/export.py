"""Between a recipe's `model` section, our model, and a Hugging Face folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from mtad_jax.checkpoints.hf.configs import llama_config, llama_json
from mtad_jax.checkpoints.hf.read import SIDE_FILES, copy_files
from mtad_jax.checkpoints.hf.write import write_hf
from mtad_jax.models.linen import LinenLM
from mtad_jax.models.llama import Llama, LlamaConfig
from mtad_jax.types import Params

TOKENIZER = "tokenizer.model"
BOS, EOS = 1, 2  # as experiments.corpus trains the tokenizer


def build_model(section: Mapping[str, Any]) -> LinenLM:
    """Return the Llama that a recipe describes.

    Raises:
      ValueError: a setting is unknown or missing, or no Hugging Face Llama can be so.
    """
    try:
        config = LlamaConfig(**section, rope_scaling=None, attention_bias=False, mlp_bias=False)
    except TypeError as error:
        raise ValueError(f"config.model: {error}") from error
    try:
        llama_config(hf_config(config))
    except ValueError as error:  # better now than when the trained model is written
        raise ValueError(f"config.model, as {error}") from error
    return LinenLM(Llama(config))


def hf_config(config: LlamaConfig) -> dict[str, Any]:
    """Return the `config.json` of a model that `build_model` made."""
    own = {"bos_token_id": BOS, "eos_token_id": EOS, "torch_dtype": "bfloat16"}
    return llama_json(config) | own


def export(folder: Path, params: Params, hf: Mapping[str, Any], tokenizer: Path) -> None:
    """Write a Hugging Face folder in bfloat16.

    Args:
      folder: created if it does not exist.
      params: the parameters.
      hf: the `config.json`.
      tokenizer: the folder whose tokenizer files are copied.
    """
    folder.mkdir(parents=True, exist_ok=True)
    copy_files(tokenizer, folder, SIDE_FILES)
    write_hf(folder, params, hf, dtype=jnp.bfloat16)


def write_report(file: Path, report: Mapping[str, Any]) -> None:
    """Write a JSON file for people to read."""
    file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
