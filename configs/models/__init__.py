"""Shapes of well-known models, as Hugging Face `config.json` dicts, for plans without weights."""

import copy
import difflib
from typing import Any

from configs.models.gemma import GEMMA
from configs.models.llama import LLAMA
from configs.models.mistral import MISTRAL
from configs.models.opt import OPT
from configs.models.qwen import QWEN
from configs.models.smollm import SMOLLM

_CONFIGS = LLAMA | QWEN | MISTRAL | GEMMA | SMOLLM | OPT

NAMES = tuple(_CONFIGS)
"""The presets, such as "llama2-70b"."""


def read(name: str) -> dict[str, Any]:
    """Return a preset's `config.json`, what `mtad_jax.checkpoints.hf.families.model_of` takes.

    Raises:
      ValueError: unknown name, with the nearest one and all that there are.
    """
    if name not in _CONFIGS:
        near = difflib.get_close_matches(name.lower(), NAMES, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(f"no preset {name!r}: {hint}use one of {', '.join(NAMES)}")
    return copy.deepcopy(_CONFIGS[name])
