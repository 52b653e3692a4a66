"""SmolLM2, which is a Llama, and SmolLM3.

Source: `config.json` of HuggingFaceTB/SmolLM2-* and HuggingFaceTB/SmolLM3-3B.
"""

from typing import Any

from configs.models.sizes import sizes

_SMOLLM2 = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_act": "silu",
    "vocab_size": 49_152,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100_000.0,
    "rope_scaling": None,
    "attention_bias": False,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
}

SMOLLM: dict[str, dict[str, Any]] = {
    "smollm2-135m": _SMOLLM2 | sizes(576, 1536, layers=30, heads=9, kv_heads=3),
    "smollm2-360m": _SMOLLM2 | sizes(960, 2560, layers=32, heads=15, kv_heads=5),
    "smollm2-1.7b": _SMOLLM2
    | sizes(2048, 8192, layers=24, heads=32, kv_heads=32)
    | {"rope_theta": 130_000.0},
    "smollm3-3b": sizes(2048, 11_008, layers=36, heads=16, kv_heads=4)
    | {
        "model_type": "smollm3",
        "architectures": ["SmolLM3ForCausalLM"],
        "hidden_act": "silu",
        "vocab_size": 128_256,
        "max_position_embeddings": 65_536,
        "rms_norm_eps": 1e-6,
        "rope_theta": 5_000_000.0,
        "no_rope_layer_interval": 4,
        "use_sliding_window": False,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": 128_000,
        "eos_token_id": 128_001,
    },
}
"""Name -> `config.json`."""
