"""Between Hugging Face tensors and our parameter tree, by the rules of `families`."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from mtad_jax.checkpoints.hf.families import (
    Family,
    family_of,
    model_of,
    settings_of,
    shapes_of,
)
from mtad_jax.checkpoints.hf.fields import CONFIG
from mtad_jax.checkpoints.hf.keys import KeyRule
from mtad_jax.checkpoints.lazy import WEIGHT_DTYPES, LazyTensor
from mtad_jax.models.linen import LinenLM

_WRAPPERS = {"module": "torch's (Distributed)DataParallel", "_orig_mod": "torch.compile"}
"""Parts of keys that a wrapper puts in."""


@dataclass(frozen=True)
class KeyLayout:
    """What of a Hugging Face checkpoint its parameters do not tell; kept for the way back.

    Attributes:
      bare: keys lack the family's prefix.
      tied: keys present though they repeat another.
      ignored: keys present though they hold no weights.
    """

    bare: bool = False
    tied: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


def key_rules(hf_config: Mapping[str, Any], model: LinenLM) -> dict[str, KeyRule]:
    """Return our parameter path → its rule with the layer's number filled in."""
    by_path = {rule.path: rule for rule in family_of(hf_config).rules}
    out = {}
    for path in shapes_of(model):
        number = re.match(r"layer_(\d+)/", path)
        rule = by_path[re.sub(r"^layer_\d+/", "layer_{i}/", path)]
        key = rule.key.format(i=number.group(1)) if number else rule.key
        out[path] = KeyRule(key, path, rule.transpose)
    return out


def to_params(
    hf_config: Mapping[str, Any], tensors: Mapping[str, LazyTensor]
) -> tuple[LinenLM, dict[str, Any], KeyLayout]:
    """Turn Hugging Face tensors into our parameter tree, using every tensor exactly once.

    Returns:
      The model, its parameter tree (leaves lazy), and the layout.

    Raises:
      ValueError: keys left over or missing, a wrong shape or dtype, or a key that repeats a tied
        one with other values.
    """
    model, family = model_of(hf_config), family_of(hf_config)
    _check_wrapped(tensors)
    bare = not any(key.startswith(family.prefix) for key in tensors)
    full = {_full_key(key, family, bare): tensor for key, tensor in tensors.items()}
    check_sizes(hf_config, _by_path(full, family))
    rules = key_rules(hf_config, model)
    used = {rule.key for rule in rules.values()}
    tied = {k for k, same in family.tied.items() if k in full and k not in used and same in full}
    ignored = sorted(key for key in tensors if family.is_buffer(key))
    unused = sorted(
        key
        for key in tensors
        if key not in ignored and _full_key(key, family, bare) not in used | tied
    )
    missing = [f"{path} ({rule.key})" for path, rule in rules.items() if rule.key not in full]
    if unused or missing:
        raise ValueError(
            f"weights and config.json (model_type={hf_config['model_type']}) do not match: "
            f"unused keys: {_few(unused)}; missing parameters: {_few(missing)}"
        )
    shapes = shapes_of(model)
    params = {path: _take(full[rule.key], rule, shapes[path].shape) for path, rule in rules.items()}
    for key in tied:
        _check_tied(full[key], full[family.tied[key]])
    layout = KeyLayout(bare, tuple(sorted(tied)), tuple(ignored))
    return model, unflatten_dict(params, sep="/"), layout


def to_tensors(
    hf_config: Mapping[str, Any],
    params: Mapping[str, Any],
    layout: KeyLayout,
    ignored: Mapping[str, LazyTensor],
) -> dict[str, LazyTensor]:
    """Turn our parameter tree (leaves lazy) into Hugging Face tensors: `to_params` backwards.

    Args:
      hf_config: the `config.json`.
      params: the tree.
      layout: of the checkpoint it came from.
      ignored: the tensors that `layout.ignored` names.

    Raises:
      ValueError: the tree is not that of the config's model.
    """
    model, family = model_of(hf_config), family_of(hf_config)
    check_params(model, params)
    flat = flat_paths(params)
    out = {}
    for path, rule in key_rules(hf_config, model).items():
        out[rule.key] = flat[path].transposed() if rule.transpose else flat[path]
    out |= {key: out[family.tied[key]] for key in layout.tied}
    if layout.bare:
        out = {key.removeprefix(family.prefix): tensor for key, tensor in out.items()}
    return out | dict(ignored)


def check_sizes(hf_config: Mapping[str, Any], params: Mapping[str, LazyTensor]) -> None:
    """Check a config's settings against what its weights show, before anything is built.

    Args:
      hf_config: the `config.json`, in range.
      params: by our path, the layers' numbers filled in; some or all.

    Raises:
      ValueError: a setting that disagrees, with the tensor that shows it.
    """
    found = []
    for path, tensor in params.items():
        if match := re.match(r"layer_(\d+)/", path):
            found.append(("num_hidden_layers", int(match[1]) + 1, tensor))
    found = [max(found, key=lambda item: item[1])] if found else []
    settings = settings_of(hf_config)
    for name, (path, axis, more) in family_of(hf_config).sizes.items():
        tensor = params.get(path)
        if tensor is not None and len(tensor.shape) > axis:
            found.append((name, tensor.shape[axis] - more, tensor))
    for name, size, tensor in found:
        value = settings.get(name)
        if value is not None and value != size:
            raise ValueError(f"{CONFIG}: {name}={value}, but it is {size} by {tensor.name}")


def check_params(model: LinenLM, params: Mapping[str, Any]) -> None:
    """Check that a tree (of anything with a shape) is the model's.

    Raises:
      ValueError: parameters that are unknown, missing, or of a wrong shape.
    """
    flat, shapes = flat_paths(params), shapes_of(model)
    if flat.keys() != shapes.keys():
        raise ValueError(
            "parameters and config.json do not match: "
            f"unknown: {_few(sorted(flat.keys() - shapes))}; "
            f"missing: {_few(sorted(shapes.keys() - flat))}"
        )
    for path, leaf in flat.items():
        got, wanted = list(leaf.shape), list(shapes[path].shape)
        if got != wanted:
            raise ValueError(f"parameter {path}: shape {got}, config.json wants {wanted}")


def _by_path(full: Mapping[str, LazyTensor], family: Family) -> dict[str, LazyTensor]:
    """Return the tensors whose key a rule names, by our path and in our orientation."""
    rules = {rule.key: rule for rule in family.rules}
    out = {}
    for key, tensor in full.items():
        rule = rules.get(re.sub(r"\.\d+\.", ".{i}.", key, count=1))
        if rule is not None:
            number = re.search(r"\.(\d+)\.", key)
            path = rule.path.format(i=number[1]) if number else rule.path
            turned = rule.transpose and len(tensor.shape) == 2
            out[path] = tensor.transposed() if turned else tensor
    return out


def _check_wrapped(tensors: Mapping[str, LazyTensor]) -> None:
    for key, tensor in tensors.items():
        for part, wrapper in _WRAPPERS.items():
            if part in key.split("."):
                raise ValueError(
                    f"{tensor.name}: {part!r} in the key is of {wrapper}: save the model inside "
                    f"it (model.{part}.save_pretrained), or take {part + '.'!r} out of all keys"
                )


def _full_key(key: str, family: Family, bare: bool) -> str:
    """Add the prefix that a bare export lacks; heads never have it."""
    return family.prefix + key if bare and key not in family.tied else key


def _take(tensor: LazyTensor, rule: KeyRule, shape: tuple[int, ...]) -> LazyTensor:
    wanted = shape[::-1] if rule.transpose else shape
    if tensor.shape != wanted:
        raise ValueError(
            f"{tensor.name}: shape {list(tensor.shape)}, config.json wants {list(wanted)}"
        )
    if tensor.dtype not in WEIGHT_DTYPES:
        names = [dtype.name for dtype in WEIGHT_DTYPES]
        raise ValueError(f"{tensor.name}: dtype {tensor.dtype.name} is not one of {names}")
    return tensor.transposed() if rule.transpose else tensor


def _check_tied(copy: LazyTensor, original: LazyTensor) -> None:
    same = (copy.shape, copy.dtype) == (original.shape, original.dtype)
    if not same or not np.array_equal(copy.read().view(np.uint8), original.read().view(np.uint8)):
        raise ValueError(
            f"{copy.name}: differs from {original.name} though config.json ties them: set "
            "tie_word_embeddings=false there if this head is meant"
        )


def flat_paths(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return path, joined by "/", → leaf; plain dicts in and out, unlike flax's type says."""
    return cast(dict[str, Any], flatten_dict(tree, sep="/"))


def _few(names: Iterable[str], most: int = 6) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "none") + more
