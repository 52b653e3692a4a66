"""The table of the supported families of Hugging Face models."""

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
from mtad_jax.checkpoints.hf.keys import GEMMA_KEYS, LLAMA_KEYS, OPT_KEYS, KeyRule, inside
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
class Family:
    """A Hugging Face `model_type`.

    Attributes:
      config: reader of the `config.json`.
      sizes: settings that the weights show, and where.
      module: our module for that config.
      rules: a rule for every parameter any member can have.
      prefix: of keys; exports of the bare model lack it.
      tied: key → key that it repeats when the config ties them.
      ignored: pattern of keys, prefix aside, that hold no weights of ours (recomputed buffers,
        version marks, what sees images).
      fixed: settings that our module does not have, with the only value that it can honour.
      inner: the `model_type` of the language model, where the `config.json` is that of a model
        around it, and has the language model's settings in `text_config`.
    """

    config: Callable[[Mapping[str, Any]], LMConfig]
    sizes: Mapping[str, Size]
    module: Callable[[Any], nn.Module]
    rules: tuple[KeyRule, ...]
    prefix: str
    tied: Mapping[str, str]
    ignored: str
    fixed: Mapping[str, Any]
    inner: str | None = None

    def is_buffer(self, key: str) -> bool:
        """Say whether a tensor of that name holds no weights."""
        return re.fullmatch(self.ignored, key.removeprefix(self.prefix)) is not None

    def may_lack(self, key: str) -> bool:
        """Say whether an index may name that key and no shard have it.

        transformers takes such indices. Where a head that may be tied is not, it is missed later.
        """
        return self.is_buffer(key) or key in self.tied


def _decoder(
    config: Callable[[Mapping[str, Any]], LMConfig],
    module: Callable[[Any], nn.Module],
    rules: tuple[KeyRule, ...] = LLAMA_KEYS,
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


def _inside(family: Family, kind: str, ignored: str) -> Family:
    """Return the family of models around a language model of that family and `model_type`."""
    around = "language_model."
    return dataclasses.replace(
        family,
        rules=inside(around, family.rules),
        prefix=around + family.prefix,
        tied={around + key: around + same for key, same in family.tied.items()},
        ignored=ignored,
        inner=kind,
    )


_GEMMA3 = _decoder(
    gemma3_config, Gemma, GEMMA_KEYS, use_bidirectional_attention=False,
    attn_logit_softcapping=None,  # transformers' class has the setting, and its code not
)  # fmt: skip

FAMILIES: Mapping[str, Family] = {
    "llama": _decoder(llama_config, Llama, rope_interleaved=False),
    "qwen2": _decoder(qwen2_config, Qwen, attention_bias=True, mlp_bias=False, use_mrope=False),
    "qwen3": _decoder(qwen3_config, Qwen, mlp_bias=False),
    "mistral": _decoder(mistral_config, Mistral, attention_bias=False, mlp_bias=False),
    "smollm3": _decoder(smollm3_config, SmolLM3),
    "gemma2": _decoder(gemma2_config, Gemma, GEMMA_KEYS, use_bidirectional_attention=False),
    "gemma3_text": _GEMMA3,
    "gemma3": _inside(_GEMMA3, "gemma3_text", r"(vision_tower|multi_modal_projector)\..+"),
    "opt": Family(
        config=opt_config,
        sizes=OPT_SIZES,
        module=OPT,
        rules=OPT_KEYS,
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
        raise ValueError(
            f"{CONFIG}: model_type={shown(kind)} is not supported: use one of {sorted(FAMILIES)}"
        )
    return FAMILIES[kind]


def settings_of(hf_config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the language model's settings of a `config.json`: all, or those inside another's.

    Whether its head is tied is said by the model around it, if it says so.

    Raises:
      ValueError: unknown `model_type`, of either.
    """
    name, tied, inner = "text_config", "tie_word_embeddings", family_of(hf_config).inner
    if inner is None:
        return hf_config
    found = hf_config.get(name)
    if not isinstance(found, Mapping):
        raise ValueError(f"{CONFIG}: {name}={shown(found)} must be the language model's settings")
    kind = found.get("model_type", inner)
    if kind != inner:
        raise ValueError(
            f"{CONFIG}: {name}.model_type={shown(kind)} is not supported: only {shown(inner)} is"
        )
    return {**found, **({tied: hf_config[tied]} if tied in hf_config else {})}


def model_of(hf_config: Mapping[str, Any]) -> LinenLM:
    """Build the model that a `config.json` describes.

    Raises:
      ValueError: unsupported architecture or setting, or an incomplete config.
    """
    family, settings = family_of(hf_config), settings_of(hf_config)
    for place in (hf_config, settings, *_rope_objects(settings)):
        for name, value in family.fixed.items():
            found = place.get(name)
            if found is not None and found != value:
                raise ValueError(
                    f"{CONFIG}: {name}={shown(found)} is not supported: only {shown(value)} is"
                )
    return LinenLM(family.module(family.config(settings)))


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
