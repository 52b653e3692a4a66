"""The chosen bonus against greedy decoding, on questions that chose none of the settings."""

import ml_collections

from configs.eval.base import default_config


def get_config() -> ml_collections.ConfigDict:
    """Return the config."""
    c = default_config()
    c.tasks = ("tinysql questions=1000 seed=1",)
    c.batch_size = 25
    c.strategies = (
        "greedy",
        "speculative_beam width=1 ahead=8 lattice=4 temperature=0",
        "speculative depth=8 temperature=0",
        "mmtad depth=8 width=4 tau=0.8 bonus_temperature=0",
        "mmtad depth=8 width=2 tau=0.5 bonus_temperature=0",
        "mtad depth=8 width=4 tau=0.8 bonus_temperature=0",
        "mmtad depth=12 width=4 tau=0.3 bonus_temperature=0",
        "sample",
        "mmtad depth=4 width=4 tau=0.5",
        "speculative depth=12 temperature=0",
    )
    return c
