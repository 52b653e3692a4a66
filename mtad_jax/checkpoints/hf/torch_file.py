"""Reads `pytorch_model.bin`: the only file that needs torch, and imports it when called."""

import zipfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from mtad_jax.checkpoints.lazy import LazyTensor
from mtad_jax.errors import install_hint


def read(file: Path) -> dict[str, LazyTensor]:
    """Open a torch file, mapped into memory, with nothing but tensors unpickled.

    Raises:
      ValueError: torch is not installed, or the file is damaged, of the format before torch 1.6,
        or holds anything but dense tensors by name, of dtypes that numpy has.
    """
    try:
        import torch
    except ImportError as error:
        raise ValueError(
            f"{file}: torch is needed to read .bin weights: {install_hint('convert')}"
        ) from error
    if not zipfile.is_zipfile(file):  # the old format cannot be mapped, nor checked for damage
        raise ValueError(
            f"{file}: truncated, corrupt or older than torch 1.6: download it again or save it "
            "as model.safetensors"
        )
    try:
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises its own and pickle's, KeyError, RuntimeError, ...
        reason = str(error).split("\n")[0][:200]
        raise ValueError(
            f"{file}: cannot be read as plain weights ({type(error).__name__}: {reason}): "
            "use a checkpoint in safetensors"
        ) from error
    if not isinstance(state, dict):
        raise ValueError(f"{file}: holds a {type(state).__name__}, not tensors by name")
    out = {}
    for key, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise ValueError(f"{file}: {key}: holds a {type(value).__name__}, not a tensor")
        out[key] = _wrap(f"{file}: {key}", value)
    return out


def _wrap(name: str, value: Any) -> LazyTensor:
    import torch

    if value.layout != torch.strided or value.is_meta:
        kind = "meta" if value.is_meta else str(value.layout).removeprefix("torch.")
        raise ValueError(f"{name}: holds a {kind} tensor, not a dense one")
    value = value.detach()  # of nn.Parameter
    if value.dtype == torch.bfloat16:  # numpy has none: pass the bits on
        bits = value.view(torch.int16)
        dtype = np.dtype(jnp.bfloat16)
        return LazyTensor(name, tuple(value.shape), dtype, lambda at: bits[at].numpy().view(dtype))
    try:
        dtype = torch.empty(0, dtype=value.dtype).numpy().dtype
    except Exception as error:  # torch raises TypeError, RuntimeError, ... by dtype
        kind = str(value.dtype).removeprefix("torch.")
        raise ValueError(f"{name}: dtype {kind} is not supported: numpy lacks it") from error
    return LazyTensor(name, tuple(value.shape), dtype, lambda at: value[at].numpy())
