"""Hugging Face's `config.json` of the supported families: tables of settings, and their readers.

Every setting that is read is in a family's table, with its type, its range and what counts where
it is absent (transformers' own default), so that nothing is built of what cannot be right.
"""

from collections.abc import Mapping
from typing import Any

from mtad_jax.json_file import (
    Field,
    choice,
    number,
    read_fields,
    shown,
    switch,
    token_ids,
    whole,
)
from mtad_jax.models.layers import RopeScaling
from mtad_jax.models.llama import LlamaConfig
from mtad_jax.models.opt import OPTConfig

CONFIG = "config.json"

# Far above every model there is, and low enough that whatever is within can be laid out.
_VOCAB = whole(1, 1 << 24)
_WIDTH = whole(1, 1 << 20)
_LAYERS = whole(1, 1 << 12)
_HEADS = whole(1, 1 << 14)
_POSITIONS = (1, (1 << 31) - 1)

LLAMA_FIELDS: Mapping[str, Field] = {
    "vocab_size": _VOCAB,
    "hidden_size": _WIDTH,
    "intermediate_size": whole(1, 1 << 22),
    "num_hidden_layers": _LAYERS,
    "num_attention_heads": _HEADS,
    "num_key_value_heads": whole(1, 1 << 14, None, null=True),
    "head_dim": whole(2, 1 << 14, None, null=True),
    "max_position_embeddings": whole(*_POSITIONS, 2048),
    "rms_norm_eps": number(0, 1, 1e-6),
    "hidden_act": choice(("silu", "swish"), "silu"),  # one function, two names
    "tie_word_embeddings": switch(False),
    "attention_bias": switch(False),
    "mlp_bias": switch(False),
}

OPT_FIELDS: Mapping[str, Field] = {
    "vocab_size": _VOCAB,
    "hidden_size": _WIDTH,
    "word_embed_proj_dim": whole(1, 1 << 20, None, null=True),
    "ffn_dim": whole(1, 1 << 22),
    "num_hidden_layers": _LAYERS,
    "num_attention_heads": _HEADS,
    "max_position_embeddings": whole(1, 1 << 24),
    "do_layer_norm_before": switch(True),
    "_remove_final_layer_norm": switch(False),
    "enable_bias": switch(True),
    "layer_norm_elementwise_affine": switch(True),
    "activation_function": choice(("relu", "gelu"), "relu"),
    "tie_word_embeddings": switch(True),
}

TOKEN_FIELDS: Mapping[str, Field] = {"bos_token_id": token_ids(), "eos_token_id": token_ids()}
"""Of `generation_config.json`, and of every family's `config.json`."""

Size = tuple[str, int, int]
"""Where the weights show a setting: our parameter's path, its axis, and what it is longer by."""

LLAMA_SIZES: Mapping[str, Size] = {
    "vocab_size": ("embed/table", 0, 0),
    "hidden_size": ("embed/table", 1, 0),
    "intermediate_size": ("layer_0/up/kernel", 1, 0),
}
OPT_SIZES: Mapping[str, Size] = {
    "vocab_size": ("embed/table", 0, 0),
    "word_embed_proj_dim": ("embed/table", 1, 0),
    "hidden_size": ("layer_0/up/kernel", 0, 0),
    "ffn_dim": ("layer_0/up/kernel", 1, 0),
    "max_position_embeddings": ("positions/table", 0, 2),
}

THETA = number(1e-3, 1e18, 10000.0)
FACTOR = number(1e-3, 1e6)
_LENGTH = whole(*_POSITIONS, None, null=True)
_ROPE_KINDS: Mapping[str, Mapping[str, Field]] = {
    "default": {},
    "linear": {"factor": FACTOR},
    "llama3": {
        "factor": FACTOR,
        "low_freq_factor": FACTOR,
        "high_freq_factor": FACTOR,
        "original_max_position_embeddings": _LENGTH,
    },
}
ROPE = ("rope_scaling", "rope_parameters")  # of transformers before version 5, and since


def llama_config(hf: Mapping[str, Any]) -> LlamaConfig:
    """Read a `config.json` of model_type "llama".

    Raises:
      ValueError: a setting that is missing, out of range or not supported, or two that disagree.
    """
    s = read_fields(CONFIG, hf, LLAMA_FIELDS)
    heads, width = s["num_attention_heads"], s["hidden_size"]
    kv_heads = s["num_key_value_heads"] or heads
    _check_divides(hidden_size=width, num_attention_heads=heads)
    _check_divides(num_attention_heads=heads, num_key_value_heads=kv_heads)
    head_dim = s["head_dim"] or width // heads
    if head_dim % 2:
        raise ValueError(f"{CONFIG}: head_dim={head_dim} must be even: rotary positions pair it")
    theta, scaling = _rope(hf, s["max_position_embeddings"])
    return LlamaConfig(
        vocab_size=s["vocab_size"],
        embed_dim=width,
        mlp_dim=s["intermediate_size"],
        num_layers=s["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        max_positions=s["max_position_embeddings"],
        norm_eps=s["rms_norm_eps"],
        rope_theta=theta,
        rope_scaling=scaling,
        tied_head=s["tie_word_embeddings"],
        attention_bias=s["attention_bias"],
        mlp_bias=s["mlp_bias"],
    )


def llama_json(config: LlamaConfig) -> dict[str, Any]:
    """Return the `config.json` of a Llama, dtype and tokens aside: `llama_config` backwards."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.embed_dim,
        "intermediate_size": config.mlp_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": _rope_json(config.rope_scaling),
        "tie_word_embeddings": config.tied_head,
        "attention_bias": config.attention_bias,
        "mlp_bias": config.mlp_bias,
        "hidden_act": "silu",
        "initializer_range": 0.02,
    }


def _rope_json(scaling: RopeScaling | None) -> dict[str, Any] | None:
    if scaling is None:
        return None
    found = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind == "llama3":
        found |= {
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_max_positions,
        }
    return found


def opt_config(hf: Mapping[str, Any]) -> OPTConfig:
    """Read a `config.json` of model_type "opt".

    Raises:
      ValueError: as `llama_config`.
    """
    s = read_fields(CONFIG, hf, OPT_FIELDS)
    _check_divides(hidden_size=s["hidden_size"], num_attention_heads=s["num_attention_heads"])
    pre_norm = s["do_layer_norm_before"]
    return OPTConfig(
        vocab_size=s["vocab_size"],
        embed_dim=s["hidden_size"],
        word_dim=s["word_embed_proj_dim"] or s["hidden_size"],
        mlp_dim=s["ffn_dim"],
        num_layers=s["num_hidden_layers"],
        num_heads=s["num_attention_heads"],
        max_positions=s["max_position_embeddings"],
        position_offset=2,
        norm_eps=1e-5,  # torch's default, which OPT's code relies on
        pre_norm=pre_norm,
        final_norm=pre_norm and not s["_remove_final_layer_norm"],
        use_bias=s["enable_bias"],
        norm_affine=s["layer_norm_elementwise_affine"],
        activation=s["activation_function"],
        tied_head=s["tie_word_embeddings"],
    )


def _check_divides(**sizes: int) -> None:
    (whole_name, size), (part_name, part) = sizes.items()
    if size % part:
        raise ValueError(f"{CONFIG}: {part_name}={part} must divide {whole_name}={size}")


def _rope(hf: Mapping[str, Any], positions: int) -> tuple[float, RopeScaling | None]:
    """Read the rotary settings in both spellings, as transformers 5 does.

    It takes `rope_scaling` where there are both, and then forgets the base that `rope_parameters`
    names; it takes the base in either before a `rope_theta` beside them, but an
    `original_max_position_embeddings` beside them before the one within. Where two places
    disagree, nobody knows which was meant, so that is refused.

    Source: transformers' `modeling_rope_utils.RotaryEmbeddingConfigMixin`.
    """
    given = {name: hf[name] for name in ROPE if hf.get(name)}
    for name, value in given.items():
        if not isinstance(value, Mapping) or any(isinstance(x, Mapping) for x in value.values()):
            raise ValueError(f"{CONFIG}: {name}={shown(value)} must be an object of plain values")
    found = {name: _one_rope(name, hf, value, positions) for name, value in given.items()}
    if len(found) == 2 and len(set(found.values())) == 2:
        raise ValueError(
            f"{CONFIG}: {ROPE[0]}={shown(given[ROPE[0]])} and {ROPE[1]}="
            f"{shown(given[ROPE[1]])} disagree: keep the one that is meant"
        )
    return next(iter(found.values()), (_theta(CONFIG, hf), None))


def _one_rope(
    name: str, hf: Mapping[str, Any], rope: Mapping[str, Any], positions: int
) -> tuple[float, RopeScaling | None]:
    where, base = f"{CONFIG}: {name}", "rope_theta"
    theta = _theta(where, rope) if base in rope else _theta(CONFIG, hf)
    if base in rope and base in hf and theta != _theta(CONFIG, hf):
        raise _disagree(name, base, hf, rope)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if not isinstance(kind, str) or kind not in _ROPE_KINDS:
        raise ValueError(
            f"{where}: rope type {shown(kind)} is not supported: {', '.join(_ROPE_KINDS)} are"
        )
    s = read_fields(where, rope, _ROPE_KINDS[kind])
    if kind == "default":
        return theta, None
    if kind == "linear":
        return theta, RopeScaling(kind, float(s["factor"]))
    length = "original_max_position_embeddings"
    beside = read_fields(CONFIG, hf, {length: _LENGTH})[length]
    if beside and s[length] and beside != s[length]:
        raise _disagree(name, length, hf, rope)
    low, high = float(s["low_freq_factor"]), float(s["high_freq_factor"])
    if low >= high:
        raise ValueError(f"{where}: low_freq_factor={low} must be below high_freq_factor={high}")
    return theta, RopeScaling(kind, float(s["factor"]), low, high, s[length] or beside or positions)


def _theta(where: str, data: Mapping[str, Any]) -> float:
    return float(read_fields(where, data, {"rope_theta": THETA})["rope_theta"])


def _disagree(name: str, key: str, hf: Mapping[str, Any], rope: Mapping[str, Any]) -> ValueError:
    return ValueError(
        f"{CONFIG}: {key}={shown(hf[key])} and {name}.{key}={shown(rope[key])} disagree: keep the "
        f"one that is meant, in {name}"
    )
