"""The optimizer, the losses and the jitted steps of training and distillation."""

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.typing import ArrayLike

from experiments.training.data import Batch
from mtad_jax.devices.sharding import replicated
from mtad_jax.models.linen import LinenLM
from mtad_jax.models.protocol import BoundLM
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


def losses(
    logits: Float[Array, "B T V"],
    labels: Int[Array, "B T"],
    weight: Float[Array, "B T"],
    target_logits: Float[Array, "B T V"] | None,
) -> dict[str, Float[Array, ""]]:
    """Return weighted means over positions: cross entropy and, with a target, KL and overlap.

    `kl` is KL(target || model) at temperature 1. `overlap` is the sum of min(p, q), the
    probability that speculative sampling accepts one token of the model (Leviathan et al. 2023).
    """
    logq = jax.nn.log_softmax(logits)
    picked = jnp.take_along_axis(logq, labels[..., None], axis=-1)

    def mean(x: Array) -> Array:
        return jnp.sum(x * weight) / jnp.sum(weight)

    out = {"cross_entropy": mean(-picked[..., 0])}
    if target_logits is not None:
        logp = jax.nn.log_softmax(target_logits)
        p = jnp.exp(logp)
        out["kl"] = mean((p * (logp - logq)).sum(-1))
        out["overlap"] = mean(jnp.minimum(p, jnp.exp(logq)).sum(-1))
    return out


def make_step(
    model: LinenLM,
    optimizer: optax.GradientTransformation,
    config: Any,
    target: BoundLM | None,
    where: TrainState,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]:
    """Return the jitted, state-donating update on one batch; states lie as `where`."""
    measure = _measure(model, target)
    ce_weight, kl_weight = config.cross_entropy, config.distill

    def loss_fn(params, target_params, batch):
        fixed = {name: jax.lax.stop_gradient(params[name]) for name in config.frozen}
        params = {**params, **fixed}  # AdamW leaves alone what never has a gradient
        metrics = measure(params, target_params, batch)
        return ce_weight * metrics["cross_entropy"] + kl_weight * metrics.get("kl", 0.0), metrics

    def step(state: TrainState, target_params: Params | None, batch: Batch):
        grads, metrics = jax.grad(loss_fn, has_aux=True)(state.params, target_params, batch)
        metrics["grad_norm"] = optax.tree.norm(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = cast(Params, optax.apply_updates(state.params, updates))
        return TrainState(state.step + 1, params, opt_state), metrics

    jitted = jax.jit(step, donate_argnums=0, out_shardings=(where, None))
    target_params = None if target is None else target.params
    return lambda state, batch: jitted(state, target_params, batch)


def make_eval(
    model: LinenLM, target: BoundLM | None
) -> Callable[[Params, Batch], dict[str, Float[Array, ""]]]:
    """Return the jitted metrics of one batch."""
    jitted = jax.jit(_measure(model, target))
    target_params = None if target is None else target.params
    return lambda params, batch: jitted(params, target_params, batch)


def _measure(
    model: LinenLM, target: BoundLM | None
) -> Callable[[Params, Params | None, Batch], dict[str, Float[Array, ""]]]:
    """Return `losses` as a function of model, target and batch (parameters are no constants)."""

    def measure(params: Params, target_params: Params | None, batch: Batch):
        inputs, labels = batch.tokens[:, :-1], batch.tokens[:, 1:]
        documents = batch.documents[:, :-1]
        target_logits = None
        if target is not None and target_params is not None:
            target_model = cast(LinenLM, target.model)
            target_logits = target_model.train_logits(target_params, inputs, documents)
        logits = model.train_logits(params, inputs, documents)
        return losses(logits, labels, batch.weight, target_logits)

    return measure
