"""Reads a Hugging Face folder: config, and weights as lazy tensors. Trusts nothing in it."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from mtad_jax.checkpoints.hf import torch_file
from mtad_jax.checkpoints.hf.families import Family, family_of
from mtad_jax.checkpoints.lazy import SAFETENSORS_DTYPES, Index, LazyTensor
from mtad_jax.json_file import read_object
from mtad_jax.text.chat import TEMPLATE_FILE, TEMPLATE_FOLDER

SIDE_FILES = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    TEMPLATE_FILE,
)
"""Files besides weights and `config.json` that a conversion takes along where they exist.

So it does with further chat templates: `copy_side_files`.
"""

_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class HFFolder:
    """An opened folder.

    Attributes:
      path: the folder.
      config: its `config.json`.
      tensors: by key, each read when asked for.
    """

    path: Path
    config: dict[str, Any]
    tensors: Mapping[str, LazyTensor]


def open_folder(path: str | Path) -> HFFolder:
    """Open a Hugging Face folder without reading its weights.

    Raises:
      ValueError: no config or weights, a damaged or missing file, a key in two files, or a file
        outside the folder. One line, naming the file.
    """
    path = Path(path).expanduser()
    config = read_config(path)
    return HFFolder(path, config, _read_weights(path, family_of(config)))


def read_config(folder: Path) -> dict[str, Any]:
    """Return a folder's `config.json`.

    Raises:
      ValueError: as `read_json`; there is none, or an adapter lies beside it.
    """
    adapter = read_json(folder, "adapter_config.json")
    if adapter is not None:
        base = str(adapter.get("base_model_name_or_path"))[:80]
        raise ValueError(
            f"{folder / 'adapter_config.json'}: an adapter (of {base}) is not supported, and its "
            "weights would be left out: merge it into the base model with peft's "
            "merge_and_unload() and save that, or take this file away for the base model alone"
        )
    config = read_json(folder, "config.json")
    if config is None:
        raise ValueError(f"{folder}: no config.json: give a whole checkpoint folder")
    return config


def inner_file(folder: Path, name: str) -> Path | None:
    """Return the path of a file directly in a checkpoint folder, None if it is not there.

    A checkpoint may come from anywhere, so that neither its index nor its links may lead out of
    it. The Hub's cache links `models--x/snapshots/y/file` to `models--x/blobs/z`: for a folder
    below `snapshots`, `models--x` is the bound.

    Raises:
      ValueError: the name has a directory in it, a link leads out, or the file is a Git LFS
        pointer.
    """
    if name in ("", ".", "..") or "/" in name or "\\" in name:
        raise ValueError(f"{folder}: file name {name!r} must not lead to another folder")
    file = folder / name
    target = _inner_target(file, _bound(folder))
    if file.is_symlink() and not target.exists():
        raise ValueError(f"{file}: links to a missing file: download it again")
    if not target.is_file():
        return None
    _check_pointer(file)
    return file


def inner_folder(folder: Path, name: str) -> Path:
    """Return the path of a folder in a checkpoint folder, there or not, like `inner_file`.

    Raises:
      ValueError: it is a link that leads out, anything under it is, or a file under it is a Git
        LFS pointer.
    """
    root = _bound(folder)
    left, seen = [folder / name], set()
    while left:
        path = left.pop()
        target = _inner_target(path, root)
        if target.is_dir() and target not in seen:  # links may go in circles
            seen.add(target)
            left += sorted(path.iterdir())
        elif target.is_file():
            _check_pointer(path)
    return folder / name


def _bound(folder: Path) -> Path:
    root = folder.resolve()
    for parent in root.parents:
        if parent.name == "snapshots" and parent.parent.name.startswith("models--"):
            return parent.parent
    return root


def _check_pointer(file: Path) -> None:
    with file.open("rb") as opened:
        start = opened.read(len(_LFS_POINTER))
    if start == _LFS_POINTER:
        raise ValueError(
            f"{file}: is a Git LFS pointer, not the file itself: run `git lfs pull` where it was "
            "cloned, or download it"
        )


def _inner_target(path: Path, root: Path) -> Path:
    target = Path(os.path.realpath(path))
    if not target.is_relative_to(root):
        raise ValueError(f"{path}: links to {target}, outside of {root}: copy the file instead")
    return target


def copy_files(source: Path, output: Path, names: Sequence[str]) -> None:
    """Copy those of the files that a checkpoint folder has.

    Raises:
      ValueError: as `inner_file`.
    """
    for name in names:
        file = inner_file(source, name)
        if file is not None:
            shutil.copyfile(file, output / name)


def check_side_files(folder: Path) -> None:
    """Check links among files that are not read by this module.

    Raises:
      ValueError: as `inner_file`.
    """
    for name in SIDE_FILES:
        inner_file(folder, name)
    inner_folder(folder, TEMPLATE_FOLDER)


def copy_side_files(source: Path, output: Path) -> None:
    """Copy what a checkpoint folder has besides weights and `config.json`.

    Raises:
      ValueError: as `inner_file`.
    """
    copy_files(source, output, SIDE_FILES)
    templates = sorted(inner_folder(source, TEMPLATE_FOLDER).glob("*.jinja"))
    if templates:
        (output / TEMPLATE_FOLDER).mkdir()
    for file in templates:
        shutil.copyfile(file, output / TEMPLATE_FOLDER / file.name)


def read_json(folder: Path, name: str) -> dict[str, Any] | None:
    """Return a JSON object from the folder, None if there is no such file.

    Raises:
      ValueError: not JSON, not an object, or a key twice.
    """
    file = inner_file(folder, name)
    return None if file is None else read_object(file)


def _read_weights(folder: Path, family: Family) -> dict[str, LazyTensor]:
    """Open all weight files, in transformers' order.

    Safetensors before torch files, one file before shards by an index (a run that was saved over
    a sharded one leaves the old index behind), and shards without an index last.
    """
    kinds: tuple[tuple[str, str, str, Callable[[Path], dict[str, LazyTensor]]], ...] = (
        (
            "model.safetensors",
            "model-*.safetensors",
            "model.safetensors.index.json",
            read_safetensors,
        ),
        (
            "pytorch_model.bin",
            "pytorch_model-*.bin",
            "pytorch_model.bin.index.json",
            torch_file.read,
        ),
    )
    for single, _, index, reader in kinds:
        file = inner_file(folder, single)
        if file is not None:
            return reader(file)
        table = read_json(folder, index)
        if table is not None:
            return _read_shards(folder, index, table, reader, family)
    for _, shards, _, reader in kinds:
        names = sorted(found.name for found in folder.glob(shards))
        if names:
            return _merge(folder, names, reader, family)[0]
    raise ValueError(f"{folder}: no weights: {kinds[0][0]} or {kinds[1][0]} (or shards) expected")


def _read_shards(
    folder: Path, index: str, table: dict[str, Any], reader: Callable, family: Family
) -> dict[str, LazyTensor]:
    """Open the shards of an index and check that each weight is where the index says."""
    where = table.get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(name, str) for name in where.values()):
        raise ValueError(f"{folder / index}: weight_map must map keys to file names")
    tensors, found = _merge(folder, sorted(set(where.values())), reader, family)
    for key, name in where.items():
        if found.get(key) != name and not family.may_lack(key):
            other = f" (it is in {found[key]})" if key in found else ""
            raise ValueError(
                f"{folder / name}: key {key} is missing though {index} names it{other}: "
                "download the file again"
            )
    return tensors


def _merge(
    folder: Path, names: list[str], reader: Callable, family: Family
) -> tuple[dict[str, LazyTensor], dict[str, str]]:
    """Return all files' tensors, and the file of each, by key."""
    out: dict[str, LazyTensor] = {}
    found: dict[str, str] = {}
    for name in names:
        file = inner_file(folder, name)
        if file is None:
            raise ValueError(f"{folder / name}: shard is missing: download the checkpoint again")
        for key, tensor in reader(file).items():
            if key in out and not family.is_buffer(key):
                raise ValueError(f"{tensor.name}: key is also in another shard: {out[key].name}")
            out[key], found[key] = tensor, name
    return out, found


def read_safetensors(file: Path) -> dict[str, LazyTensor]:
    """Open a safetensors file.

    Raises:
      ValueError: damaged, or of a dtype that numpy lacks.
    """
    with _open_safetensors(file) as handle:
        slices = {key: handle.get_slice(key) for key in handle.keys()}  # noqa: SIM118
    out = {}
    for key, part in slices.items():
        kind = part.get_dtype()
        if kind not in SAFETENSORS_DTYPES:
            raise ValueError(
                f"{file}: {key}: dtype {kind} is not one of {sorted(SAFETENSORS_DTYPES)}"
            )
        out[key] = LazyTensor(
            name=f"{file}: {key}",
            shape=tuple(part.get_shape()),
            dtype=np.dtype(SAFETENSORS_DTYPES[kind]),
            source=lambda index, key=key: _read_part(file, key, index),
        )
    return out


def _read_part(file: Path, key: str, index: Index) -> np.ndarray:
    # Opened each time, so that what was read does not stay mapped.
    with _open_safetensors(file) as handle:
        part = handle.get_slice(key)
        whole = [slice(0, n) for n in part.get_shape()] == list(index)
        return handle.get_tensor(key) if whole else part[index]


@contextmanager
def _open_safetensors(file: Path) -> Iterator[Any]:
    try:
        with safe_open(file, framework="np") as handle:
            yield handle
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{file}: truncated or corrupt safetensors file ({error}): download it again"
        ) from error
