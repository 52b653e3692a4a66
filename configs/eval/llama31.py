"""The paper's comparison on Llama-3.1-8B with Llama-3.2-1B as the draft."""

import ml_collections

from configs.eval.base import paper_config


def get_config() -> ml_collections.ConfigDict:
    """Return the config; --config.target, --config.draft and --config.data_dir name the folders."""
    c = paper_config()
    c.target = "Llama-3.1-8B"
    c.draft = "Llama-3.2-1B"
    c.dtype = "bfloat16"
    return c
