"""A Llama in a GGUF file: its settings and tensors under Hugging Face's names.

llama.cpp turns neighbouring dimensions of a head together, Hugging Face the two halves of it, so
that the file has the rows of queries and keys in another order.

Source: llama.cpp's `convert_hf_to_gguf.py` (LlamaModel.permute, generate_extra_tensors) and its
`llama-model.cpp`.
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from checkpoints_convert.gguf_file import GGUFFile
from mtad_jax.checkpoints.hf.configs import LLAMA_FIELDS, llama_json
from mtad_jax.checkpoints.hf.rope import FACTOR, THETA
from mtad_jax.checkpoints.lazy import Index, LazyTensor
from mtad_jax.json_file import REQUIRED, Field, choice, read_fields, shown
from mtad_jax.models.llama import LlamaConfig
from mtad_jax.models.rope import RopeScaling, rope_frequencies

ARCHITECTURE = "llama"
_ROPE_TENSOR = "rope_freqs.weight"
_HEAD = LLAMA_FIELDS["head_dim"]
_LENGTH = LLAMA_FIELDS["max_position_embeddings"]

_FIELDS: Mapping[str, Field] = {
    "block_count": LLAMA_FIELDS["num_hidden_layers"],
    "context_length": replace(_LENGTH, default=REQUIRED),
    "embedding_length": LLAMA_FIELDS["hidden_size"],
    "feed_forward_length": LLAMA_FIELDS["intermediate_size"],
    "attention.head_count": LLAMA_FIELDS["num_attention_heads"],
    "attention.head_count_kv": LLAMA_FIELDS["num_key_value_heads"],
    "attention.layer_norm_rms_epsilon": replace(LLAMA_FIELDS["rms_norm_eps"], default=REQUIRED),
    "attention.key_length": _HEAD,
    "attention.value_length": _HEAD,
    "vocab_size": replace(LLAMA_FIELDS["vocab_size"], default=None),
    "rope.dimension_count": _HEAD,
    "rope.freq_base": THETA,
    "rope.scaling.type": choice(("none", "linear"), "linear"),
    "rope.scaling.factor": replace(FACTOR, default=None),
    "rope.scale_linear": replace(FACTOR, default=None),  # the older name
    "rope.scaling.original_context_length": replace(_LENGTH, default=8192),
}
"""Settings that are read, all beginning with "llama."."""

_FIXED: Mapping[str, Any] = {
    "expert_count": 0,
    "expert_used_count": 0,
    "attention.causal": True,
    "tensor_data_layout": "Meta AI original pth",
}
"""Settings with the only value that our module can honour."""

_NOTES = {"rope.scaling.finetuned"}  # say nothing of what is computed

_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def read_llama(file: GGUFFile) -> tuple[dict[str, Any], dict[str, LazyTensor]]:
    """Return the `config.json`, and the tensors by Hugging Face's keys.

    Raises:
      ValueError: another architecture, a setting that is missing, out of range or not supported, or
        a tensor that no Llama has.
    """
    kind = file.metadata.get("general.architecture")
    if kind != ARCHITECTURE:
        raise ValueError(
            f"{file.path}: general.architecture={shown(kind)} is not supported: only "
            f"{ARCHITECTURE} is"
        )
    config = _read_config(file)
    heads = {"attn_q": config.num_heads, "attn_k": config.num_kv_heads}
    tensors = {}
    for name, tensor in file.tensors.items():
        if name != _ROPE_TENSOR:
            key, part = _key(file, name)
            tensors[key] = _unpermuted(tensor, heads[part]) if part in heads else tensor
    return llama_json(config), tensors


def _read_config(file: GGUFFile) -> LlamaConfig:
    given = {
        key.removeprefix(f"{ARCHITECTURE}."): value
        for key, value in file.metadata.items()
        if key.startswith(f"{ARCHITECTURE}.")
    }
    for key, value in given.items():
        if key in _FIXED and value != _FIXED[key]:
            raise ValueError(
                f"{file.path}: {ARCHITECTURE}.{key}={shown(value)} is not supported: only "
                f"{shown(_FIXED[key])} is"
            )
        if key not in _FIELDS and key not in _FIXED and key not in _NOTES:
            raise ValueError(
                f"{file.path}: {ARCHITECTURE}.{key}={shown(value)} is not supported: what it "
                "changes would be left out"
            )
    fields = {f"{ARCHITECTURE}.{key}": field for key, field in _FIELDS.items()}
    found = read_fields(str(file.path), file.metadata, fields)
    s = {key.removeprefix(f"{ARCHITECTURE}."): value for key, value in found.items()}
    head_dim = _head_dim(file, s)
    biased = {name.split(".")[-2] for name in file.tensors if name.endswith(".bias")}
    return LlamaConfig(
        vocab_size=_rows(file, s["vocab_size"]),
        embed_dim=s["embedding_length"],
        mlp_dim=s["feed_forward_length"],
        num_layers=s["block_count"],
        num_heads=s["attention.head_count"],
        num_kv_heads=s["attention.head_count_kv"] or s["attention.head_count"],
        head_dim=head_dim,
        max_positions=s["context_length"],
        norm_eps=s["attention.layer_norm_rms_epsilon"],
        rope_theta=s["rope.freq_base"],
        rope_scaling=_rope_scaling(file, s, head_dim),
        tied_head="output.weight" not in file.tensors,
        attention_bias=any(part.startswith("attn") for part in biased),
        mlp_bias=any(part.startswith("ffn") for part in biased),
    )


def _head_dim(file: GGUFFile, settings: Mapping[str, Any]) -> int:
    """Return the size of all heads, which positions turn whole."""
    keys = ("attention.key_length", "attention.value_length", "rope.dimension_count")
    width, heads = settings["embedding_length"], settings["attention.head_count"]
    size = settings[keys[0]] or max(1, width // heads)
    for key in keys[1:]:
        if settings[key] not in (None, size):
            raise ValueError(
                f"{file.path}: {ARCHITECTURE}.{key}={settings[key]} is not supported: only {size}, "
                "the size of a head, is"
            )
    return size


def _rows(file: GGUFFile, vocab_size: int | None) -> int:
    """Return the embedding's rows; the tokens of the tokenizer may be fewer."""
    table = file.tensors.get("token_embd.weight")
    if table is None or len(table.shape) != 2:
        raise ValueError(f"{file.path}: no matrix token_embd.weight in it: not a whole model")
    rows = table.shape[0]
    if vocab_size not in (None, rows):
        raise ValueError(
            f"{file.path}: {ARCHITECTURE}.vocab_size={vocab_size}, but it is {rows} by {table.name}"
        )
    return rows


def _rope_scaling(file: GGUFFile, settings: Mapping[str, Any], size: int) -> RopeScaling | None:
    """Return how positions are stretched: as the settings say, or as the tensor of Llama 3.1 does.

    Raises:
      ValueError: both do, or the tensor has other numbers.
    """
    linear = settings["rope.scaling.factor"] or settings["rope.scale_linear"] or 1.0
    linear = 1.0 if settings["rope.scaling.type"] == "none" else float(linear)
    tensor = file.tensors.get(_ROPE_TENSOR)
    divisors = np.ones(size // 2) if tensor is None else tensor.read().ravel()
    if (divisors == 1.0).all():
        return RopeScaling("linear", linear) if linear != 1.0 else None
    assert tensor is not None
    if linear != 1.0:
        raise ValueError(
            f"{tensor.name}: is not supported beside {ARCHITECTURE}.rope.scaling.factor={linear:g}"
        )
    # The numbers that made the tensor are in no metadata; Llama 3.1, 3.2 and 3.3 share all but one.
    length = settings["rope.scaling.original_context_length"]
    scaling = RopeScaling("llama3", float(divisors.max()), 1.0, 4.0, length)
    theta = float(settings["rope.freq_base"])
    plain, scaled = (np.asarray(rope_frequencies(size, theta, how)) for how in (None, scaling))
    if divisors.shape != plain.shape or not np.allclose(divisors * scaled, plain, rtol=1e-4):
        raise ValueError(
            f"{tensor.name}: is not supported: it is not Llama 3.1's with low_freq_factor=1, "
            f"high_freq_factor=4 and original_max_position_embeddings={length}"
        )
    return scaling


def _key(file: GGUFFile, name: str) -> tuple[str, str]:
    """Return Hugging Face's key of a tensor, and which part of a model it is."""
    match = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", name)
    number, part, kind = match.groups() if match else (None, "", "")
    known = _NAMES if number is None else _LAYER_NAMES
    if part not in known:
        raise ValueError(f"{file.path}: tensor {name} is not supported: no plain Llama has it")
    prefix = "" if number is None else f"model.layers.{number}."
    return f"{prefix}{known[part]}.{kind}", part


def _unpermuted(tensor: LazyTensor, heads: int) -> LazyTensor:
    """Return queries or keys with each head's two halves apart again, as torch has them."""

    def read(index: Index) -> np.ndarray:
        rows = tensor.read().reshape(heads, -1, 2, *tensor.shape[1:])
        return rows.swapaxes(1, 2).reshape(tensor.shape)[index]

    return dataclasses.replace(tensor, source=read)
