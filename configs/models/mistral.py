"""Mistral 7B with and without its window, and Small 3 (24B).

Source: `config.json` of mistralai/Mistral-7B-v0.1, mistralai/Mistral-7B-v0.3 and
mistralai/Mistral-Small-24B-Base-2501.
"""

from typing import Any

_FAMILY = {
    "model_type": "mistral",
    "architectures": ["MistralForCausalLM"],
    "hidden_act": "silu",
    "max_position_embeddings": 32_768,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_7B = _FAMILY | {"hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32}

MISTRAL: dict[str, dict[str, Any]] = {
    "mistral-7b-v0.1": _7B | {"vocab_size": 32_000, "rope_theta": 10_000.0, "sliding_window": 4096},
    "mistral-7b-v0.3": _7B
    | {"vocab_size": 32_768, "rope_theta": 1_000_000.0, "sliding_window": None},
    "mistral-small-24b": _FAMILY
    | {
        "vocab_size": 131_072,
        "hidden_size": 5120,
        "intermediate_size": 32_768,
        "num_hidden_layers": 40,
        "head_dim": 128,
        "rope_theta": 100_000_000.0,
        "sliding_window": None,
    },
}
"""Name -> `config.json`."""
