"""Gemma 2, and the text models of Gemma 3.

Source: `config.json` of google/gemma-2-* and google/gemma-3-*; of those that see images, its
`text_config` and the defaults of transformers' class. Gemma 3's vocabulary is padded to 262,144
rows, and to 262,208 in those.
"""

from typing import Any

from configs.models.sizes import sizes

_FAMILY = {
    "hidden_activation": "gelu_pytorch_tanh",
    "rms_norm_eps": 1e-6,
    "attention_bias": False,
    "tie_word_embeddings": True,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
_GEMMA2 = _FAMILY | {
    "model_type": "gemma2",
    "architectures": ["Gemma2ForCausalLM"],
    "vocab_size": 256_000,
    "max_position_embeddings": 8192,
    "rope_theta": 10_000.0,
    "sliding_window": 4096,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
}
_GEMMA3 = _FAMILY | {
    "model_type": "gemma3_text",
    "architectures": ["Gemma3ForCausalLM"],
    "rope_theta": 1_000_000.0,
    "rope_local_base_freq": 10_000.0,
    "sliding_window_pattern": 6,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
}
_SMALL = _GEMMA3 | {
    "vocab_size": 262_144,
    "max_position_embeddings": 32_768,
    "sliding_window": 512,
}
_LARGE = _GEMMA3 | {
    "vocab_size": 262_208,
    "max_position_embeddings": 131_072,
    "sliding_window": 1024,
    "rope_scaling": {"rope_type": "linear", "factor": 8.0},
}

_HEADS = {"head_dim": 256, "query_pre_attn_scalar": 256}

GEMMA: dict[str, dict[str, Any]] = {
    "gemma2-2b": _GEMMA2 | sizes(2304, 9216, layers=26, heads=8, kv_heads=4, **_HEADS),
    "gemma2-9b": _GEMMA2 | sizes(3584, 14_336, layers=42, heads=16, kv_heads=8, **_HEADS),
    "gemma2-27b": _GEMMA2
    | sizes(4608, 36_864, layers=46, heads=32, kv_heads=16, head_dim=128)
    | {"query_pre_attn_scalar": 144},
    "gemma3-270m": _SMALL | sizes(640, 2048, layers=18, heads=4, kv_heads=1, **_HEADS),
    "gemma3-1b": _SMALL | sizes(1152, 6912, layers=26, heads=4, kv_heads=1, **_HEADS),
    "gemma3-4b": _LARGE | sizes(2560, 10_240, layers=34, heads=8, kv_heads=4, **_HEADS),
    "gemma3-12b": _LARGE | sizes(3840, 15_360, layers=48, heads=16, kv_heads=8, **_HEADS),
    "gemma3-27b": _LARGE
    | sizes(5376, 21_504, layers=62, heads=32, kv_heads=16, head_dim=128)
    | {"query_pre_attn_scalar": 168},
}
"""Name -> `config.json`."""
