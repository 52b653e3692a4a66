"""Qwen2.5 and Qwen3, dense.

Source: `config.json` of Qwen/Qwen2.5-* and Qwen/Qwen3-*. The vocabularies are padded: to 151,936
rows, and to 152,064 in Qwen2.5 from 7B on.
"""

from typing import Any

from configs.models.sizes import sizes

_FAMILY = {
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000.0,
    "use_sliding_window": False,
    "bos_token_id": 151_643,
}
_QWEN25 = _FAMILY | {
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    "vocab_size": 152_064,
    "max_position_embeddings": 131_072,
    "tie_word_embeddings": False,
    "eos_token_id": 151_643,
}
_QWEN25_SMALL = _QWEN25 | {"vocab_size": 151_936, "tie_word_embeddings": True}
_QWEN3 = _FAMILY | {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "vocab_size": 151_936,
    "max_position_embeddings": 40_960,
    "head_dim": 128,
    "attention_bias": False,
    "tie_word_embeddings": False,
    "rope_scaling": None,
    "eos_token_id": 151_645,
}
_QWEN3_SMALL = _QWEN3 | {"tie_word_embeddings": True}

QWEN: dict[str, dict[str, Any]] = {
    "qwen2.5-0.5b": _QWEN25_SMALL
    | sizes(896, 4864, layers=24, heads=14, kv_heads=2)
    | {"max_position_embeddings": 32_768},
    "qwen2.5-1.5b": _QWEN25_SMALL | sizes(1536, 8960, layers=28, heads=12, kv_heads=2),
    "qwen2.5-7b": _QWEN25 | sizes(3584, 18_944, layers=28, heads=28, kv_heads=4),
    "qwen2.5-32b": _QWEN25 | sizes(5120, 27_648, layers=64, heads=40, kv_heads=8),
    "qwen2.5-72b": _QWEN25 | sizes(8192, 29_568, layers=80, heads=64, kv_heads=8),
    "qwen3-0.6b": _QWEN3_SMALL | sizes(1024, 3072, layers=28, heads=16, kv_heads=8),
    "qwen3-1.7b": _QWEN3_SMALL | sizes(2048, 6144, layers=28, heads=16, kv_heads=8),
    "qwen3-8b": _QWEN3 | sizes(4096, 12_288, layers=36, heads=32, kv_heads=8),
    "qwen3-32b": _QWEN3 | sizes(5120, 25_600, layers=64, heads=64, kv_heads=8),
}
"""Name -> `config.json`."""
