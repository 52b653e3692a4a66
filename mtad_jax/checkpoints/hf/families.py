"""Hugging Face names of the supported families' tensors and settings, as data."""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from flax import linen as nn
from flax.traverse_util import flatten_dict

from mtad_jax.checkpoints.hf.configs import OPT_SIZES, llama_config, opt_config
from mtad_jax.checkpoints.hf.fields import CONFIG
from mtad_jax.checkpoints.hf.gemma import gemma2_config, gemma3_config
from mtad_jax.checkpoints.hf.llama_like import (
    mistral_config,
    qwen2_config,
    qwen3_config,
    smollm3_config,
)
from mtad_jax.checkpoints.hf.rope import PLACES
from mtad_jax.checkpoints.hf.shape import COMMON_SIZES, Size
from mtad_jax.json_file import shown
from mtad_jax.models.gemma import Gemma
from mtad_jax.models.linen import LinenLM, LMConfig
from mtad_jax.models.llama import Llama
from mtad_jax.models.mistral import Mistral
from mtad_jax.models.opt import OPT
from mtad_jax.models.qwen import Qwen
from mtad_jax.models.smollm3 import SmolLM3


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


@dataclass(frozen=True)
class Family:
    """A Hugging Face `model_type`.

    Attributes:
      config: reader of the `config.json`.
      sizes: settings that the weights show, and where.
      module: our module for that config.
      rules: a rule for every parameter any member can have.
      prefix: of keys; exports of the bare model lack it.
      tied: key → key that it repeats when the config ties them.
      ignored: pattern of keys, prefix aside, that hold no weights (recomputed buffers, version
        marks).
      fixed: settings that our module does not have, with the only value that it can honour.
    """

    config: Callable[[Mapping[str, Any]], LMConfig]
    sizes: Mapping[str, Size]
    module: Callable[[Any], nn.Module]
    rules: tuple[KeyRule, ...]
    prefix: str
    tied: Mapping[str, str]
    ignored: str
    fixed: Mapping[str, Any]

    def is_buffer(self, key: str) -> bool:
        """Say whether a tensor of that name holds no weights."""
        return re.fullmatch(self.ignored, key.removeprefix(self.prefix)) is not None

    def may_lack(self, key: str) -> bool:
        """Say whether an index may name that key and no shard have it.

        transformers takes such indices. Where a head that may be tied is not, it is missed later.
        """
        return self.is_buffer(key) or key in self.tied


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


_DECODER_RULES = (
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
_LLAMA_RULES = (*_DECODER_RULES, *_norm(_AFTER_ATTENTION, "layer_{i}/mlp_norm"))
_GEMMA_RULES = (
    *_DECODER_RULES,
    *_norm(_AFTER_ATTENTION, "layer_{i}/attn_post_norm"),  # one name, another place
    *_norm("model.layers.{i}.pre_feedforward_layernorm", "layer_{i}/mlp_norm"),
    *_norm("model.layers.{i}.post_feedforward_layernorm", "layer_{i}/mlp_post_norm"),
)

_OPT_RULES = (
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


def _decoder(
    config: Callable[[Mapping[str, Any]], LMConfig],
    module: Callable[[Any], nn.Module],
    rules: tuple[KeyRule, ...] = _LLAMA_RULES,
    **fixed: Any,
) -> Family:
    """Return a family that is built as Llama is."""
    return Family(
        config=config,
        sizes=COMMON_SIZES,
        module=module,
        rules=rules,
        prefix="model.",
        tied={"lm_head.weight": "model.embed_tokens.weight"},
        ignored=r"(layers\.\d+\.self_attn\.)?rotary_emb\.(inv_freq|cos_cached|sin_cached)",
        fixed={"partial_rotary_factor": 1.0, "quantization_config": None} | fixed,
    )


FAMILIES: Mapping[str, Family] = {
    "llama": _decoder(llama_config, Llama, rope_interleaved=False),
    "qwen2": _decoder(qwen2_config, Qwen, attention_bias=True, mlp_bias=False, use_mrope=False),
    "qwen3": _decoder(qwen3_config, Qwen, mlp_bias=False),
    "mistral": _decoder(mistral_config, Mistral, attention_bias=False, mlp_bias=False),
    "smollm3": _decoder(smollm3_config, SmolLM3),
    "gemma2": _decoder(gemma2_config, Gemma, _GEMMA_RULES, use_bidirectional_attention=False),
    "gemma3_text": _decoder(
        gemma3_config,
        Gemma,
        _GEMMA_RULES,
        use_bidirectional_attention=False,
        attn_logit_softcapping=None,  # transformers' class has the setting, and its code not
    ),  # fmt: skip
    "opt": Family(
        config=opt_config,
        sizes=OPT_SIZES,
        module=OPT,
        rules=_OPT_RULES,
        prefix="model.",
        tied={"lm_head.weight": "model.decoder.embed_tokens.weight"},
        ignored=r"decoder\.version",
        fixed={"quantization_config": None},
    ),
}
"""model_type → family: the one place to add an architecture."""


def family_of(hf_config: Mapping[str, Any]) -> Family:
    """Return the family of a `config.json`.

    Raises:
      ValueError: unknown `model_type`, naming those supported.
    """
    kind = hf_config.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        cure = f"use one of {sorted(FAMILIES)}"
        if kind == "gemma3":
            cure = (
                "it sees images: save the text model inside it, with transformers: "
                "Gemma3ForCausalLM.from_pretrained(FOLDER).save_pretrained(OTHER)"
            )
        raise ValueError(f"{CONFIG}: model_type={shown(kind)} is not supported: {cure}")
    return FAMILIES[kind]


def model_of(hf_config: Mapping[str, Any]) -> LinenLM:
    """Build the model that a `config.json` describes.

    Raises:
      ValueError: unsupported architecture or setting, or an incomplete config.
    """
    family = family_of(hf_config)
    for place in (hf_config, *_rope_objects(hf_config)):
        for name, value in family.fixed.items():
            found = place.get(name)
            if found is not None and found != value:
                raise ValueError(
                    f"{CONFIG}: {name}={shown(found)} is not supported: only {shown(value)} is"
                )
    return LinenLM(family.module(family.config(hf_config)))


def _rope_objects(hf_config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the objects of rotary settings, and those inside them."""
    found = [hf_config.get(name) for name in PLACES]
    for value in found:
        if isinstance(value, Mapping):
            yield value
            found += value.values()


@functools.lru_cache(maxsize=16)
def shapes_of(model: LinenLM) -> Mapping[str, Any]:
    """Return path → `jax.ShapeDtypeStruct` of a model's parameters, paths joined by "/".

    Only one layer is traced, as the others are like it: all of a large model take seconds.
    """
    config: Any = model.config
    one = model.module.clone(config=dataclasses.replace(config, num_layers=1))
    shapes = flatten_dict(dataclasses.replace(model, module=one).param_shapes(), sep="/")
    out = {}
    for path, shape in cast(Mapping[str, Any], shapes).items():
        first, _, rest = path.partition("/")
        layers = range(config.num_layers) if first == "layer_0" else ()
        out |= {f"layer_{i}/{rest}": shape for i in layers} or {path: shape}
    return out
