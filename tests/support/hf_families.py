"""Odd configs of the families that are built as Llama is: what `AutoConfig.for_model` is given.

Windows are shorter than any text that a test runs; head sizes, groups, biases, tied heads, soft
caps, kinds of layers and of rotary encodings vary.
"""

from hf_reference import LONGEST, VOCAB

_COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": LONGEST,
    "rms_norm_eps": 1e-5,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_UNTIED, _TIED = {"tie_word_embeddings": False}, {"tie_word_embeddings": True}
_FULL, _LOCAL = "full_attention", "sliding_attention"
_LINEAR = {"rope_type": "linear", "factor": 2.0, "rope_theta": 3000.0}
# 24 original positions: of the 4 to 6 wavelengths some lie on each side of the ramp and on it.
_YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 24,
    "rope_theta": 5000.0,
}
_YARN_SET = _YARN | {"attention_factor": 1.3, "beta_fast": 4.0, "beta_slow": 0.5, "truncate": False}
_YARN_SCALES = _YARN | {"mscale": 1.5, "mscale_all_dim": 0.5}
_DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 800.0}


def _windowed(window: int, first: int) -> dict:
    return {"use_sliding_window": True, "sliding_window": window, "max_window_layers": first}


def _two(local: dict, whole: dict) -> dict:
    return {"rope_parameters": {_LOCAL: local, _FULL: whole}}


_GEMMA = _COMMON | {"head_dim": 10, "pad_token_id": 0}
_PLAIN = {"rope_type": "default", "rope_theta": 40.0}

MODELS: dict[str, tuple[str, dict]] = {
    "qwen2": ("qwen2", _COMMON | _TIED),
    "qwen2_windows_yarn": (
        "qwen2", _COMMON | _UNTIED | _windowed(7, 1) | {"rope_parameters": _YARN}
    ),
    "qwen2_mqa_layer_types": (
        "qwen2",
        _COMMON | _windowed(5, 0) | {"layer_types": [_LOCAL, _FULL, _LOCAL]}
        | {"num_key_value_heads": 1, "hidden_size": 24},
    ),
    "qwen3": ("qwen3", _COMMON | _UNTIED | {"head_dim": 10, "rope_parameters": _YARN_SCALES}),
    "qwen3_tied_biases_windows_dynamic": (
        "qwen3",
        _COMMON | _TIED | _windowed(6, 2)
        | {"head_dim": 6, "attention_bias": True, "rope_parameters": _DYNAMIC},
    ),
    "mistral": ("mistral", _COMMON | _UNTIED | {"sliding_window": 6}),
    "mistral_no_window_head_dim_yarn": (
        "mistral",
        _COMMON | _TIED | {"sliding_window": None, "head_dim": 12, "rope_parameters": _YARN_SET},
    ),
    "smollm3": ("smollm3", _COMMON | {"no_rope_layer_interval": 2}),
    "smollm3_windows_biases_linear": (
        "smollm3",
        _COMMON | _UNTIED
        | {"use_sliding_window": True, "sliding_window": 5, "no_rope_layers": [0, 1, 0]}
        | {"attention_bias": True, "mlp_bias": True, "rope_parameters": _LINEAR},
    ),
    "gemma2": (
        "gemma2",
        _GEMMA | {"sliding_window": 6, "query_pre_attn_scalar": 24}
        | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    ),
    "gemma2_no_caps_biases_untied": (
        "gemma2",
        _GEMMA | _UNTIED | {"attention_bias": True, "head_dim": 8, "num_key_value_heads": 1}
        | {"attn_logit_softcapping": None, "final_logit_softcapping": None}
        | {"layer_types": [_FULL, _FULL, _LOCAL], "sliding_window": 4, "rope_parameters": _YARN},
    ),
    "gemma3": (
        "gemma3_text",
        _GEMMA | {"sliding_window": 6, "sliding_window_pattern": 3, "query_pre_attn_scalar": 13}
        | _two(_PLAIN, _LINEAR),
    ),
    "gemma3_cap_biases_untied": (
        "gemma3_text",
        _GEMMA | _UNTIED | {"attention_bias": True, "sliding_window": 5}
        | {"final_logit_softcapping": 3.0, "head_dim": 14}
        | {"layer_types": [_FULL, _LOCAL, _LOCAL]} | _two(_LINEAR, _YARN),
    ),
}  # fmt: skip
"""Name -> (model_type, settings)."""

ONE_EACH = ("qwen2_windows_yarn", "qwen3", "mistral", "smollm3", "gemma2", "gemma3")
"""A config of each family, with windows where it has any."""
