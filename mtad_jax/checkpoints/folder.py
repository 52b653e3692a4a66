"""Writes our own folders: the one place that does, for conversions and for loaded models."""

from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from mtad_jax.checkpoints.atomic import new_folder
from mtad_jax.checkpoints.hf.params import KeyLayout
from mtad_jax.checkpoints.hf.read import copy_files, copy_side_files
from mtad_jax.checkpoints.hf.write import write_json, write_safetensors
from mtad_jax.checkpoints.lazy import LazyTensor
from mtad_jax.checkpoints.load import FORMAT_VERSION, Metadata

IGNORED = "ignored.safetensors"
"""Where the tensors of a source that hold no weights are kept."""

_MARGIN = 16_000_000  # bytes beside the weights: tokenizer, metadata, file system blocks


def write_folder(
    path: str | Path,
    params: Mapping[str, Any],
    source: Path,
    *,
    config: Mapping[str, Any] | None = None,
    source_dtype: str | None = None,
    layout: KeyLayout | None = None,
    ignored: Mapping[str, LazyTensor] | None = None,
    files: Mapping[str, bytes] | None = None,
    overwrite: bool = False,
) -> Metadata:
    """Write one of our own folders, a tensor at a time.

    Args:
      path: the folder to make; it appears whole or not at all.
      params: the tree, leaves lazy.
      source: the folder, or the file, that the model came from.
      config: the `config.json`; None: the source's, as it is.
      source_dtype: of the weights there; None: as here.
      layout: of the Hugging Face tensors there.
      ignored: the tensors that `layout.ignored` names.
      files: the tokenizer's files, by name; None: the source folder's are copied.
      overwrite: replace a checkpoint at `path`.

    Returns:
      What `metadata.json` says.

    Raises:
      ValueError: an output that may not be written, a tensor that cannot be read, or no source
        folder where its files are to be copied.
      OSError: the output cannot be written.
    """
    from mtad_jax.checkpoints import arrays  # orbax takes long to import

    if files is None and not source.is_dir():  # or the copy would lack them, unnoticed
        raise ValueError(
            f"{source}: no such folder any more, and tokenizer files are copied from there: put "
            "it back, or load the model from where it is now"
        )
    dtype = dtype_name(params)
    metadata = Metadata(
        format_version=FORMAT_VERSION,
        source=source.resolve().name,
        source_dtype=source_dtype or dtype,
        dtype=dtype,
        converter_version=version("mtad-jax"),
        layout=layout or KeyLayout(),
    )
    with new_folder(path, overwrite=overwrite, need_bytes=folder_bytes(params)) as temporary:
        arrays.save(temporary / "params", params)
        if ignored:
            write_safetensors(temporary / IGNORED, ignored)
        if files is None:
            copy_side_files(source, temporary)
        for name, data in (files or {}).items():
            (temporary / name).write_bytes(data)
        if config is None:
            copy_files(source, temporary, ("config.json",))
        else:
            write_json(temporary / "config.json", config)
        write_json(temporary / "metadata.json", asdict(metadata))
    return metadata


def dtype_name(tree: Mapping[str, Any]) -> str:
    """Return the dtype of all weights of a tree, "mixed" if they have several."""
    names = {leaf.dtype.name for leaf in jax.tree.leaves(tree)}
    return names.pop() if len(names) == 1 else "mixed"


def folder_bytes(tree: Mapping[str, Any]) -> int:
    """Return about how many bytes a folder with the weights of a tree takes."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) + _MARGIN
