"""Llama 2, 3.1, 3.2 and 3.3, and the 68 M draft for the Llama 2 vocabulary.

Source: `config.json` of meta-llama/Llama-2-*-hf, meta-llama/Llama-3.1-*, meta-llama/Llama-3.2-*,
meta-llama/Llama-3.3-70B-Instruct and JackFram/llama-68m.
"""

from typing import Any

from configs.models.sizes import sizes

_FAMILY = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_act": "silu",
    "attention_bias": False,
    "tie_word_embeddings": False,
}
_LLAMA2 = _FAMILY | {
    "vocab_size": 32_000,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0,
    "rope_scaling": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
_LLAMA31 = _FAMILY | {
    "vocab_size": 128_256,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500_000.0,
    "rope_scaling": _LLAMA3_ROPE,
    "bos_token_id": 128_000,
    "eos_token_id": 128_001,
}
_LLAMA32 = _LLAMA31 | {"rope_scaling": _LLAMA3_ROPE | {"factor": 32.0}, "tie_word_embeddings": True}
_LLAMA_68M = _LLAMA2 | {"max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "bos_token_id": 0}

LLAMA: dict[str, dict[str, Any]] = {
    "llama2-7b": _LLAMA2 | sizes(4096, 11_008, layers=32, heads=32, kv_heads=32),
    "llama2-13b": _LLAMA2 | sizes(5120, 13_824, layers=40, heads=40, kv_heads=40),
    "llama2-70b": _LLAMA2 | sizes(8192, 28_672, layers=80, heads=64, kv_heads=8),
    "llama3.1-8b": _LLAMA31 | sizes(4096, 14_336, layers=32, heads=32, kv_heads=8),
    "llama3.1-70b": _LLAMA31 | sizes(8192, 28_672, layers=80, heads=64, kv_heads=8),
    "llama3.3-70b": _LLAMA31
    | sizes(8192, 28_672, layers=80, heads=64, kv_heads=8)
    | {"eos_token_id": [128_001, 128_008, 128_009]},
    "llama3.2-1b": _LLAMA32 | sizes(2048, 8192, layers=16, heads=32, kv_heads=8),
    "llama3.2-3b": _LLAMA32 | sizes(3072, 8192, layers=28, heads=24, kv_heads=8),
    "llama-68m": _LLAMA_68M | sizes(768, 3072, layers=2, heads=12, kv_heads=12),
}
"""Name -> `config.json`."""
