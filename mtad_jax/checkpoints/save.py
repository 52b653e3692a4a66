"""Writes a loaded model as one of our own folders."""

from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from jax.sharding import PartitionSpec

from mtad_jax.checkpoints.atomic import new_folder
from mtad_jax.checkpoints.hf.params import KeyLayout
from mtad_jax.checkpoints.hf.read import SIDE_FILES, copy_files
from mtad_jax.checkpoints.hf.write import with_dtype, write_json
from mtad_jax.checkpoints.lazy import WEIGHT_DTYPES, LazyTensor, from_array
from mtad_jax.checkpoints.load import FORMAT_VERSION, LoadedModel, Metadata
from mtad_jax.devices.sharding import is_spec
from mtad_jax.models.linen import LinenLM

_MARGIN = 16_000_000  # bytes beside the weights: tokenizer, metadata, file system blocks


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
        that other processes hold.
      TypeError: it is no `LoadedModel`.
      OSError: the output cannot be written.
    """
    from mtad_jax.checkpoints import arrays  # orbax takes long to import

    if not isinstance(loaded, LoadedModel):
        raise TypeError(
            f"loaded is a {type(loaded).__name__}, not a LoadedModel: write save(loaded, path) and "
            "put other parameters in by dataclasses.replace(loaded, lm=lm)"
        )
    params = _stored(loaded)
    dtype = dtype_name(params)
    metadata = Metadata(
        format_version=FORMAT_VERSION,
        source=loaded.folder.resolve().name,
        source_dtype=dtype,
        dtype=dtype,
        converter_version=version("mtad-jax"),
        layout=KeyLayout(),
    )
    config = loaded.config if dtype == "mixed" else with_dtype(loaded.config, dtype)
    with new_folder(path, overwrite=overwrite, need_bytes=folder_bytes(params)) as temporary:
        arrays.save(temporary / "params", params)
        copy_files(loaded.folder, temporary, SIDE_FILES)
        write_json(temporary / "config.json", config)
        write_json(temporary / "metadata.json", asdict(metadata))


def dtype_name(tree: Mapping[str, Any]) -> str:
    """Return the dtype of all weights of a tree, "mixed" if they have several."""
    names = {leaf.dtype.name for leaf in jax.tree.leaves(tree)}
    return names.pop() if len(names) == 1 else "mixed"


def folder_bytes(tree: Mapping[str, Any]) -> int:
    """Return about how many bytes a folder with the weights of a tree takes."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) + _MARGIN


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
