"""The paper's comparison on OPT-13B with a draft of 125 M parameters."""

import ml_collections

from configs.eval.base import paper_config


def get_config() -> ml_collections.ConfigDict:
    """Return the config; --config.target, --config.draft and --config.data_dir name the folders."""
    c = paper_config()
    c.target = "opt-13b"
    c.draft = "opt-125m"
    c.dtype = "bfloat16"
    return c
