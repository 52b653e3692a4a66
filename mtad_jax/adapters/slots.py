"""What a foreign cache is made of: which axis of each array is rows, and which is slots.

Nothing is asked of its form but that every array is one of two kinds: a *buffer* with an axis of
rows and an axis of slots, or whole numbers that say where the next token goes. The first are moved
with the text, the second are set anew before every call: this is what makes any such cache one that
can be rolled back. Found by asking for the shapes of caches of several sizes; no array is made.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from mtad_jax.errors import one_line
from mtad_jax.types import Array, Int

InitCache = Callable[[int, int, jnp.dtype], Any]
"""`init_cache(batch, slots, dtype)`: an empty cache, any tree of arrays."""

_ROWS, _SLOTS = (2, 3), (16, 24)  # sizes to tell the axes by; the rest of a cache keeps its own
_SCRATCH = 512  # a cache has room for a draft beyond the last position
_SHOWN = 400  # characters of another library's message


@dataclass(frozen=True)
class Buffer:
    """An array that holds something of every slot.

    Attributes:
      name: where it is in the cache, such as `['layer_0']['k']`.
      row: axis of rows.
      slot: axis of slots.
    """

    name: str
    row: int
    slot: int


@dataclass(frozen=True)
class Index:
    """Whole numbers that say which slot is next.

    Attributes:
      name: where they are in the cache.
      row: axis of rows; None: one index for all rows.
      shape: of one row's.
      dtype: of the array.
    """

    name: str
    row: int | None
    shape: tuple[int, ...]
    dtype: Any

    def at(self, write_at: Int[Array, " B"]) -> Array:
        """Return the index of the slots `write_at[b]`; of row 0's where rows share one."""
        at = write_at.astype(self.dtype)
        if self.row is None:
            return jnp.broadcast_to(at[0], self.shape)
        rows = tuple(-1 if axis == self.row else 1 for axis in range(len(self.shape)))
        shape = tuple(len(at) if axis == self.row else n for axis, n in enumerate(self.shape))
        return jnp.broadcast_to(at.reshape(rows), shape)


@dataclass(frozen=True)
class CacheForm:
    """How a cache is built of its leaves.

    Attributes:
      tree: structure of the foreign cache.
      leaves: its arrays, in order.
    """

    tree: Any
    leaves: tuple[Buffer | Index, ...]

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        """The arrays that hold slots: all that is carried from call to call."""
        return tuple(leaf for leaf in self.leaves if isinstance(leaf, Buffer))

    def slots(self, buffers: tuple[Array, ...]) -> int:
        """Return how many slots a row has."""
        return buffers[0].shape[self.buffers[0].slot]

    def pack(self, cache: Any) -> tuple[Array, ...]:
        """Return the buffers of a foreign cache."""
        pairs = zip(jax.tree.leaves(cache), self.leaves, strict=True)
        return tuple(x for x, leaf in pairs if isinstance(leaf, Buffer))

    def unpack(self, buffers: tuple[Array, ...], write_at: Int[Array, " B"]) -> Any:
        """Return the foreign cache whose next token goes to slot `write_at[b]`."""
        rest = iter(buffers)
        arrays = [
            leaf.at(write_at) if isinstance(leaf, Index) else next(rest) for leaf in self.leaves
        ]
        return jax.tree.unflatten(self.tree, arrays)


def failure(error: Exception) -> str:
    """Return what another library's error says, on one line."""
    return f"{type(error).__name__}: {one_line(error)[:_SHOWN]}"


def form_of(init_cache: InitCache, dtype: jnp.dtype, most: int) -> CacheForm:
    """Find the form of the caches that a function makes.

    Args:
      init_cache: the function.
      dtype: that the model computes in.
      most: positions that the model was made for.

    Raises:
      ValueError: an array is neither a buffer nor an index: what it holds cannot be rolled back.
    """

    def shapes(batch: int, slots: int) -> Any:
        try:
            return jax.eval_shape(lambda: init_cache(batch, slots, dtype))
        except Exception as error:  # whatever another's model does
            raise ValueError(
                f"init_cache fails for {batch} rows, {slots} slots and {jnp.dtype(dtype).name}: "
                f"{failure(error)}"
            ) from error

    most = max(_SLOTS[1], most + _SCRATCH)
    flat, tree = jax.tree_util.tree_flatten_with_path(shapes(_ROWS[0], _SLOTS[0]))
    sizes = ((_ROWS[1], _SLOTS[0]), (_ROWS[0], most))
    others = [jax.tree.leaves(shapes(*size)) for size in sizes]
    if not flat or any(len(flat) != len(other) for other in others):
        raise ValueError(
            f"init_cache gives {len(flat)} arrays for {_ROWS[0]} rows and {len(others[0])} for "
            f"{_ROWS[1]}: give a tree of the same arrays for any number of rows and slots, such as "
            "keys and values of each layer"
        )
    leaves = tuple(
        _leaf(jax.tree_util.keystr(path), leaf, rows, slots, most)
        for (path, leaf), rows, slots in zip(flat, *others, strict=True)
    )
    if not any(isinstance(leaf, Buffer) for leaf in leaves):
        raise ValueError(
            f"the cache has no array with an axis of {_SLOTS[0]} slots: the model must keep keys "
            "and values of its text: give an init_cache that makes room for them"
        )
    return CacheForm(tree, leaves)


def _leaf(name: str, some: Any, more_rows: Any, more_slots: Any, most: int) -> Buffer | Index:
    """Tell what an array is by its shapes in caches of several sizes.

    Raises:
      ValueError: it is neither a buffer nor an index.
    """
    row, slot = _axis(some, more_rows, _ROWS), _axis(some, more_slots, (_SLOTS[0], most))
    if slot is None:
        if not jnp.issubdtype(some.dtype, jnp.integer) or some.shape != more_slots.shape:
            raise ValueError(
                f"the cache's {name} {shown(more_slots)} has no axis of {most} slots where {most} "
                "were asked for: a draft that is not accepted could not be taken out of it again: "
                "give keys and values of every slot (no rolling window, no state of the whole text)"
            )
        shape = tuple(1 if axis == row else n for axis, n in enumerate(some.shape))
        return Index(name, row, shape, some.dtype)
    if row is None:
        raise ValueError(
            f"the cache's {name} {shown(some)} has no axis of {_ROWS[0]} rows: rows have lengths "
            "of their own: give it one"
        )
    return Buffer(name, row, slot)


def _axis(leaf: Any, other: Any, sizes: tuple[int, int]) -> int | None:
    """Return the one axis whose size goes from the first to the second, if there is one."""
    if leaf.ndim != other.ndim:
        return None
    changed = [
        axis
        for axis, pair in enumerate(zip(leaf.shape, other.shape, strict=True))
        if len({*pair}) > 1
    ]
    if len(changed) != 1:
        return None
    (axis,) = changed
    return axis if (leaf.shape[axis], other.shape[axis]) == sizes else None


def shown(leaf: Any) -> str:
    """Return an array's dtype and shape, such as `float32[2,16]`."""
    if not hasattr(leaf, "shape"):
        return f"a {type(leaf).__name__}"
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
