"""Opens checkpoints: our own folders and Hugging Face's.

Our own folder holds `params/` (orbax), `metadata.json` (`Metadata`), `config.json` and tokenizer
files as Hugging Face has them, and `ignored.safetensors` where the source had tensors that are no
weights.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from mtad_jax.checkpoints.hf.configs import CONFIG, TOKEN_FIELDS
from mtad_jax.checkpoints.hf.families import model_of, settings_of
from mtad_jax.checkpoints.hf.params import (
    KeyLayout,
    check_params,
    check_sizes,
    flat_paths,
    to_params,
)
from mtad_jax.checkpoints.hf.read import (
    check_side_files,
    inner_file,
    inner_folder,
    open_folder,
    read_config,
    read_json,
)
from mtad_jax.checkpoints.lazy import WEIGHT_DTYPES, LazyTensor, common_dtype
from mtad_jax.devices.sharding import is_spec
from mtad_jax.json_file import read_fields, shown
from mtad_jax.models.linen import LinenLM
from mtad_jax.models.protocol import BoundLM
from mtad_jax.models.quantize import check_compute_dtype, quantize_param
from mtad_jax.text import tokenizer as tokenizers

if TYPE_CHECKING:
    from qwix import QArray

FORMAT_VERSION = 1
"""Raised when an older reader would misread a newer folder."""


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to decode, and what its folder says about it.

    Attributes:
      lm: model and parameters. Its `vocab` is the number of real token ids: a tokenizer with fewer
        ids than the embedding has rows leaves the rest as padding.
      config: the Hugging Face `config.json`.
      tokenizer: None where the folder has none.
      eos_ids: end tokens, of `generation_config.json` if it names them ([]: none), else of
        `config.json`, else the tokenizer's.
      bos_id: start token by the same files, None if they name none.
      folder: that it was loaded from, absolute: the process may go elsewhere.
    """

    lm: BoundLM
    config: dict[str, Any]
    tokenizer: tokenizers.Tokenizer | None
    eos_ids: tuple[int, ...]
    bos_id: int | None
    folder: Path

    def __repr__(self) -> str:
        tokenizer = "no tokenizer" if self.tokenizer is None else "tokenizer"
        return f"LoadedModel({self.folder.name}, {self.lm!r}, {tokenizer}, ends {self.eos_ids})"


@dataclass(frozen=True)
class Metadata:
    """What `metadata.json` says.

    Attributes:
      format_version: `FORMAT_VERSION` of the writer.
      source: the name of the folder converted, without its path.
      source_dtype, dtype: of the weights there and here; "mixed" if they have several.
      converter_version: of mtad-jax.
      layout: of the Hugging Face tensors, for the way back.
    """

    format_version: int
    source: str
    source_dtype: str
    dtype: str
    converter_version: str
    layout: KeyLayout


def load(
    path: str | Path,
    *,
    dtype: Any = None,
    mesh: Mesh | None = None,
    replicated: bool = False,
    int8: str | Iterable[str] = "",
) -> LoadedModel:
    """Open a checkpoint, our own or Hugging Face's.

    Weights go to their devices one at a time. On a mesh each part of a tensor is read by itself,
    and a process reads the parts of its own devices alone.

    Args:
      path: the folder.
      dtype: of the parameters and of all computing. None: as stored (the widest, if there are
        several), except that bfloat16 and float16 become float32 on the CPU backend, where they
        compute 4 to 9 times slower. Give a dtype to have it whatever the backend.
      mesh: of `mtad_jax.devices.sharding.make_mesh`; None: the first device.
      replicated: on a mesh: every device holds the whole model.
      int8: what is held as int8: "weights", "kv" (the cache), or "weights,kv". Each matrix is
        rounded on its devices as soon as it is there, before the next is read.

    Raises:
      ValueError: the folder is no checkpoint, is damaged or unsupported, its weights and config
        do not match, the mesh does not divide the model, or an unknown name in `int8`. One line,
        naming file or key.
    """
    config, model = open_model(path, mesh=mesh, replicated=replicated, int8=int8)
    path, dtype = Path(path).expanduser(), _known_dtype(dtype)
    check_side_files(path)  # the tokenizer reader follows links
    params = _open_weights(path, config)
    dtype = _compute_dtype(dtype, params)
    check_compute_dtype(model.int8, dtype)
    params = _put(params, model, dtype)
    tokenizer = tokenizers.load_tokenizer(path)
    vocab = model.vocab_size
    if tokenizer is not None:
        vocab = min(vocab, tokenizer.vocab_size)
    eos_ids = _token_ids(path, config, "eos_token_id")
    if eos_ids is None:
        own = None if tokenizer is None else tokenizer.eos_id
        eos_ids = () if own is None else (own,)
    return LoadedModel(
        lm=BoundLM(params, model, vocab),
        config=config,
        tokenizer=tokenizer,
        eos_ids=eos_ids,
        bos_id=next(iter(_token_ids(path, config, "bos_token_id") or ()), None),
        folder=path.absolute(),
    )


def open_model(
    path: str | Path,
    *,
    mesh: Mesh | None = None,
    replicated: bool = False,
    int8: str | Iterable[str] = "",
) -> tuple[dict[str, Any], LinenLM]:
    """Return a checkpoint's `config.json` and its model, laid out; weights are not looked at.

    Args and raises: as `load`.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path is a {type(path).__name__}: give the name of a checkpoint's folder")
    path = Path(path).expanduser()
    if not path.is_dir():
        raise ValueError(f"{path}: no such folder")
    if is_ours(path):
        read_metadata(path)
    config = read_config(path)
    try:
        model = model_of(config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    for name in TOKEN_FIELDS:
        _token_ids(path, config, name)
    model = model.quantized(int8)
    if mesh is None:
        return config, model
    try:
        return config, model.on(mesh, replicated=replicated)
    except ValueError as error:  # it says all that its traceback would
        raise ValueError(f"{path}: {error}") from None


def read_metadata(path: Path) -> Metadata:
    """Return the metadata of one of our own folders.

    Raises:
      ValueError: it has none, or of another format or version.
    """
    data = read_json(path, "metadata.json")
    if data is None:
        raise ValueError(f"{path}: no metadata.json: not a folder that from_hf wrote")
    version = data.get("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path / 'metadata.json'}: format_version={version!r}, this mtad-jax reads "
            f"{FORMAT_VERSION}: convert the checkpoint again or update mtad-jax"
        )
    try:
        layout = data["layout"]
        names = ("source", "source_dtype", "dtype", "converter_version")
        return Metadata(
            version,
            *(str(data[name]) for name in names),
            layout=KeyLayout(bool(layout["bare"]), tuple(layout["tied"]), tuple(layout["ignored"])),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path / 'metadata.json'}: incomplete ({error}): convert the checkpoint again"
        ) from error


def open_params(path: Path) -> dict[str, Any]:
    """Return the parameters of one of our own folders with lazy leaves.

    Raises:
      ValueError: they are damaged or no floats, or a link among their files leads out of the
        folder.
    """
    from mtad_jax.checkpoints import arrays  # orbax takes long to import

    params = arrays.open_lazy(inner_folder(path, "params"))
    for leaf in jax.tree.leaves(params):
        if leaf.dtype not in WEIGHT_DTYPES:
            raise ValueError(f"{leaf.name}: dtype {leaf.dtype} is not supported: convert it again")
    return params


def is_ours(path: Path) -> bool:
    """Whether a folder is one of our own: other tools write a `metadata.json`, too.

    Raises:
      ValueError: that file is a link that leads out of the folder, or a Git LFS pointer.
    """
    if inner_file(path, "metadata.json") is None:
        return False
    if (path / "params").is_dir():
        return True
    try:
        return "format_version" in (read_json(path, "metadata.json") or {})
    except ValueError:  # another tool's need not hold an object
        return False


def _open_weights(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters, leaves lazy, checked against the config."""
    if not is_ours(path):
        return to_params(config, open_folder(path).tensors)[1]
    params = open_params(path)
    check_sizes(config, flat_paths(params))
    check_params(model_of(config), params)
    return params


def _put(params: Mapping[str, Any], model: LinenLM, dtype: np.dtype) -> Any:
    """Read the parameters onto their devices; what is int8 is never there whole otherwise."""
    layout, int8 = model.layout, "weights" in model.int8
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def put(axes: PartitionSpec, leaf: LazyTensor) -> jax.Array | QArray:
        if "kv_heads" in axes:
            leaf = leaf.repeated(model.kv_repeat, model.config.head_dim)
        leaf = (leaf if int8 else leaf.astype(dtype)).finite()
        array = leaf.put(here if layout is None else layout.sharding(tuple(axes)))
        if not int8:
            return array
        return jax.block_until_ready(quantize_param(array, tuple(axes), dtype, layout))

    return jax.tree.map(put, model.stored_axes(), params, is_leaf=is_spec)


def _known_dtype(dtype: Any) -> np.dtype | None:
    """Return the dtype that the caller asks for, if any.

    Raises:
      ValueError: weights cannot have it.
    """
    if dtype is None:
        return None
    try:
        found = jnp.dtype(dtype)
    except TypeError:
        found = None
    if found not in WEIGHT_DTYPES:
        known = ", ".join(np.dtype(known).name for known in WEIGHT_DTYPES)
        raise ValueError(f"dtype={dtype!r} must be one of {known}, or None: as stored")
    return found


def _compute_dtype(dtype: np.dtype | None, tree: Mapping[str, Any]) -> np.dtype:
    if dtype is not None:
        return dtype
    stored = common_dtype(tree)
    return np.dtype(jnp.float32) if jax.default_backend() == "cpu" else stored


def _token_ids(path: Path, config: Mapping[str, Any], name: str) -> tuple[int, ...] | None:
    """Return the ids of the first file that has the setting, None if none has; [] names none."""
    generation = read_json(path, "generation_config.json") or {}
    own = {**settings_of(config), **config}
    for file, data in (("generation_config.json", generation), (CONFIG, own)):
        found = read_fields(str(path / file), data, {name: TOKEN_FIELDS[name]})[name]
        if found is None:
            continue
        ids = tuple(found if isinstance(found, list) else [found])
        rows = model_of(config).vocab_size
        if name == "eos_token_id" and max(ids, default=0) >= rows:
            raise ValueError(
                f"{path / file}: {name}={shown(found)} must be below vocab_size={rows}"
            )
        return ids
    return None
