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

from mtad_jax.types import Array, Int

InitCache = Callable[[int, int, jnp.dtype], Any]
"""`init_cache(batch, slots, dtype)`: an empty cache, any tree of arrays."""

_ROWS, _SLOTS = (2, 3), (16, 24)  # sizes to tell the axes by; the rest of a cache keeps its own


@dataclass(frozen=True)
class Leaf:
    """One array of a cache.

    Attributes:
      name: where it is in the cache, such as `['layer_0']['k']`.
      row: axis of rows; None: it has none (an index that all rows share).
      slot: axis of slots; None: this is an index of the next slot.
      shape: shape of an index for one row.
      dtype: of an index.
    """

    name: str
    row: int | None
    slot: int | None
    shape: tuple[int, ...]
    dtype: Any


@dataclass(frozen=True)
class CacheForm:
    """How a cache is built of its leaves.

    Attributes:
      tree: structure of the foreign cache.
      leaves: its arrays, in order.
    """

    tree: Any
    leaves: tuple[Leaf, ...]

    @property
    def buffers(self) -> tuple[Leaf, ...]:
        """The arrays that hold slots: all that is carried from call to call."""
        return tuple(leaf for leaf in self.leaves if leaf.slot is not None)

    def slots(self, buffers: tuple[Array, ...]) -> int:
        """Return how many slots a row has."""
        axis = self.buffers[0].slot
        assert axis is not None
        return buffers[0].shape[axis]

    def pack(self, cache: Any) -> tuple[Array, ...]:
        """Return the buffers of a foreign cache."""
        arrays = jax.tree.leaves(cache)
        return tuple(
            x for x, leaf in zip(arrays, self.leaves, strict=True) if leaf.slot is not None
        )

    def unpack(self, buffers: tuple[Array, ...], write_at: Int[Array, " B"]) -> Any:
        """Return the foreign cache whose next token goes to slot `write_at[b]`."""
        rest = iter(buffers)
        arrays = [
            _index(leaf, write_at) if leaf.slot is None else next(rest) for leaf in self.leaves
        ]
        return jax.tree.unflatten(self.tree, arrays)


def _index(leaf: Leaf, write_at: Int[Array, " B"]) -> Array:
    """Return an index leaf for the rows of a call: one row where it has no axis of rows."""
    shape, at = list(leaf.shape), write_at.astype(leaf.dtype)
    if leaf.row is None:
        return jnp.broadcast_to(at[0], shape)
    shape[leaf.row] = at.shape[0]
    at = at.reshape([-1 if axis == leaf.row else 1 for axis in range(len(shape))])
    return jnp.broadcast_to(at, shape)


def form_of(init_cache: InitCache, dtype: jnp.dtype, most: int) -> CacheForm:
    """Find the form of the caches that a function makes.

    Args:
      init_cache: the function.
      dtype: that the model computes in.
      most: the most slots that the model would be asked for.

    Raises:
      ValueError: an array is neither a buffer nor an index: what it holds cannot be rolled back.
    """

    def shapes(batch: int, slots: int) -> Any:
        return jax.eval_shape(lambda: init_cache(batch, slots, dtype))

    sizes = ((_ROWS[0], _SLOTS[0]), (_ROWS[1], _SLOTS[0]), (_ROWS[0], max(_SLOTS[1], most)))
    some, more_rows, more_slots = (shapes(*size) for size in sizes)
    flat, tree = jax.tree_util.tree_flatten_with_path(some)
    others = (jax.tree.leaves(more_rows), jax.tree.leaves(more_slots))
    if not flat or any(len(flat) != len(other) for other in others):
        raise ValueError(
            f"init_cache gives {len(flat)} arrays for {_ROWS[0]} rows and {len(others[0])} for "
            f"{_ROWS[1]}: give a tree of the same arrays for any number of rows and slots, such as "
            "keys and values of each layer"
        )
    leaves = []
    for (path, leaf), rows, slots in zip(flat, *others, strict=True):
        name = jax.tree_util.keystr(path)
        row = _axis(leaf, rows, _ROWS)
        slot = _axis(leaf, slots, (_SLOTS[0], sizes[2][1]))
        whole = jnp.issubdtype(leaf.dtype, jnp.integer)
        if slot is None and not (whole and leaf.shape == slots.shape):
            raise ValueError(_no_slots(name, slots, sizes[2][1]))
        if slot is not None and row is None:
            raise ValueError(
                f"the cache's {name} {shown(leaf)} has no axis of {_ROWS[0]} rows: rows have "
                "lengths of their own: give it one"
            )
        shape = tuple(1 if axis == row else n for axis, n in enumerate(leaf.shape))
        leaves.append(Leaf(name, row, slot, shape if slot is None else (), leaf.dtype))
    if all(leaf.slot is None for leaf in leaves):
        raise ValueError(
            f"the cache has no array with an axis of {_SLOTS[0]} slots: the model must keep keys "
            "and values of its text: give an init_cache that makes room for them"
        )
    return CacheForm(tree, tuple(leaves))


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


def _no_slots(name: str, leaf: Any, slots: int) -> str:
    return (
        f"the cache's {name} {shown(leaf)} has no axis of {slots} slots where {slots} were asked "
        "for: a draft that is not accepted could not be taken out of it again: give keys and "
        "values of every slot (no rolling window, no state of the whole text)"
    )
