"""Recipe of the shipped draft: distilled from the target on the target's own training mix."""

from typing import Any

import ml_collections

from configs import train_target


def get_config() -> ml_collections.ConfigDict:
    """Return the recipe; `docs/training.md` says what each setting means."""
    c: Any = train_target.get_config()
    # Two layers are the least that can copy: one finds what the second one takes from.
    c.model.update(
        embed_dim=64, mlp_dim=160, num_layers=2, num_heads=4, num_kv_heads=1, head_dim=32
    )
    # Only the target's distribution is learnt: what the text goes on with says nothing more about
    # what the target will accept.
    c.losses = (("kl", 1.0),)
    c.phases = ((1700, 8, 256),)
    c.rates = ((0, 0.0), (100, 4e-3), (1000, 4e-3), (1700, 4e-5))
    return c
