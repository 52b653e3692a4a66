"""Hugging Face's `config.json` of Gemma 2 and of Gemma 3's text model: tables, and their readers.

Defaults are those of transformers' classes.
"""

import dataclasses
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
    or_off,
)
from mtad_jax.checkpoints.hf.rope import PLACES, disagreement, one_rope, reach
from mtad_jax.checkpoints.hf.shape import (
    COMMON_FIELDS,
    LAYER_TYPES,
    NO_BIAS,
    WINDOW,
    shape_of,
    sizes_of,
    windows_of,
)
from mtad_jax.json_file import Field, choice, number, read_fields, shown, switch, whole
from mtad_jax.models.gemma import GemmaConfig
from mtad_jax.models.rope import Rope

_CAP = number(1e-3, 1e6)
_GEMMA_FIELDS: Mapping[str, Field] = {
    **COMMON_FIELDS,
    "num_key_value_heads": whole(*HEADS, 4),
    "head_dim": whole(2, HEADS[1], 256),
    "hidden_activation": choice(("gelu_pytorch_tanh",), "gelu_pytorch_tanh"),
    "tie_word_embeddings": switch(True),
    "attention_bias": NO_BIAS,
    "query_pre_attn_scalar": number(1e-3, 1e6, 256),
    "sliding_window": or_off(WINDOW, 4096),
    "layer_types": LAYER_TYPES,
}

GEMMA2_FIELDS: Mapping[str, Field] = {
    **_GEMMA_FIELDS,
    "max_position_embeddings": whole(*POSITIONS, 8192),
    "attn_logit_softcapping": or_off(_CAP, 50.0),
    "final_logit_softcapping": or_off(_CAP, 30.0),
}

GEMMA3_FIELDS: Mapping[str, Field] = {
    **_GEMMA_FIELDS,
    # Published configs of models that see images leave out what is as in transformers' class.
    "vocab_size": dataclasses.replace(VOCAB, default=262_208),
    "hidden_size": dataclasses.replace(WIDTH, default=2304),
    "intermediate_size": dataclasses.replace(MLP_WIDTH, default=9216),
    "num_hidden_layers": dataclasses.replace(LAYERS, default=26),
    "num_attention_heads": whole(*HEADS, 8),
    "max_position_embeddings": whole(*POSITIONS, 131_072),
    "final_logit_softcapping": or_off(_CAP, None),
    "sliding_window_pattern": whole(1, 1 << 12, 6),
}

# Of each kind of layer: the setting beside it that names the base, and the base by default.
_BASES = {
    "full_attention": ("rope_theta", 1_000_000.0),
    "sliding_attention": ("rope_local_base_freq", 10_000.0),
}


def gemma2_config(hf: Mapping[str, Any]) -> GemmaConfig:
    """Read a `config.json` of model_type "gemma2"; every other layer has a window.

    Raises:
      ValueError: a setting that is missing, out of range or not supported, or two that disagree.
    """
    s = read_fields(CONFIG, hf, GEMMA2_FIELDS)
    shape = shape_of(hf, s, theta=10_000.0)
    rope = Rope(shape["rope_theta"], shape["rope_scaling"])
    return _config(s, shape, every=2, head_norms=False, local_rope=rope)


def gemma3_config(hf: Mapping[str, Any]) -> GemmaConfig:
    """Read a `config.json` of model_type "gemma3_text"; all but every n-th layer have a window.

    Raises:
      ValueError: as `gemma2_config`.
    """
    s = read_fields(CONFIG, hf, GEMMA3_FIELDS)
    positions = s["max_position_embeddings"]
    ropes = _two_ropes(hf, positions)
    rope = ropes["full_attention"]
    shape = {
        **sizes_of(s),
        "max_positions": reach(rope, positions),
        "rope_theta": rope.theta,
        "rope_scaling": rope.scaling,
    }
    every, local = s["sliding_window_pattern"], ropes["sliding_attention"]
    return _config(s, shape, every=every, head_norms=True, local_rope=local)


def _config(
    s: Mapping[str, Any],
    shape: Mapping[str, Any],
    *,
    every: int,
    head_norms: bool,
    local_rope: Rope,
) -> GemmaConfig:
    check_divides(hidden_size=s["hidden_size"], num_attention_heads=s["num_attention_heads"])
    local = [(i + 1) % every != 0 for i in range(s["num_hidden_layers"])]
    return GemmaConfig(
        **shape,
        attention_bias=s["attention_bias"],
        head_norms=head_norms,
        score_scale=s["query_pre_attn_scalar"] ** -0.5,
        score_cap=s.get("attn_logit_softcapping"),
        logit_cap=s["final_logit_softcapping"],
        windows=windows_of(s["layer_types"], local, s["sliding_window"]),
        local_rope=local_rope,
    )


def _two_ropes(hf: Mapping[str, Any], positions: int) -> dict[str, Rope]:
    """Read the rotary settings of both kinds of layers.

    Before transformers 5, `rope_scaling` was that of the layers without a window, and the bases
    stood beside it; since then `rope_parameters` has an object for each kind.

    Source: transformers' `Gemma3TextConfig.convert_rope_params_to_dict`.
    """
    old, new = (hf.get(name) or {} for name in PLACES)
    if not isinstance(old, Mapping) or any(isinstance(x, Mapping) for x in old.values()):
        raise ValueError(f"{CONFIG}: {PLACES[0]}={shown(old)} must be an object of plain values")
    if not isinstance(new, Mapping) or not all(
        name in _BASES and (value is None or isinstance(value, Mapping))
        for name, value in new.items()
    ):
        raise ValueError(
            f"{CONFIG}: {PLACES[1]}={shown(new)} must hold an object for {' and '.join(_BASES)}"
        )
    found = {}
    for kind, (base, theta) in _BASES.items():
        name, inner = f"{PLACES[1]}.{kind}", new.get(kind) or {}
        if inner.get("truncate") is False:  # transformers looks for it where it cannot be
            raise ValueError(f"{CONFIG}: {name}.truncate=false is not supported: only true is")
        found[kind] = one_rope(name, hf, inner, positions, base, theta)
    if old:
        kind = "full_attention"
        said = one_rope(PLACES[0], hf, old, positions, *_BASES[kind])
        if new.get(kind) and said != found[kind]:
            raise disagreement({name: hf[name] for name in PLACES})
        found[kind] = said
    return found
