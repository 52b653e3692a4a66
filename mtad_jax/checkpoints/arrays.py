"""Parameter trees on disk by orbax, written and read one tensor at a time."""

import asyncio
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
import tensorstore as ts
from flax.traverse_util import flatten_dict, unflatten_dict
from orbax.checkpoint import type_handlers

from mtad_jax.checkpoints.lazy import Index, LazyTensor

# Smaller ones cost memory while writing, larger ones more reads of what others hold.
_CHUNK_BYTES = 4 << 20


class _LazyHandler(type_handlers.NumpyHandler):
    """Saves lazy tensors as numpy arrays, each read and written before the next is read.

    On disk they are ordinary arrays: any orbax checkpointer restores them.
    """

    def __init__(self):
        super().__init__(deepcopy_host_arrays=False)

    async def serialize(
        self,
        values: Sequence[Any],
        infos: Sequence[type_handlers.ParamInfo],
        args: Sequence[type_handlers.SaveArgs] | None = None,
    ) -> Sequence[Any]:
        args = args or [type_handlers.SaveArgs()] * len(values)
        for value, info, arg in zip(values, infos, args, strict=True):
            for written in await super().serialize([value.read()], [info], [arg]):
                await asyncio.to_thread(written.result)
        return []

    def memory_size(self, values: Sequence[Any]) -> Sequence[tuple[int, int]]:
        return [(value.nbytes, value.nbytes) for value in values]


def save(folder: Path, tree: Mapping[str, Any]) -> None:
    """Write a tree of lazy tensors as an orbax checkpoint, holding one of them at a time.

    Uncompressed: weights hardly shrink (8 % in float32), and compressing doubles the memory. In
    chunks, so that a device's part can be read without the rest.

    Raises:
      ValueError: the folder's path has a backslash in it.
      OSError: it cannot be written.
    """
    _check_path(folder)
    registry = type_handlers.create_type_handler_registry(
        (LazyTensor, _LazyHandler()), (jax.Array, type_handlers.ArrayHandler())
    )
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry, use_compression=False)
    with _unlogged(), ocp.Checkpointer(handler) as checkpointer:
        chunks = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=_CHUNK_BYTES), tree)
        with _plain_name(folder.absolute()) as plain:
            checkpointer.save(plain, args=ocp.args.PyTreeSave(tree, save_args=chunks))


@contextmanager
def _plain_name(folder: Path) -> Iterator[Path]:
    """Give a path of the folder without brackets, as orbax globs in what it writes."""
    if "[" not in folder.as_posix():
        yield folder
        return
    with tempfile.TemporaryDirectory() as place:
        link = Path(place, "link")
        link.symlink_to(folder.parent, target_is_directory=True)
        yield link / folder.name


@contextmanager
def _unlogged() -> Iterator[None]:
    """Keep orbax from logging tracebacks of its threads: what they raise, it raises here too."""
    logger = logging.getLogger("absl")

    def mild(record: logging.LogRecord) -> bool:
        return record.levelno < logging.ERROR

    logger.addFilter(mild)
    try:
        yield
    finally:
        logger.removeFilter(mild)


def open_lazy(folder: Path) -> dict[str, Any]:
    """Return a checkpoint's tree with lazy leaves.

    Raises:
      ValueError: it is damaged, or its path has a backslash in it.
    """
    _check_path(folder)
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            metadata = checkpointer.metadata(folder.absolute())
        flat: Any = flatten_dict(metadata.item_metadata.tree)
    except Exception as error:  # whatever orbax, json and tensorstore make of damaged files
        raise _damaged(folder, error) from error
    names = {path: "/".join(path) for path in flat}
    lazy = {
        path: LazyTensor(
            name=f"{folder}: {names[path]}",
            shape=tuple(leaf.shape),
            dtype=leaf.dtype,
            source=lambda index, path=path: _read_part(folder, path, index),
        )
        for path, leaf in flat.items()
    }
    return unflatten_dict(lazy)


def _read_part(folder: Path, path: Sequence[str], index: Index) -> Any:
    """Return a part of an array, of which tensorstore reads the chunks that it touches."""
    store = {
        "driver": "zarr",
        "kvstore": {
            "driver": "ocdbt",
            "base": {"driver": "file", "path": f"{folder.absolute()}/"},
            "path": ".".join(path) + "/",
        },
        "fill_missing_data_reads": False,
    }
    try:
        return ts.open(store, open=True, read=True).result()[index].read().result()
    except Exception as error:  # whatever tensorstore makes of damaged files
        raise _damaged(folder, error) from error


def _check_path(folder: Path) -> None:
    if "\\" in folder.absolute().as_posix():
        raise ValueError(
            f"{folder}: tensorstore cannot open paths with a backslash: use another folder name"
        )


def _damaged(folder: Path, error: Exception) -> ValueError:
    reason = " ".join(str(error).split())[:200]
    return ValueError(f"{folder}: checkpoint is damaged ({reason}): convert it again")
