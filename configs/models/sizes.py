"""Sizes of a model as Hugging Face names them."""

from typing import Any


def sizes(
    width: int, mlp: int, *, layers: int, heads: int, kv_heads: int, **more: Any
) -> dict[str, Any]:
    """Return the settings of the sizes, and `more` as it is."""
    return {
        "hidden_size": width,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        **more,
    }
