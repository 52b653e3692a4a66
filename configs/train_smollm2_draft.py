"""Recipe of a draft for SmolLM2-135M-Instruct: four of its thirty layers, on its own answers."""

from typing import Any

import ml_collections

from configs import train_draft


def get_config() -> ml_collections.ConfigDict:
    """Return the recipe; `docs/smollm2.md` has the walk, `docs/training.md` the settings."""
    c: Any = train_draft.get_config()
    c.model = ml_collections.ConfigDict()  # the target's own
    c.induction = False
    c.init_layers = (0, 10, 20, 29)
    # Two thirds of what is left is the embedding, which is the head, too: as it is, the draft's
    # words mean what the target's mean, and a step takes a third less.
    c.frozen = ("embed",)
    # Prompts are given, never drafted.
    c.prompt_weight = 0.0
    # A question with its answer is some 150 tokens: rows of which three fill most.
    c.phases = ((120, 2, 512),)
    c.rates = ((0, 0.0), (10, 1e-3), (80, 1e-3), (120, 5e-5))
    c.held_out = ("own",)
    c.log_every = 10
    c.eval_every = 40
    c.save_every = 40
    return c
