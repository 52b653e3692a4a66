"""The paper's tables in miniature on the shipped pair: what `make reproduce` runs."""

from typing import Any

import ml_collections

from configs.eval.base import paper_config

DEPTHS, WIDTHS, TAUS = (1, 2, 8), (1, 2, 8), (0.1, 0.3, 0.7, 0.9)
"""Of the ablations: one setting at a time away from the paper's 4, 4 and 0.5."""


def get_config() -> ml_collections.ConfigDict:
    """Return the config."""
    c: Any = paper_config()
    c.tasks = ("tinysql questions=120", "tales openings=24")
    c.max_new_tokens = 100
    c.strategies = (
        *c.strategies,
        "greedy",
        "speculative depth=4 temperature=0",
        "beam width=4",
        "mtjd depth=4 width=4",
        "mmtad depth=4 width=4 tau=0.5 bonus_temperature=0",
        *(f"mtad depth={depth} width=4 tau=0.5" for depth in DEPTHS),
        *(f"mtad depth=4 width={width} tau=0.5" for width in WIDTHS),
        *(f"mtad depth=4 width=4 tau={tau}" for tau in TAUS),
    )
    return c
