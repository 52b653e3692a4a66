"""Writes a loaded model as one of our own folders."""

from pathlib import Path
from typing import Any

import jax
from jax.sharding import PartitionSpec

from mtad_jax.checkpoints.folder import dtype_name, write_folder
from mtad_jax.checkpoints.hf.write import with_dtype
from mtad_jax.checkpoints.lazy import WEIGHT_DTYPES, LazyTensor, from_array
from mtad_jax.checkpoints.load import LoadedModel
from mtad_jax.devices.sharding import is_spec
from mtad_jax.models.linen import LinenLM


def save(loaded: LoadedModel, path: str | Path, *, overwrite: bool = False) -> None:
    """Write a model that `load` opened as one of our own folders, whatever it lies on.

    One tensor at a time is on the host. The folder says nothing of the mesh: key/value heads that
    a mesh repeats are written once. Tokenizer files come from the folder that was loaded.

    Args:
      loaded: the model; its parameters may have changed since, its config not.
      path: the folder to make; it appears whole or not at all.
      overwrite: replace a checkpoint at `path`.

    Raises:
      ValueError: an output that may not be written, parameters that are no floats or infinite, or
        that other processes hold, or the folder that was loaded is gone.
      TypeError: it is no `LoadedModel`.
      OSError: the output cannot be written.
    """
    if not isinstance(loaded, LoadedModel):
        raise TypeError(
            f"loaded is a {type(loaded).__name__}, not a LoadedModel: write save(loaded, path) and "
            "put other parameters in by dataclasses.replace(loaded, lm=lm)"
        )
    params = _stored(loaded)
    dtype = dtype_name(params)
    config = loaded.config if dtype == "mixed" else with_dtype(loaded.config, dtype)
    write_folder(path, params, loaded.folder, config=config, overwrite=overwrite)


def _stored(loaded: LoadedModel) -> dict[str, Any]:
    """Return the parameters, leaves lazy, as they are on disk."""
    model = loaded.lm.model
    assert isinstance(model, LinenLM)  # `load` makes no other
    for leaf in jax.tree.leaves(loaded.lm.params):
        if leaf.dtype not in WEIGHT_DTYPES:
            raise ValueError(f"params of dtype {leaf.dtype} are no floats: save before quantizing")
        if not leaf.is_fully_addressable:
            raise ValueError(
                f"params lie on the devices of {jax.process_count()} processes: save them from "
                "one process, or convert the checkpoint with checkpoints_convert"
            )

    def store(axes: PartitionSpec, leaf: jax.Array) -> LazyTensor:
        lazy = from_array(leaf)
        if "kv_heads" in axes:
            lazy = lazy.thinned(model.kv_repeat, model.config.head_dim)
        return lazy.finite()

    return jax.tree.map(store, model.param_axes(), loaded.lm.params, is_leaf=is_spec)
