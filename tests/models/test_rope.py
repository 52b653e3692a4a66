"""Rotary frequencies of every type against transformers' own."""

import itertools

import numpy as np
import pytest

from mtad_jax.checkpoints.hf.families import model_of
from mtad_jax.models.rope import Rope, rope_angles, rope_frequencies

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768}
TYPES = {
    "linear": {"rope_type": "linear", "factor": 8.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.5},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "yarn": YARN,
    "yarn_without_length": {"rope_type": "yarn", "factor": 2.0},
    "yarn_of_factor_below_1": YARN | {"factor": 0.5},
    "yarn_betas": YARN | {"beta_fast": 64, "beta_slow": 2.5, "attention_factor": 0.7},
    "yarn_one_turn": YARN | {"beta_fast": 3, "beta_slow": 3, "truncate": False},
    "yarn_scales": YARN | {"mscale": 0.707, "mscale_all_dim": 1.3, "truncate": False},
    "yarn_one_scale": YARN | {"mscale": 0.707},
    "yarn_short": YARN | {"original_max_position_embeddings": 8},
}


@pytest.mark.parametrize(
    ("name", "theta", "head_dim"), [*itertools.product(TYPES, (1e4, 1e6), (64, 128, 10))]
)
def test_frequencies_are_transformers(name, theta, head_dim):
    config = transformers.LlamaConfig(
        num_attention_heads=2, hidden_size=2 * head_dim, max_position_embeddings=32_768,
        rope_parameters=TYPES[name] | {"rope_theta": theta},
    )  # fmt: skip
    make = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS[TYPES[name]["rope_type"]]
    theirs, magnitude = make(config)
    ours = model_of(config.to_dict()).config
    found = rope_frequencies(ours.head_dim, ours.rope_theta, ours.rope_scaling)
    np.testing.assert_allclose(found, theirs.numpy(), rtol=2e-6)
    cos, sin = rope_angles(np.arange(3)[None], head_dim, Rope(ours.rope_theta, ours.rope_scaling))
    np.testing.assert_allclose(np.hypot(cos, sin), magnitude, rtol=1e-6)
