"""A small random pair of Llamas, and the same pair laid out on a mesh of simulated devices."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from mtad_jax import BoundLM, LinenLM
from mtad_jax.devices.sharding import make_mesh, parse_mesh
from mtad_jax.models.llama import Llama, LlamaConfig

VOCAB = 64


def llama(seed: int, *, layers: int, width: int, heads: int, kv_heads: int) -> BoundLM:
    """A random Llama whose distributions are far from flat."""
    config = LlamaConfig(
        vocab_size=VOCAB,
        embed_dim=width,
        mlp_dim=2 * width,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=8,
        max_positions=256,
        norm_eps=1e-5,
        rope_theta=1e4,
        rope_scaling=None,
        tied_head=False,
        attention_bias=True,
        mlp_bias=False,
    )
    model = LinenLM(Llama(config))
    # Far larger, and f32 itself is no longer good to 1e-4 in a log-probability: logits grow faster.
    return BoundLM(jax.tree.map(lambda x: 5 * x, model.init(jax.random.key(seed))), model)


def pair() -> tuple[BoundLM, BoundLM]:
    """A target with fewer key/value heads than some meshes, and a draft."""
    target = llama(0, layers=2, width=64, heads=8, kv_heads=4)
    return target, llama(1, layers=1, width=32, heads=8, kv_heads=8)


def on_mesh(lm: BoundLM, shape: str, **settings: Any) -> BoundLM:
    """The same model on a mesh, its key/value heads repeated as the layout asks for."""
    model: Any = lm.model
    devices = jax.devices()[: math.prod(parse_mesh(shape).values())]
    laid_out = model.on(make_mesh(shape, devices), **settings)
    dim = model.config.head_dim

    def repeated(path: Any, x: jax.Array) -> jax.Array:
        if path[-2].key not in ("k", "v"):
            return x
        heads = x.reshape(*x.shape[:-1], -1, dim)
        return jnp.repeat(heads, laid_out.kv_repeat, axis=-2).reshape(*x.shape[:-1], -1)

    params = jax.tree_util.tree_map_with_path(repeated, lm.params)
    return BoundLM(jax.device_put(params, laid_out.param_shardings()), laid_out, lm.vocab)
