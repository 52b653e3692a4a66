"""The optimizer and the jitted steps of training and distillation."""

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.typing import ArrayLike

from experiments.training.data import Batch
from experiments.training.objective import Objective
from mtad_jax.devices.sharding import replicated
from mtad_jax.models.linen import LinenLM
from mtad_jax.types import Array, Float, Int, Params


@struct.dataclass
class TrainState:
    """What a checkpoint holds.

    Attributes:
      step: optimizer steps done.
      params: f32 parameters.
      opt_state: optax's.
    """

    step: Int[Array, ""]
    params: Params
    opt_state: Any


def make_optimizer(config: Any) -> optax.GradientTransformation:
    """Return clipped AdamW at the recipe's rates; weight decay on matrices that learn only."""
    steps, rates = zip(*config.rates, strict=True)

    def schedule(step: ArrayLike) -> Array:
        return jnp.interp(step, jnp.array(steps, jnp.float32), jnp.array(rates, jnp.float32))

    def decayed(params: Params) -> Params:
        return {
            name: jax.tree.map(lambda x, free=name not in config.frozen: free and x.ndim > 1, tree)
            for name, tree in params.items()
        }

    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.adamw(
            schedule,
            b1=0.9,
            b2=0.95,
            weight_decay=config.weight_decay,
            mask=decayed,
        ),
    )


def init_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """Return the state before the first step."""
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def state_shardings(
    model: LinenLM, optimizer: optax.GradientTransformation, state: TrainState
) -> TrainState:
    """Return where each part of a state lies; a parameter's moments lie as it does.

    Args:
      model: on a mesh.
      optimizer: the state's.
      state: anywhere.
    """
    assert model.layout is not None
    params, whole = model.param_shardings(), replicated(model.layout.mesh)
    moments = optax.tree.map_params(
        optimizer,
        lambda _, sharding: sharding,
        state.opt_state,
        params,
        transform_non_params=lambda _: whole,
    )
    return TrainState(whole, params, moments)  # type: ignore[arg-type]


def make_step(
    model: LinenLM,
    optimizer: optax.GradientTransformation,
    config: Any,
    objective: Objective,
    where: TrainState,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]:
    """Return the jitted, state-donating update on one batch; states lie as `where`."""
    target = objective.target

    def loss_fn(params, target_params, batch, key):
        fixed = {name: jax.lax.stop_gradient(params[name]) for name in config.frozen}
        params = {**params, **fixed}  # AdamW leaves alone what never has a gradient
        metrics = objective.measure(model, params, target_params, batch, key)
        return objective.total(metrics), metrics

    def step(state: TrainState, target_params: Params | None, batch: Batch):
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        grads, metrics = jax.grad(loss_fn, has_aux=True)(state.params, target_params, batch, key)
        metrics["grad_norm"] = optax.tree.norm(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = cast(Params, optax.apply_updates(state.params, updates))
        return TrainState(state.step + 1, params, opt_state), metrics

    jitted = jax.jit(step, donate_argnums=0, out_shardings=(where, None))
    target_params = None if target is None else target.params
    return lambda state, batch: jitted(state, target_params, batch)


def make_eval(
    model: LinenLM, objective: Objective
) -> Callable[[Params, Batch], dict[str, Float[Array, ""]]]:
    """Return the jitted metrics of one batch; what they draw is the same every time."""
    target = objective.target

    def measure(params: Params, target_params: Params | None, batch: Batch):
        return objective.measure(model, params, target_params, batch, jax.random.key(0))

    jitted = jax.jit(measure)
    target_params = None if target is None else target.params
    return lambda params, batch: jitted(params, target_params, batch)
