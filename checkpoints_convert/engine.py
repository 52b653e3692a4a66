"""Conversions both ways, tensor by tensor, into folders that appear whole or not at all."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from tqdm import tqdm

from checkpoints_convert.gguf_file import open_gguf
from checkpoints_convert.gguf_llama import read_llama
from mtad_jax.checkpoints.atomic import new_folder
from mtad_jax.checkpoints.folder import IGNORED, dtype_name, folder_bytes, write_folder
from mtad_jax.checkpoints.hf.params import to_params, to_tensors
from mtad_jax.checkpoints.hf.read import (
    copy_files,
    copy_side_files,
    inner_file,
    open_folder,
    read_config,
    read_safetensors,
)
from mtad_jax.checkpoints.hf.write import (
    SHARD_BYTES,
    with_dtype,
    write_json,
    write_tensors,
)
from mtad_jax.checkpoints.load import Metadata, open_params, read_metadata

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
"""What the commands can round weights to."""


def from_hf(
    source: str | Path, output: str | Path, *, dtype: Any = None, overwrite: bool = False
) -> Metadata:
    """Convert a Hugging Face folder to our own format.

    Args:
      source: the folder, as downloaded.
      output: the folder to make.
      dtype: what to round the weights to; None: as they are, and the way back is bit-exact.
      overwrite: replace a checkpoint at `output`.

    Raises:
      ValueError: damaged or unsupported source, or an output that may not be written.
      OSError: the output cannot be written.
    """
    source, output = _apart(source, output)
    folder = open_folder(source)
    _, params, layout = to_params(folder.config, folder.tensors)
    target = jax.tree.map(lambda leaf: leaf.astype(dtype).finite(), params)
    with _Progress(target, "from_hf") as ticking:
        return write_folder(
            output,
            ticking,
            source,
            source_dtype=dtype_name(params),
            layout=layout,
            ignored={key: folder.tensors[key] for key in layout.ignored},
            overwrite=overwrite,
        )


def from_gguf(
    source: str | Path, output: str | Path, *, dtype: Any = None, overwrite: bool = False
) -> Metadata:
    """Convert a GGUF file of a Llama to our own format, with its tokenizer and chat template.

    Args:
      source: the file.
      output: the folder to make.
      dtype: what to round the weights to; None: float32, which holds what the file says exactly.
      overwrite: replace a checkpoint at `output`.

    Raises:
      ValueError: damaged or unsupported source, or an output that may not be written.
      OSError: the source cannot be read, or the output not written.
    """
    from checkpoints_convert.gguf_tokenizer import (  # its libraries take long to import
        special_ids,
        tokenizer_files,
    )

    source, output = Path(source).expanduser(), Path(output).expanduser()
    _check_apart(source, output)
    file = open_gguf(source)
    config, tensors = read_llama(file)
    rows = config["vocab_size"]
    files = tokenizer_files(file, rows)
    try:
        _, params, _ = to_params(config, tensors)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    target = jax.tree.map(lambda leaf: leaf.astype(dtype).finite(), params)
    with _Progress(target, "from_gguf") as ticking:
        return write_folder(
            output,
            ticking,
            source,
            config=with_dtype(config | special_ids(file, rows), dtype_name(target)),
            source_dtype=", ".join(file.kinds),
            files=files,
            overwrite=overwrite,
        )


def to_hf(
    source: str | Path,
    output: str | Path,
    *,
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> Metadata:
    """Convert one of our folders back to Hugging Face's format.

    Keys and bytes are those of the original, unless `from_hf` changed the dtype.

    Args:
      source: a folder that `from_hf` wrote.
      output: the folder to make.
      overwrite: replace a checkpoint at `output`.
      shard_bytes: most bytes in one safetensors file.

    Raises:
      ValueError: damaged source, or an output that may not be written.
      OSError: the output cannot be written.
    """
    source, output = _apart(source, output)
    metadata, config = read_metadata(source), read_config(source)
    layout, ignored = metadata.layout, {}
    if layout.ignored:
        file = inner_file(source, IGNORED)
        ignored = {} if file is None else read_safetensors(file)
        if ignored.keys() != set(layout.ignored):
            raise ValueError(f"{source / IGNORED}: missing or incomplete: convert again")
    params = jax.tree.map(lambda leaf: leaf.finite(), open_params(source))
    tensors = to_tensors(config, params, layout, ignored)
    with new_folder(output, overwrite=overwrite, need_bytes=folder_bytes(tensors)) as temporary:
        with _Progress(tensors, "to_hf") as ticking:
            write_tensors(temporary, ticking, shard_bytes)
        copy_side_files(source, temporary)
        if metadata.dtype in ("mixed", metadata.source_dtype):
            copy_files(source, temporary, ("config.json",))
        else:
            write_json(temporary / "config.json", with_dtype(config, metadata.dtype))
    return metadata


class _Progress:
    """A bar with one step a tensor, on a terminal only."""

    def __init__(self, tree: Mapping[str, Any], title: str):
        count = len(jax.tree.leaves(tree))
        self._tree = tree
        self._bar = tqdm(total=count, desc=title, unit="tensor", disable=None)

    def __enter__(self) -> dict[str, Any]:
        return jax.tree.map(lambda leaf: leaf.each(self._bar.update), dict(self._tree))

    def __exit__(self, *_: Any) -> None:
        self._bar.close()


def _apart(source: str | Path, output: str | Path) -> tuple[Path, Path]:
    """Refuse an output that replacing or clearing would take the source along."""
    source, output = Path(source).expanduser(), Path(output).expanduser()
    if not source.is_dir():
        raise ValueError(f"{source}: no such folder")
    _check_apart(source, output)
    return source, output


def _check_apart(source: Path, output: Path) -> None:
    a, b = source.resolve(), output.resolve()
    if a.is_relative_to(b) or b.is_relative_to(a):
        raise ValueError(f"{output}: output and source {source} overlap: use another name")
