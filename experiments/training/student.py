"""What a recipe trains: a fresh model, one that goes on from another, or layers of the target.

A draft that is cut out of its target begins with the target's embedding, head and some of its
layers, and learns to do without the others, as DistilBERT did (Sanh et al., 2019,
arXiv:1910.01108).
"""

from typing import Any

import jax
import jax.numpy as jnp

from experiments.training.export import build_model
from experiments.training.induction import check_room, with_induction
from mtad_jax.models.early_exit import cut_layers
from mtad_jax.models.linen import LinenLM
from mtad_jax.models.protocol import BoundLM
from mtad_jax.types import Params


def build_student(config: Any, target: BoundLM | None, first: BoundLM | None = None) -> LinenLM:
    """Return the model that a recipe trains.

    Args:
      config: the recipe.
      target: the teacher, if there is one.
      first: the model of `config.init_from`, if it names one.

    Raises:
      ValueError: a shape that cannot be, or layers that the target does not have.
    """
    if first is not None:
        return _going_on(config, first)
    if not config.init_layers:
        model = build_model(config.model)
        if config.induction:
            check_room(model.module.config)
        return model
    if target is None:
        raise ValueError("config.init_layers are layers of a target: give --target=DIR")
    for name in ("induction", "model"):
        if config[name]:
            raise ValueError(
                f"config.{name} means nothing beside config.init_layers, whose shape and first "
                "parameters are the target's: leave it out"
            )
    cut: Any = _cut(config, target).model
    return LinenLM(cut.module)


def _going_on(config: Any, first: BoundLM) -> LinenLM:
    """Return the model of `config.init_from`.

    Raises:
      ValueError: the recipe asks for another shape or for other first parameters.
    """
    if config.init_layers or config.induction:
        name = "init_layers" if config.init_layers else "induction"
        raise ValueError(
            f"config.{name} means nothing beside config.init_from={config.init_from}, which has "
            f"the first parameters: set config.{name} to {'()' if config.init_layers else 'False'}"
        )
    assert isinstance(first.model, LinenLM)
    if config.model and build_model(config.model).config != first.model.config:
        raise ValueError(
            f"config.init_from={config.init_from} has another shape than config.model: "
            f"{first.model.config}"
        )
    return first.model


def first_params(
    config: Any, model: LinenLM, target: BoundLM | None, first: BoundLM | None = None
) -> Params:
    """Return the first parameters of the model that `build_student` built; no array is shared."""
    if first is not None:
        return jax.tree.map(jnp.copy, first.params)  # a step gives its arrays away
    if not config.init_layers:
        params = model.init(jax.random.key(config.seed))
        return (
            with_induction(params, model.module.config, config.seed) if config.induction else params
        )
    assert target is not None
    return jax.tree.map(jnp.copy, _cut(config, target).params)  # a step gives its arrays away


def _cut(config: Any, target: BoundLM) -> BoundLM:
    """Return the layers of the target that a recipe asks for, with the target's own arrays.

    Raises:
      ValueError: layers that the target does not have.
    """
    try:
        return cut_layers(target, tuple(config.init_layers))
    except ValueError as error:
        raise ValueError(f"config.init_layers: {error}") from error


def check_frozen(config: Any, params: Params) -> None:
    """Raise ValueError where the recipe freezes what the model does not have."""
    for name in config.frozen:
        if name not in params:
            raise ValueError(
                f"config.frozen={tuple(config.frozen)}: no {name!r} among {', '.join(params)}"
            )
