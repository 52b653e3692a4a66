"""The paper's comparison on Llama-2-13B with a draft of 68 M parameters."""

import ml_collections

from configs.eval.base import paper_config


def get_config() -> ml_collections.ConfigDict:
    """Return the config; --config.target, --config.draft and --config.data_dir name the folders."""
    c = paper_config()
    c.target = "Llama-2-13b-hf"
    c.draft = "llama-68m"
    c.dtype = "bfloat16"
    return c
