"""Hugging Face names of the families' tensors and ours, as data."""

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True)
class KeyRule:
    """One correspondence; `{i}` stands for the layer's number.

    Attributes:
      key: of the Hugging Face tensor.
      path: of our parameter, joined by "/".
      transpose: ours is the transpose of theirs (torch keeps [out, in]). Its own inverse.
    """

    key: str
    path: str
    transpose: bool


def _table(key: str, path: str) -> tuple[KeyRule, ...]:
    return (KeyRule(f"{key}.weight", f"{path}/table", False),)


def _dense(key: str, path: str) -> tuple[KeyRule, ...]:
    return (
        KeyRule(f"{key}.weight", f"{path}/kernel", True),
        KeyRule(f"{key}.bias", f"{path}/bias", False),
    )


def _norm(key: str, path: str) -> tuple[KeyRule, ...]:
    return (
        KeyRule(f"{key}.weight", f"{path}/scale", False),
        KeyRule(f"{key}.bias", f"{path}/bias", False),
    )


_DECODER_KEYS = (
    *_table("model.embed_tokens", "embed"),
    *_norm("model.layers.{i}.input_layernorm", "layer_{i}/attn_norm"),
    *_dense("model.layers.{i}.self_attn.q_proj", "layer_{i}/q"),
    *_dense("model.layers.{i}.self_attn.k_proj", "layer_{i}/k"),
    *_dense("model.layers.{i}.self_attn.v_proj", "layer_{i}/v"),
    *_dense("model.layers.{i}.self_attn.o_proj", "layer_{i}/o"),
    *_norm("model.layers.{i}.self_attn.q_norm", "layer_{i}/q_norm"),
    *_norm("model.layers.{i}.self_attn.k_norm", "layer_{i}/k_norm"),
    *_dense("model.layers.{i}.mlp.gate_proj", "layer_{i}/gate"),
    *_dense("model.layers.{i}.mlp.up_proj", "layer_{i}/up"),
    *_dense("model.layers.{i}.mlp.down_proj", "layer_{i}/down"),
    *_norm("model.norm", "final_norm"),
    *_dense("lm_head", "head"),
)
_AFTER_ATTENTION = "model.layers.{i}.post_attention_layernorm"
LLAMA_KEYS = (*_DECODER_KEYS, *_norm(_AFTER_ATTENTION, "layer_{i}/mlp_norm"))
GEMMA_KEYS = (
    *_DECODER_KEYS,
    *_norm(_AFTER_ATTENTION, "layer_{i}/attn_post_norm"),  # one name, another place
    *_norm("model.layers.{i}.pre_feedforward_layernorm", "layer_{i}/mlp_norm"),
    *_norm("model.layers.{i}.post_feedforward_layernorm", "layer_{i}/mlp_post_norm"),
)

OPT_KEYS = (
    *_table("model.decoder.embed_tokens", "embed"),
    *_table("model.decoder.embed_positions", "positions"),
    *_dense("model.decoder.project_in", "project_in"),
    *_dense("model.decoder.project_out", "project_out"),
    *_norm("model.decoder.layers.{i}.self_attn_layer_norm", "layer_{i}/attn_norm"),
    *_dense("model.decoder.layers.{i}.self_attn.q_proj", "layer_{i}/q"),
    *_dense("model.decoder.layers.{i}.self_attn.k_proj", "layer_{i}/k"),
    *_dense("model.decoder.layers.{i}.self_attn.v_proj", "layer_{i}/v"),
    *_dense("model.decoder.layers.{i}.self_attn.out_proj", "layer_{i}/o"),
    *_norm("model.decoder.layers.{i}.final_layer_norm", "layer_{i}/mlp_norm"),
    *_dense("model.decoder.layers.{i}.fc1", "layer_{i}/up"),
    *_dense("model.decoder.layers.{i}.fc2", "layer_{i}/down"),
    *_norm("model.decoder.final_layer_norm", "final_norm"),
    *_dense("lm_head", "head"),
)


def inside(prefix: str, rules: tuple[KeyRule, ...]) -> tuple[KeyRule, ...]:
    """Return the same rules for keys that all have a further prefix."""
    return tuple(dataclasses.replace(rule, key=prefix + rule.key) for rule in rules)
