"""Tensors that are known by shape and dtype and read one at a time, whole or in parts.

Readers hand them out and writers take them, so a conversion never holds more than the tensor at
hand, and a device gets its part of a tensor without the rest being read.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# The exponent bits of each float that weights may have. All set: infinity or NaN. Tested on the
# integers, since numpy has no fast isfinite for bfloat16.
_EXPONENT = {
    np.dtype(jnp.bfloat16): (np.dtype(np.uint16), 0x7F80),
    np.dtype(np.float16): (np.dtype(np.uint16), 0x7C00),
    np.dtype(np.float32): (np.dtype(np.uint32), 0x7F800000),
}
_BLOCK = 1 << 22  # elements checked at once, to keep the temporary masks small

WEIGHT_DTYPES = tuple(_EXPONENT)
"""dtypes that weights may have."""

SAFETENSORS_DTYPES = {
    "BF16": jnp.bfloat16,
    "F16": np.float16,
    "F32": np.float32,
    "F64": np.float64,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
"""safetensors' names of the dtypes that are read and written."""


Index = tuple[slice, ...]
"""A part of a tensor: a slice of every dimension, with bounds and without a step."""


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is read when asked for, each time anew.

    Attributes:
      name: for messages: file and key.
      shape, dtype: of what `read` returns.
      source: returns the part of the array that an `Index` names.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    source: Callable[[Index], np.ndarray]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the array that `read` returns."""
        return self.size * self.dtype.itemsize

    def read(self, index: Index | None = None) -> np.ndarray:
        """Return the array, or a part of it, C-contiguous."""
        index = tuple(slice(0, n) for n in self.shape) if index is None else index
        with np.errstate(over="ignore"):  # what becomes infinite, `finite` reports by name
            return np.asarray(self.source(index), dtype=self.dtype, order="C")

    def put(self, sharding: jax.sharding.Sharding) -> jax.Array:
        """Return the tensor as a jax array; a process reads just what its own devices hold.

        One part after the other, and once even where several devices hold it.
        """
        devices: dict[tuple[tuple[int, int], ...], list[Any]] = {}
        for device, index in sharding.addressable_devices_indices_map(self.shape).items():
            bounds = zip(index or (), self.shape, strict=True)
            devices.setdefault(tuple(s.indices(n)[:2] for s, n in bounds), []).append(device)
        parts = []
        for bounds, holders in devices.items():
            part = self.read(tuple(slice(*bound) for bound in bounds))
            parts += jax.block_until_ready([jax.device_put(part, device) for device in holders])
        return jax.make_array_from_single_device_arrays(
            self.shape, sharding, parts, dtype=self.dtype
        )

    def transposed(self) -> "LazyTensor":
        """Return the transpose of a matrix."""
        source, shape = self.source, self.shape[::-1]
        return replace(self, shape=shape, source=lambda index: source(index[::-1]).T)

    def repeated(self, times: int, size: int) -> "LazyTensor":
        """Return the tensor with each block of `size` in its last dimension `times` times."""
        source, wide = self.source, times * size

        def read(index: Index) -> np.ndarray:
            *rest, last = index
            first, end = last.start // wide, -(-last.stop // wide)  # blocks
            part = source((*rest, slice(first * size, end * size)))
            blocks = part.reshape(*part.shape[:-1], end - first, size)
            every = np.repeat(blocks, times, axis=-2).reshape(*part.shape[:-1], -1)
            return every[..., last.start - first * wide : last.stop - first * wide]

        return replace(self, shape=(*self.shape[:-1], times * self.shape[-1]), source=read)

    def thinned(self, times: int, size: int) -> "LazyTensor":
        """Return the tensor that `repeated` made this one of."""
        source, shape = self.source, (*self.shape[:-1], self.shape[-1] // times)

        def read(index: Index) -> np.ndarray:
            *rest, last = index
            every = source((*rest, slice(0, self.shape[-1])))
            blocks = every.reshape(*every.shape[:-1], -1, times, size)
            return blocks[..., 0, :].reshape(*every.shape[:-1], -1)[..., last]

        return replace(self, shape=shape, source=read)

    def astype(self, dtype: Any) -> "LazyTensor":
        """Return the tensor rounded to `dtype` when read (None: as it is)."""
        return self if dtype is None else replace(self, dtype=np.dtype(dtype))

    def finite(self) -> "LazyTensor":
        """Return the tensor with a check of its values.

        Raises:
          ValueError: on reading, if a value (after rounding to `dtype`) is infinite or NaN.
        """
        return replace(self, source=lambda at: _check_finite(self.read(at), self.name, at))

    def each(self, call: Callable[[], Any]) -> "LazyTensor":
        """Return the tensor with `call` after every read, for a progress bar."""

        def read(index: Index) -> np.ndarray:
            array = self.read(index)
            call()
            return array

        return replace(self, source=read)


def from_array(array: Any, name: str = "array") -> LazyTensor:
    """Wrap a numpy or jax array; a jax array, on a mesh or not, is fetched when read."""

    def read(index: Index) -> np.ndarray:
        fetched = array
        if isinstance(array, jax.Array):  # a new one, as it keeps what it fetched
            parts = [shard.data for shard in array.addressable_shards]
            fetched = jax.make_array_from_single_device_arrays(array.shape, array.sharding, parts)
        return np.asarray(fetched)[index]

    return LazyTensor(name, tuple(array.shape), np.dtype(array.dtype), read)


def common_dtype(tree: Any) -> np.dtype:
    """Return the one dtype that holds all of a tree's weights exactly."""
    kinds = {tensor.dtype for tensor in jax.tree.leaves(tree)}
    return kinds.pop() if len(kinds) == 1 else np.dtype(np.float32)


def _check_finite(array: np.ndarray, name: str, part: Index) -> np.ndarray:
    integer, mask = _EXPONENT[array.dtype]
    bits = array.reshape(-1).view(integer)
    for start in range(0, bits.size, _BLOCK):
        bad = (bits[start : start + _BLOCK] & mask) == mask
        if bad.any():
            index = np.unravel_index(start + int(bad.argmax()), array.shape)
            value = float(array[index])
            at = [int(i) + where.start for i, where in zip(index, part, strict=True)]
            raise ValueError(
                f"{name}: value {value} at {at} in {array.dtype.name}; weights must be finite: "
                "use an undamaged checkpoint or a wider dtype"
            )
    return array
