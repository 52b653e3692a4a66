"""Tiny Hugging Face folders with random weights, written without torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mtad_jax.checkpoints.hf import write as hf_writer
from mtad_jax.checkpoints.hf.families import model_of
from mtad_jax.checkpoints.hf.params import KeyLayout, to_tensors
from mtad_jax.checkpoints.lazy import from_array

LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA_TIED = LLAMA | {
    "tie_word_embeddings": True,
    "attention_bias": True,
    "mlp_bias": True,
    "head_dim": 6,
}
OPT = {
    "model_type": "opt",
    "architectures": ["OPTForCausalLM"],
    "vocab_size": 40,
    "hidden_size": 16,
    "word_embed_proj_dim": 16,
    "ffn_dim": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "do_layer_norm_before": True,
    "bos_token_id": 2,
    "eos_token_id": 2,
}
OPT_350M = OPT | {"do_layer_norm_before": False, "word_embed_proj_dim": 8}
OPT_PLAIN = OPT | {
    "enable_bias": False,
    "layer_norm_elementwise_affine": False,
    "tie_word_embeddings": False,
}
QWEN2 = LLAMA | {
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    "use_sliding_window": True,
    "sliding_window": 5,
    "max_window_layers": 1,
}
GEMMA3 = LLAMA | {
    "model_type": "gemma3_text",
    "architectures": ["Gemma3ForCausalLM"],
    "num_key_value_heads": 1,
    "head_dim": 8,
    "hidden_activation": "gelu_pytorch_tanh",
    "sliding_window": 5,
    "sliding_window_pattern": 2,
    "query_pre_attn_scalar": 8,
    "tie_word_embeddings": True,
}
CONFIGS = {
    "llama": LLAMA,
    "llama_tied": LLAMA_TIED,
    "qwen2": QWEN2,
    "gemma3": GEMMA3,
    "opt": OPT,
    "opt_350m": OPT_350M,
    "opt_plain": OPT_PLAIN,
}


def random_params(config: Mapping[str, Any], dtype: Any = np.float32) -> Any:
    """Return a random parameter tree of numpy arrays."""
    rng = np.random.default_rng(0)
    shapes = model_of(config).param_shapes()
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(dtype), shapes)


def random_tensors(config: Mapping[str, Any], dtype: Any = np.float32) -> dict[str, np.ndarray]:
    """Return random Hugging Face tensors."""
    params = jax.tree.map(from_array, random_params(config, dtype))
    tensors = to_tensors(config, params, KeyLayout(), {})
    return {key: tensor.read() for key, tensor in tensors.items()}


def write_folder(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    shard_bytes: int = hf_writer.SHARD_BYTES,
) -> Path:
    """Write a Hugging Face folder and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    lazy = {key: from_array(array) for key, array in tensors.items()}
    hf_writer.write_tensors(folder, lazy, shard_bytes)
    hf_writer.write_json(folder / "config.json", config)
    return folder
