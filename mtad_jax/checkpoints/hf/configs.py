"""Hugging Face's `config.json` of the supported families: tables of settings, and their readers.

Every setting that is read is in a family's table, with its type, its range and what counts where
it is absent (transformers' own default), so that nothing is built of what cannot be right.
"""

from collections.abc import Mapping
from typing import Any

from mtad_jax.checkpoints.hf.fields import (
    CONFIG,
    HEADS,
    LAYERS,
    MLP_WIDTH,
    POSITIONS,
    VOCAB,
    WIDTH,
    check_divides,
)
from mtad_jax.checkpoints.hf.shape import COMMON_FIELDS, NO_BIAS, SILU, Size, shape_of
from mtad_jax.json_file import Field, choice, read_fields, switch, token_ids, whole
from mtad_jax.models.llama import LlamaConfig
from mtad_jax.models.opt import OPTConfig
from mtad_jax.models.rope import RopeScaling

LLAMA_FIELDS: Mapping[str, Field] = {
    **COMMON_FIELDS,
    "num_key_value_heads": whole(*HEADS, None, null=True),
    "max_position_embeddings": whole(*POSITIONS, 2048),
    "hidden_act": SILU,
    "tie_word_embeddings": switch(False),
    "attention_bias": NO_BIAS,
    "mlp_bias": NO_BIAS,
}

OPT_FIELDS: Mapping[str, Field] = {
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "word_embed_proj_dim": whole(1, 1 << 20, None, null=True),
    "ffn_dim": MLP_WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": whole(*HEADS),
    "max_position_embeddings": whole(1, 1 << 24),
    "do_layer_norm_before": switch(True),
    "_remove_final_layer_norm": switch(False),
    "enable_bias": switch(True),
    "layer_norm_elementwise_affine": switch(True),
    "activation_function": choice(("relu", "gelu"), "relu"),
    "tie_word_embeddings": switch(True),
}

TOKEN_FIELDS: Mapping[str, Field] = {"bos_token_id": token_ids(), "eos_token_id": token_ids()}
"""Of `generation_config.json`, and of every family's `config.json`."""

OPT_SIZES: Mapping[str, Size] = {
    "vocab_size": ("embed/table", 0, 0),
    "word_embed_proj_dim": ("embed/table", 1, 0),
    "hidden_size": ("layer_0/up/kernel", 0, 0),
    "ffn_dim": ("layer_0/up/kernel", 1, 0),
    "max_position_embeddings": ("positions/table", 0, 2),
}


def llama_config(hf: Mapping[str, Any]) -> LlamaConfig:
    """Read a `config.json` of model_type "llama".

    Raises:
      ValueError: a setting that is missing, out of range or not supported, or two that disagree.
    """
    s = read_fields(CONFIG, hf, LLAMA_FIELDS)
    check_divides(hidden_size=s["hidden_size"], num_attention_heads=s["num_attention_heads"])
    return LlamaConfig(
        **shape_of(hf, s, theta=10_000.0),
        attention_bias=s["attention_bias"],
        mlp_bias=s["mlp_bias"],
    )


def llama_json(config: LlamaConfig) -> dict[str, Any]:
    """Return the `config.json` of a Llama, dtype and tokens aside: `llama_config` backwards."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.embed_dim,
        "intermediate_size": config.mlp_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": _rope_json(config.rope_scaling),
        "tie_word_embeddings": config.tied_head,
        "attention_bias": config.attention_bias,
        "mlp_bias": config.mlp_bias,
        "hidden_act": "silu",
        "initializer_range": 0.02,
    }


def _rope_json(scaling: RopeScaling | None) -> dict[str, Any] | None:
    if scaling is None:
        return None
    found: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind == "llama3":
        found |= {
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_max_positions,
        }
    if scaling.kind == "yarn":
        found |= {
            "original_max_position_embeddings": scaling.original_max_positions,
            "beta_fast": scaling.beta_fast,
            "beta_slow": scaling.beta_slow,
            "truncate": scaling.truncate,
            "attention_factor": scaling.magnitude,
        }
    return found


def opt_config(hf: Mapping[str, Any]) -> OPTConfig:
    """Read a `config.json` of model_type "opt".

    Raises:
      ValueError: as `llama_config`.
    """
    s = read_fields(CONFIG, hf, OPT_FIELDS)
    check_divides(hidden_size=s["hidden_size"], num_attention_heads=s["num_attention_heads"])
    pre_norm = s["do_layer_norm_before"]
    return OPTConfig(
        vocab_size=s["vocab_size"],
        embed_dim=s["hidden_size"],
        word_dim=s["word_embed_proj_dim"] or s["hidden_size"],
        mlp_dim=s["ffn_dim"],
        num_layers=s["num_hidden_layers"],
        num_heads=s["num_attention_heads"],
        max_positions=s["max_position_embeddings"],
        position_offset=2,
        norm_eps=1e-5,  # torch's default, which OPT's code relies on
        pre_norm=pre_norm,
        final_norm=pre_norm and not s["_remove_final_layer_norm"],
        use_bias=s["enable_bias"],
        norm_affine=s["layer_norm_elementwise_affine"],
        activation=s["activation_function"],
        tied_head=s["tie_word_embeddings"],
    )
