"""OPT, 125m to 66b.

Source: `config.json` of facebook/opt-*.
"""

from typing import Any

_FAMILY = {
    "model_type": "opt",
    "architectures": ["OPTForCausalLM"],
    "activation_function": "relu",
    "vocab_size": 50_272,
    "max_position_embeddings": 2048,
    "do_layer_norm_before": True,
    "tie_word_embeddings": True,
    "bos_token_id": 2,
    "eos_token_id": 2,
    "pad_token_id": 1,
}


def _shape(width: int, *, layers: int, heads: int) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "word_embed_proj_dim": width,
        "ffn_dim": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }


_POST_NORM = {"do_layer_norm_before": False, "word_embed_proj_dim": 512}

OPT: dict[str, dict[str, Any]] = {
    "opt-125m": _FAMILY | _shape(768, layers=12, heads=12),
    "opt-350m": _FAMILY | _shape(1024, layers=24, heads=16) | _POST_NORM,
    "opt-1.3b": _FAMILY | _shape(2048, layers=24, heads=32),
    "opt-6.7b": _FAMILY | _shape(4096, layers=32, heads=32),
    "opt-13b": _FAMILY | _shape(5120, layers=40, heads=40),
    "opt-30b": _FAMILY | _shape(7168, layers=48, heads=56),
    "opt-66b": _FAMILY | _shape(9216, layers=64, heads=72),
}
"""Name -> `config.json`."""
