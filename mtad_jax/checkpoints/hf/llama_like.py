"""Hugging Face's `config.json` of Qwen2, Qwen3, Mistral and SmolLM3: tables, and their readers.

Defaults are those of transformers' classes.
"""

from collections.abc import Mapping
from typing import Any

from mtad_jax.checkpoints.hf.fields import CONFIG, HEADS, POSITIONS, or_off
from mtad_jax.checkpoints.hf.shape import (
    COMMON_FIELDS,
    LAYER_TYPES,
    NO_BIAS,
    SILU,
    WINDOW,
    shape_of,
    windows_of,
)
from mtad_jax.json_file import Field, read_fields, shown, switch, whole
from mtad_jax.models.mistral import MistralConfig
from mtad_jax.models.qwen import QwenConfig
from mtad_jax.models.smollm3 import SmolLM3Config

QWEN2_FIELDS: Mapping[str, Field] = {
    **COMMON_FIELDS,
    "num_key_value_heads": whole(*HEADS, 32),
    "max_position_embeddings": whole(*POSITIONS, 32_768),
    "hidden_act": SILU,
    "tie_word_embeddings": switch(False),
    "use_sliding_window": switch(False),
    "sliding_window": or_off(WINDOW, 4096),
    "max_window_layers": whole(0, 1 << 12, 28),
    "layer_types": LAYER_TYPES,
}

QWEN3_FIELDS: Mapping[str, Field] = {
    **QWEN2_FIELDS,
    "head_dim": whole(2, HEADS[1], 128),
    "attention_bias": NO_BIAS,
}

MISTRAL_FIELDS: Mapping[str, Field] = {
    **COMMON_FIELDS,
    "num_key_value_heads": whole(*HEADS, 8),
    "max_position_embeddings": whole(*POSITIONS, 131_072),
    "hidden_act": SILU,
    "tie_word_embeddings": switch(False),
    "sliding_window": or_off(WINDOW, 4096),
    "layer_types": LAYER_TYPES,
}

_ROTARY = Field(
    "a list of 0 (no position encoding) and 1",
    lambda value: isinstance(value, list) and all(x in (0, 1) for x in value),
    None,
    null=True,
)
SMOLLM3_FIELDS: Mapping[str, Field] = {
    **COMMON_FIELDS,
    "num_key_value_heads": whole(*HEADS, 4),
    "max_position_embeddings": whole(*POSITIONS, 32_768),
    "hidden_act": SILU,
    "tie_word_embeddings": switch(True),
    "attention_bias": NO_BIAS,
    "mlp_bias": NO_BIAS,
    "use_sliding_window": switch(False),
    "sliding_window": or_off(WINDOW, None),
    "no_rope_layers": _ROTARY,
    "no_rope_layer_interval": whole(1, 1 << 12, 4),
    "layer_types": LAYER_TYPES,
}


def qwen2_config(hf: Mapping[str, Any]) -> QwenConfig:
    """Read a `config.json` of model_type "qwen2" (Qwen2 and Qwen2.5).

    Raises:
      ValueError: a setting that is missing, out of range or not supported, or two that disagree.
    """
    s = read_fields(CONFIG, hf, QWEN2_FIELDS)
    return QwenConfig(
        **shape_of(hf, s, theta=10_000.0),
        qkv_bias=True,
        out_bias=False,
        head_norms=False,
        windows=_qwen_windows(s),
    )


def qwen3_config(hf: Mapping[str, Any]) -> QwenConfig:
    """Read a `config.json` of model_type "qwen3".

    Raises:
      ValueError: as `qwen2_config`.
    """
    s = read_fields(CONFIG, hf, QWEN3_FIELDS)
    return QwenConfig(
        **shape_of(hf, s, theta=10_000.0),
        qkv_bias=s["attention_bias"],
        out_bias=s["attention_bias"],
        head_norms=True,
        windows=_qwen_windows(s),
    )


def mistral_config(hf: Mapping[str, Any]) -> MistralConfig:
    """Read a `config.json` of model_type "mistral".

    Raises:
      ValueError: as `qwen2_config`; `layer_types` that are not all what `sliding_window` says, as
        transformers reads that alone.
    """
    s = read_fields(CONFIG, hf, MISTRAL_FIELDS)
    count, window = s["num_hidden_layers"], s["sliding_window"]
    windows = windows_of(s["layer_types"], [window is not None] * count, window)
    if set(windows) != {window}:
        raise ValueError(
            f"{CONFIG}: layer_types={shown(s['layer_types'])} and sliding_window={shown(window)} "
            "disagree: all layers of a Mistral are alike: take layer_types out"
        )
    return MistralConfig(**shape_of(hf, s, theta=10_000.0), window=window)


def smollm3_config(hf: Mapping[str, Any]) -> SmolLM3Config:
    """Read a `config.json` of model_type "smollm3".

    Raises:
      ValueError: as `qwen2_config`.
    """
    s = read_fields(CONFIG, hf, SMOLLM3_FIELDS)
    count, every = s["num_hidden_layers"], s["no_rope_layer_interval"]
    rotary = s["no_rope_layers"]
    if rotary is None:
        rotary = [(i + 1) % every != 0 for i in range(count)]
    if len(rotary) < count:
        raise ValueError(
            f"{CONFIG}: no_rope_layers has {len(rotary)} items, fewer than "
            f"num_hidden_layers={count}"
        )
    rotary = tuple(bool(x) for x in rotary[:count])
    window = _window_in_use(s)
    local = [window is not None and not x for x in rotary]
    return SmolLM3Config(
        **shape_of(hf, s, theta=2_000_000.0),
        attention_bias=s["attention_bias"],
        mlp_bias=s["mlp_bias"],
        rotary=rotary,
        windows=windows_of(s["layer_types"], local, window),
    )


def _window_in_use(s: Mapping[str, Any]) -> int | None:
    return s["sliding_window"] if s["use_sliding_window"] else None


def _qwen_windows(s: Mapping[str, Any]) -> tuple[int | None, ...]:
    """Return each layer's window: the first `max_window_layers` layers see everything."""
    window, first = _window_in_use(s), s["max_window_layers"]
    local = [window is not None and i >= first for i in range(s["num_hidden_layers"])]
    return windows_of(s["layer_types"], local, window)
