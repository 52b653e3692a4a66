"""A first look: 60 questions about databases by seven rules, on the shipped pair."""

import ml_collections

from configs.eval.base import default_config


def get_config() -> ml_collections.ConfigDict:
    """Return the config."""
    c = default_config()
    c.tasks = ("tinysql questions=60",)
    c.strategies = (
        "sample",
        "greedy",
        "speculative depth=4",
        "speculative depth=4 temperature=0",
        "mtad depth=4 width=4 tau=0.5",
        "mmtad depth=4 width=4 tau=0.5",
        "mmtad depth=4 width=4 tau=0.5 bonus_temperature=0",
    )
    return c
