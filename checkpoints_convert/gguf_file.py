"""Opens GGUF files: metadata as plain values, tensors lazy and dequantized to float32.

Source: the specification, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mtad_jax.checkpoints.lazy import Index, LazyTensor
from mtad_jax.errors import install_hint, one_line

_MAGIC = b"GGUF"


@dataclass(frozen=True)
class GGUFFile:
    """An opened file.

    Attributes:
      path: the file.
      metadata: numbers, texts, switches, and lists of them, by key.
      tensors: float32, by name, each read when asked for; dimensions as torch orders them.
      kinds: the types that the file stores its tensors in, such as "Q4_1".
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, LazyTensor]
    kinds: tuple[str, ...]


def open_gguf(path: str | Path) -> GGUFFile:
    """Open a GGUF file without reading its weights, which stay mapped.

    Raises:
      ValueError: the `gguf` package is missing; the file is none of these, truncated, corrupt, one
        of several parts, no model, or of another byte order; a tensor's type cannot be read.
      OSError: the file cannot be opened.
    """
    path = Path(path).expanduser()
    gguf = _library(path)
    _check_magic(path)
    try:
        reader = gguf.GGUFReader(path)
        metadata = {name: field.contents() for name, field in reader.fields.items()}
    except Exception as error:  # of what is cut short numpy and the library raise many kinds
        reason = one_line(error)[:200]
        raise ValueError(
            f"{path}: truncated or corrupt GGUF file ({reason}): download it again"
        ) from error
    if reader.byte_order != "I":
        raise ValueError(f"{path}: written in the other byte order: convert it with gguf's tools")
    _check_whole_model(path, metadata)
    tensors = {tensor.name: _lazy(path, tensor, gguf.dequantize) for tensor in reader.tensors}
    kinds = sorted({tensor.tensor_type.name for tensor in reader.tensors})
    return GGUFFile(path, metadata, tensors, tuple(kinds))


def _library(path: Path) -> Any:
    try:
        import gguf
    except ImportError as error:
        raise ValueError(f"{path}: gguf is needed to read it: {install_hint('gguf')}") from error
    return gguf


def _check_magic(path: Path) -> None:
    if path.is_dir():
        raise ValueError(f"{path}: is a folder: give the .gguf file in it")
    with path.open("rb") as opened:
        start = opened.read(len(_MAGIC))
    if start != _MAGIC:
        raise ValueError(f"{path}: not a GGUF file: it begins with {start!r}, not {_MAGIC!r}")


def _check_whole_model(path: Path, metadata: Mapping[str, Any]) -> None:
    parts = metadata.get("split.count", 0)
    if parts not in (0, 1):
        raise ValueError(
            f"{path}: one of {parts} parts: merge them first, with llama-gguf-split --merge"
        )
    kind = metadata.get("general.type", "model")
    if kind != "model":
        raise ValueError(f"{path}: general.type={kind!r} is not supported: only a whole model is")


def _lazy(path: Path, tensor: Any, dequantize: Any) -> LazyTensor:
    """Return a tensor of the reader's; a part of it takes a read of the whole.

    Raises:
      ValueError: the library cannot dequantize it.
    """
    name, kind, data = f"{path}: {tensor.name}", tensor.tensor_type, tensor.data
    shape = tuple(int(size) for size in reversed(tensor.shape))
    try:
        dequantize(data.reshape(-1, data.shape[-1])[:1], kind)
    except Exception as error:  # NotImplementedError; numpy's of a tensor of nothing
        raise ValueError(f"{name}: type {kind.name} is not supported: {one_line(error)}") from error

    def read(index: Index) -> np.ndarray:
        return dequantize(data, kind).reshape(shape)[index]

    return LazyTensor(name, shape, np.dtype(np.float32), read)
