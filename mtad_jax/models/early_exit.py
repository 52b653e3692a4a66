"""Models that are some layers of another one, whose arrays they share.

Early exit: the first layers of a target, with its last norm and head, are a draft model without a
training, and without a byte of weights of its own.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from mtad_jax.models.linen import LinenLM
from mtad_jax.models.protocol import BoundLM, CausalLM


def early_exit(lm: BoundLM, layers: int) -> BoundLM:
    """Return the model that leaves another one after its first layers, at least one of them.

    It is a normal model: any rule drafts with it. It lies where the other one lies, its arrays are
    the other's own, in int8 too; its cache is its own.

    Source: LayerSkip, arXiv 2404.16710, whose target is trained for it, and shares the cache too;
    Draft & Verify, arXiv 2309.08168.

    Args:
      lm: one of this package's models.
      layers: how many it keeps, fewer than there are.

    Raises:
      ValueError: not so many layers, or a model of another package.
    """
    check_exit(lm.model, layers)
    return cut_layers(lm, range(layers))


def check_exit(model: CausalLM, layers: int) -> None:
    """Check that a model can be left after so many layers; no weights are needed.

    Raises:
      ValueError: as `early_exit`.
    """
    count = layer_count(model)
    if not 1 <= layers < count:
        raise ValueError(
            f"early_exit={layers}: the model has {count} layers, and fewer than all of them, at "
            "least one, are a draft: give another number"
        )


def layer_count(model: CausalLM) -> int:
    """Return how many layers a model has.

    Raises:
      ValueError: it is none of this package's.
    """
    if not isinstance(model, LinenLM):
        raise ValueError(
            f"layers are known of this package's models only, not of a {type(model).__name__}: "
            "give a draft model of its own"
        )
    return model.config.num_layers


def cut_layers(lm: BoundLM, layers: Sequence[int]) -> BoundLM:
    """Return the model that has some layers of another one, in this order, and what is no layer.

    No array is copied. Where layers differ in kind (windows, positions), a layer takes the kind of
    its new place: the first ones keep their own.

    Raises:
      ValueError: a layer that the model does not have, or a model of another package.
    """
    count = layer_count(lm.model)
    for layer in layers:
        if not 0 <= layer < count:
            raise ValueError(f"layers={tuple(layers)}: the model has layers 0 to {count - 1}")
    model: Any = lm.model
    config = dataclasses.replace(model.config, num_layers=len(layers))
    params = {name: tree for name, tree in lm.params.items() if not name.startswith("layer_")}
    params |= {f"layer_{place}": lm.params[f"layer_{own}"] for place, own in enumerate(layers)}
    model = dataclasses.replace(model, module=model.module.clone(config=config))
    return dataclasses.replace(lm, params=params, model=model)
