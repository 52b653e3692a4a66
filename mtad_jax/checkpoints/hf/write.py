"""Writes a Hugging Face folder: safetensors, tensor by tensor, and `config.json`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import jax
import numpy as np

from mtad_jax.checkpoints.hf.params import KeyLayout, to_tensors
from mtad_jax.checkpoints.lazy import SAFETENSORS_DTYPES, LazyTensor, from_array

SHARD_BYTES = 5_000_000_000  # transformers' own default before version 5

_NAMES = {np.dtype(dtype): name for name, dtype in SAFETENSORS_DTYPES.items()}


def write_hf(
    folder: str | Path, params: Mapping[str, Any], hf_config: Mapping[str, Any], dtype: Any = None
) -> None:
    """Write a parameter tree as a Hugging Face folder that transformers opens.

    Weights first, `config.json` last: a folder whose writing was cut short does not load.

    Args:
      folder: created if it does not exist.
      params: tree of jax or numpy arrays, of the model that `hf_config` describes.
      hf_config: the `config.json`; its dtype setting is adjusted to the weights'.
      dtype: what to round the weights to; None: as they are.

    Raises:
      ValueError: config and parameters do not match.
      OSError: the folder cannot be written.
    """
    lazy = jax.tree.map(lambda leaf: from_array(leaf).astype(dtype), params)
    tensors = to_tensors(hf_config, lazy, KeyLayout(), {})
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder, tensors)
    kinds = {tensor.dtype.name for tensor in tensors.values()}
    config = with_dtype(hf_config, kinds.pop()) if len(kinds) == 1 else dict(hf_config)
    write_json(folder / "config.json", config)


def write_tensors(
    folder: Path, tensors: Mapping[str, LazyTensor], shard_bytes: int = SHARD_BYTES
) -> None:
    """Write tensors to `model.safetensors`, or to shards and an index where one is not enough."""
    shards: list[dict[str, LazyTensor]] = [{}]
    used = 0
    for key, tensor in sorted(tensors.items()):
        if used and used + tensor.nbytes > shard_bytes:
            shards.append({})
            used = 0
        shards[-1][key] = tensor
        used += tensor.nbytes
    if len(shards) == 1:
        write_safetensors(folder / "model.safetensors", shards[0])
        return
    where = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_safetensors(folder / name, shard)
        where |= dict.fromkeys(shard, name)
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
    write_json(folder / "model.safetensors.index.json", index)


def write_safetensors(file: Path, tensors: Mapping[str, LazyTensor]) -> None:
    """Write one safetensors file, a tensor at a time.

    The library can only write what is in memory as a whole. Order and padding are the library's,
    so that equal tensors give equal files.

    Source: https://github.com/huggingface/safetensors#format
    """
    order = sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers asks for it
    end = 0
    for key, tensor in order:
        begin, end = end, end + tensor.nbytes
        kind, shape = _NAMES[tensor.dtype], list(tensor.shape)
        header[key] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in order:
            _write_array(out, tensor)


def _write_array(out: BinaryIO, tensor: LazyTensor) -> None:
    array = tensor.read()
    if (array.shape, array.dtype) != (tensor.shape, tensor.dtype):
        raise ValueError(f"{tensor.name}: read {array.dtype}{array.shape}, announced otherwise")
    out.write(array.reshape(-1).view(np.uint8).data)


def with_dtype(hf_config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the config with its dtype setting, of either spelling, set to `name`."""
    keys = [key for key in ("dtype", "torch_dtype") if key in hf_config]
    return {**hf_config, **dict.fromkeys(keys or ["torch_dtype"], name)}


def write_json(file: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON file as Hugging Face formats it."""
    file.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")
