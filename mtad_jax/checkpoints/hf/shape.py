"""Settings that the families built as Llama is have in common, and their reading."""

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
)
from mtad_jax.checkpoints.hf.rope import reach, read_rope
from mtad_jax.json_file import Field, choice, number, switch, whole

COMMON_FIELDS: Mapping[str, Field] = {
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "intermediate_size": MLP_WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": whole(*HEADS),
    "head_dim": whole(2, HEADS[1], None, null=True),
    "rms_norm_eps": number(0, 1, 1e-6),
}
"""Where a family's own default is another, its table has the setting again."""

SILU = choice(("silu", "swish"), "silu")  # one function, two names
NO_BIAS = switch(False)

Size = tuple[str, int, int]
"""Where the weights show a setting: our parameter's path, its axis, and what it is longer by."""

COMMON_SIZES: Mapping[str, Size] = {
    "vocab_size": ("embed/table", 0, 0),
    "hidden_size": ("embed/table", 1, 0),
    "intermediate_size": ("layer_0/up/kernel", 1, 0),
}

_FULL, _SLIDING = "full_attention", "sliding_attention"
_KINDS = (_FULL, _SLIDING)
LAYER_TYPES = Field(
    f"a list of {' and '.join(_KINDS)}",
    lambda value: isinstance(value, list) and all(kind in _KINDS for kind in value),
    None,
    null=True,
)
WINDOW = whole(*POSITIONS)


def shape_of(hf: Mapping[str, Any], s: Mapping[str, Any], *, theta: float) -> dict[str, Any]:
    """Return the fields of a `DecoderConfig` with one position encoding.

    Args:
      hf: the `config.json`.
      s: its settings, read by the family's table.
      theta: the family's base of the rotary frequencies.

    Raises:
      ValueError: sizes that do not divide, an odd head, or as `read_rope`.
    """
    positions = s["max_position_embeddings"]
    rope = read_rope(hf, positions, theta)
    return {
        **sizes_of(s),
        "max_positions": reach(rope, positions),
        "rope_theta": rope.theta,
        "rope_scaling": rope.scaling,
    }


def sizes_of(s: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a `DecoderConfig` that are not about positions.

    Raises:
      ValueError: sizes that do not divide, or an odd head.
    """
    heads, width = s["num_attention_heads"], s["hidden_size"]
    kv_heads = s["num_key_value_heads"] or heads
    if not s["head_dim"]:
        check_divides(hidden_size=width, num_attention_heads=heads)
    check_divides(num_attention_heads=heads, num_key_value_heads=kv_heads)
    head_dim = s["head_dim"] or width // heads
    if head_dim % 2:
        raise ValueError(f"{CONFIG}: head_dim={head_dim} must be even: rotary positions pair it")
    return {
        "vocab_size": s["vocab_size"],
        "embed_dim": width,
        "mlp_dim": s["intermediate_size"],
        "num_layers": s["num_hidden_layers"],
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "head_dim": head_dim,
        "norm_eps": s["rms_norm_eps"],
        "tied_head": s["tie_word_embeddings"],
    }


def windows_of(
    layer_types: list[str] | None, local: list[bool], window: int | None
) -> tuple[int | None, ...]:
    """Return each layer's window.

    Args:
      layer_types: the setting; None: by `local`.
      local: which layers have a window, one for each.
      window: positions that a token of such a layer sees; None: no layer may have one.

    Raises:
      ValueError: a list of another length, or layers with a window of no size.
    """
    if layer_types is not None:
        if len(layer_types) != len(local):
            raise ValueError(
                f"{CONFIG}: layer_types has {len(layer_types)} items, not one for each of "
                f"num_hidden_layers={len(local)}"
            )
        local = [kind == _SLIDING for kind in layer_types]
    if any(local) and window is None:
        raise ValueError(
            f"{CONFIG}: layers of {_SLIDING} need a sliding_window, which is null or not in use: "
            f"give it, or make all layer_types {_FULL}"
        )
    return tuple(window if here else None for here in local)
