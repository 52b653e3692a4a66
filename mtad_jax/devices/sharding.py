"""Meshes, and the rules that lay a model out on one.

Every parameter, cache buffer and activation names its dimensions by *logical axes* ("heads",
"mlp", "batch", ...). `Rules` maps those to the axes of a mesh, and `Layout` is a mesh with rules:
static and hashable, so that a model can carry it as a compile-time constant.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental.layout import Layout as MemoryLayout
from jax.experimental.layout import with_layout_constraint
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mtad_jax.types import Array

MESH_AXES = ("data", "fsdp", "model")
"""Rows of the batch; weights once more; heads, hidden units and vocabulary."""

Axes = tuple[str | None, ...]
"""Logical name of each dimension of an array; None: never split."""


def parse_mesh(text: str) -> dict[str, int]:
    """Read `data:1,model:4` as the size of each mesh axis; axes that are left out have size 1.

    Raises:
      ValueError: unknown or repeated axis, or no size >= 1.
    """
    shape: dict[str, int] = {}
    for part in text.split(","):
        found = re.fullmatch(r"\s*([a-z_]+)\s*:\s*([0-9]+)\s*", part)
        if found is None:
            raise ValueError(f"mesh={text!r}: {part!r} is no axis:size: write e.g. data:1,model:4")
        name, size = found[1], int(found[2])
        if name in shape:
            raise ValueError(f"mesh={text!r}: axis {name} comes twice: give it once")
        shape[name] = size
    return _full_shape(shape)


def _full_shape(shape: Mapping[str, int]) -> dict[str, int]:
    for name, size in shape.items():
        if name not in MESH_AXES:
            raise ValueError(f"mesh axis {name!r} is unknown: use {', '.join(MESH_AXES)}")
        if not isinstance(size, int):
            raise TypeError(f"mesh axis {name}:{size!r} must be an integer, such as {name}:2")
        if size < 1:
            raise ValueError(f"mesh axis {name}:{size} must be >= 1")
    return {name: shape.get(name, 1) for name in MESH_AXES}


def make_mesh(shape: str | Mapping[str, int], devices: Sequence[Any] | None = None) -> Mesh:
    """Arrange devices as a mesh with the axes `MESH_AXES`, `model` innermost.

    Args:
      shape: size of each axis, as a mapping or as `parse_mesh` reads it.
      devices: None: all devices of all processes.

    Raises:
      ValueError: the sizes do not multiply to the number of devices.
      TypeError: the shape is neither, or a size no integer.
    """
    if not isinstance(shape, str | Mapping):
        raise TypeError(f'shape={shape!r} must be sizes of axes: write "data:1,model:4"')
    sizes = parse_mesh(shape) if isinstance(shape, str) else _full_shape(shape)
    devices = jax.devices() if devices is None else devices
    wanted = math.prod(sizes.values())
    if wanted != len(devices):
        shown = ",".join(f"{name}:{size}" for name, size in sizes.items() if size > 1) or "data:1"
        raise ValueError(
            f"mesh={shown} is for {wanted} devices, but there are {len(devices)}: give sizes whose "
            f"product is {len(devices)}, e.g. model:{len(devices)}"
        )
    return jax.make_mesh(
        tuple(sizes.values()), MESH_AXES, (jax.sharding.AxisType.Auto,) * 3, devices=devices
    )


def check_axes(mesh: Mesh) -> None:
    """Check that a mesh is one of ours.

    Raises:
      ValueError: it has other axes.
      TypeError: it is no mesh, but its text, say.
    """
    if not isinstance(mesh, Mesh):
        raise TypeError(f"mesh={mesh!r} must be a Mesh: write mesh=mtad_jax.make_mesh({mesh!r})")
    if mesh.axis_names != MESH_AXES:
        raise ValueError(
            f"mesh axes {mesh.axis_names} are not {MESH_AXES}: make it by mtad_jax.make_mesh"
        )


@dataclass(frozen=True)
class Rules:
    """Which mesh axes each logical axis is split over.

    Attributes:
      table: pairs of a logical axis and the mesh axes; logical axes that are left out stay whole.
    """

    table: tuple[tuple[str, tuple[str, ...]], ...]

    def spec(self, axes: Axes) -> PartitionSpec:
        """Return the partition of an array with these logical axes.

        Raises:
          ValueError: two of its dimensions are split over one mesh axis.
        """
        rules = dict(self.table)
        parts = [rules.get(axis, ()) if axis is not None else () for axis in axes]
        used = [name for part in parts for name in part]
        if len(used) > len(set(used)):
            raise ValueError(f"rules put two of the axes {axes} on one mesh axis: {parts}")
        return PartitionSpec(*(part or None for part in parts))


@dataclass(frozen=True)
class Layout:
    """A mesh, and the rules of one model on it."""

    mesh: Mesh
    rules: Rules

    def sharding(self, axes: Axes) -> NamedSharding:
        """Return where an array with these logical axes lies."""
        return NamedSharding(self.mesh, self.rules.spec(axes))

    def constrain(self, x: Array, axes: Axes) -> Array:
        """Say inside a program where an array lies."""
        return jax.lax.with_sharding_constraint(x, self.sharding(axes))

    def local(self, call: Callable, inputs: Sequence[Axes], output: Axes) -> Callable:
        """Return `call` run by each device on its own parts, without any communication."""
        return jax.shard_map(
            call,
            mesh=self.mesh,
            in_specs=tuple(self.rules.spec(axes) for axes in inputs),
            out_specs=self.rules.spec(output),
            check_vma=False,  # the parts are independent: nothing to check, and scatters lack rules
        )

    def pin(self, x: Array) -> Array:
        """Keep the memory layout that the array has as an argument of a program; see `local`.

        XLA's TPU compiler may choose another one inside, and then copies caches on the way in and
        out, or keeps a transposed copy of weights. Nothing to do on other platforms.
        """
        if self.mesh.devices.flat[0].platform != "tpu":
            return x
        return with_layout_constraint(x, MemoryLayout(_tpu_order(x.shape, x.dtype.itemsize)))


def _tpu_order(shape: Sequence[int], itemsize: int) -> tuple[int, ...]:
    """Return the order of dimensions, major to minor, that a TPU program's argument has.

    The last two dimensions lie in tiles of (8, 128) 32-bit words: of both orders the one that
    pads less.
    """
    order = tuple(range(len(shape)))
    if len(shape) < 2:
        return order
    rows = 8 * 4 // itemsize

    def padded(a: int, b: int) -> int:
        return -(-a // rows) * rows * (-(-b // 128)) * 128

    a, b = shape[-2:]
    return order if padded(a, b) <= padded(b, a) else (*order[:-2], order[-1], order[-2])


def is_spec(x: Any) -> bool:
    """Say whether a leaf of a tree is a partition; it is a tuple, which trees would go into."""
    return isinstance(x, PartitionSpec)


def constrain(layout: Layout | None, x: Array, axes: Axes) -> Array:
    """Say where an array lies, if there is a mesh."""
    return x if layout is None else layout.constrain(x, axes)


def mesh_of(tree: Any) -> Mesh | None:
    """Return the mesh that the arrays (or shapes with shardings) of a tree lie on, if any."""
    for leaf in jax.tree.leaves(tree):
        sharding = getattr(leaf, "sharding", None)
        if isinstance(sharding, NamedSharding):
            assert isinstance(sharding.mesh, Mesh)  # not abstract: the leaf is no tracer
            return sharding.mesh
    return None


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def by_rows(mesh: Mesh, x: Any) -> NamedSharding:
    """Return the sharding of an array [B, ...] whose rows are split over `data`; scalars whole."""
    return NamedSharding(mesh, PartitionSpec(*["data"] * min(1, np.ndim(x))))
