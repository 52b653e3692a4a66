"""Tiny GGUF files of random Llamas, as llama.cpp's converter writes them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from hf_folders import random_tensors

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
HF = {
    "model_type": "llama",
    "vocab_size": 40,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 5000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}
_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def settings(hf: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of a model."""
    return {
        "general.name": "tiny",
        "llama.block_count": hf["num_hidden_layers"],
        "llama.context_length": hf["max_position_embeddings"],
        "llama.embedding_length": hf["hidden_size"],
        "llama.feed_forward_length": hf["intermediate_size"],
        "llama.attention.head_count": hf["num_attention_heads"],
        "llama.attention.head_count_kv": hf["num_key_value_heads"],
        "llama.attention.layer_norm_rms_epsilon": hf["rms_norm_eps"],
        "llama.rope.freq_base": hf["rope_theta"],
        "llama.rope.dimension_count": hf["head_dim"],
        "llama.attention.key_length": hf["head_dim"],
        "llama.attention.value_length": hf["head_dim"],
        "llama.vocab_size": hf["vocab_size"],
    }


def tensors(hf: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return Hugging Face tensors under llama.cpp's names, queries and keys in its order."""
    heads = {"q_proj": hf["num_attention_heads"], "k_proj": hf["num_key_value_heads"]}
    out = {}
    for key, array in weights.items():
        stem, _, kind = key.rpartition(".")
        prefix = ""
        if stem.startswith("model.layers."):
            number, _, stem = stem.removeprefix("model.layers.").partition(".")
            prefix = f"blk.{number}."
        count = heads.get(stem.rpartition(".")[2])
        if count:  # LlamaModel.permute of llama.cpp's converter
            halves = array.reshape(count, 2, array.shape[0] // count // 2, *array.shape[1:])
            array = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(array.shape)
        out[f"{prefix}{_NAMES[stem]}.{kind}"] = array
    return out


def small_weights(hf: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return random Hugging Face tensors with which logits are of ordinary size."""
    return {key: 0.2 * array for key, array in random_tensors(hf).items()}


def blocks(rng: np.random.Generator, shape: tuple[int, ...], kind: Any) -> np.ndarray:
    """Return random blocks of a type that the library cannot quantize to: bytes with small scales.

    A block begins (Q4_K: with two) or ends (Q6_K: with one) with scales in float16.
    """
    size, width = gguf.GGML_QUANT_SIZES[kind]
    out = rng.integers(0, 256, (*shape[:-1], shape[-1] // size, width), dtype=np.uint8)
    name = gguf.GGMLQuantizationType(kind).name
    places = {"Q4_K": (0, 2), "Q6_K": (width - 2,)}[name]
    for place in places:
        scales = rng.uniform(1e-4, 4e-4, out.shape[:-1]).astype(np.float16)
        out[..., place : place + 2] = scales[..., None].view(np.uint8)
    return out.reshape(*shape[:-1], -1)


def write(
    path: Path,
    metadata: Mapping[str, Any],
    weights: Mapping[str, np.ndarray],
    kind: str = "F32",
    architecture: str = "llama",
) -> Path:
    """Write a file; matrices are of type `kind`, the other tensors float32."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in metadata.items():
        if value is not None:
            _add(writer, key, value)
    rng, wanted = np.random.default_rng(0), gguf.GGMLQuantizationType[kind]
    for name, array in weights.items():
        if array.ndim < 2 or kind == "F32":
            writer.add_tensor(name, array.astype(np.float32))
        elif kind in ("Q4_K", "Q6_K"):
            writer.add_tensor(name, blocks(rng, array.shape, wanted), raw_dtype=wanted)
        else:
            writer.add_tensor(name, gguf.quantize(array, wanted), raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: Any, key: str, value: Any) -> None:
    adders = {
        bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32,
        str: writer.add_string, list: writer.add_array,
    }  # fmt: skip
    adders[type(value)](key, value)


def byte_level(spec: Mapping[str, Any], pre: str, **more: Any) -> dict[str, Any]:
    """Return the metadata of a byte-level tokenizer, of what its `tokenizer.json` holds."""
    ids = spec["model"]["vocab"] | {t["content"]: t["id"] for t in spec["added_tokens"]}
    added = {t["content"]: CONTROL if t["special"] else USER_DEFINED for t in spec["added_tokens"]}
    tokens = sorted(ids, key=ids.__getitem__)
    merges = [m if isinstance(m, str) else " ".join(m) for m in spec["model"]["merges"]]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [added.get(token, NORMAL) for token in tokens],
        "tokenizer.ggml.merges": merges,
    } | {f"tokenizer.ggml.{key}": value for key, value in more.items()}


def scored(model: Any, **more: Any) -> dict[str, Any]:
    """Return the metadata of a sentencepiece model."""
    kinds = [
        UNKNOWN if model.is_unknown(i) else CONTROL if model.is_control(i)
        else BYTE if model.is_byte(i) else UNUSED if model.is_unused(i) else NORMAL
        for i in range(model.vocab_size())
    ]  # fmt: skip
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [model.id_to_piece(i) for i in range(model.vocab_size())],
        "tokenizer.ggml.scores": [float(model.get_score(i)) for i in range(model.vocab_size())],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.bos_token_id": model.bos_id(),
        "tokenizer.ggml.eos_token_id": model.eos_id(),
        "tokenizer.ggml.unknown_token_id": model.unk_id(),
    } | {f"tokenizer.ggml.{key}": value for key, value in more.items()}
