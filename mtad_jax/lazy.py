"""Tensors that are known by shape and dtype and read one at a time.

Readers hand them out and writers take them, so a conversion never holds more than the tensor at
hand.
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


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is read when asked for, each time anew.

    Attributes:
      name: for messages: file and key.
      shape, dtype: of what `read` returns.
      source: returns the array.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    source: Callable[[], np.ndarray]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the array that `read` returns."""
        return self.size * self.dtype.itemsize

    def read(self) -> np.ndarray:
        """Return the array, C-contiguous."""
        with np.errstate(over="ignore"):  # what becomes infinite, `finite` reports by name
            return np.asarray(self.source(), dtype=self.dtype, order="C")

    def transposed(self) -> "LazyTensor":
        """Return the transpose of a matrix."""
        source = self.source
        return replace(self, shape=self.shape[::-1], source=lambda: np.transpose(source()))

    def astype(self, dtype: Any) -> "LazyTensor":
        """Return the tensor rounded to `dtype` when read (None: as it is)."""
        return self if dtype is None else replace(self, dtype=np.dtype(dtype))

    def finite(self) -> "LazyTensor":
        """Return the tensor with a check of its values.

        Raises:
          ValueError: on reading, if a value (after rounding to `dtype`) is infinite or NaN.
        """
        return replace(self, source=lambda: _check_finite(self.read(), self.name))

    def each(self, call: Callable[[], Any]) -> "LazyTensor":
        """Return the tensor with `call` after every read, for a progress bar."""

        def read() -> np.ndarray:
            array = self.read()
            call()
            return array

        return replace(self, source=read)


def from_array(array: Any, name: str = "array") -> LazyTensor:
    """Wrap a numpy or jax array; a jax array is fetched when read."""
    return LazyTensor(name, tuple(array.shape), np.dtype(array.dtype), lambda: np.asarray(array))


def common_dtype(tree: Any) -> np.dtype:
    """Return the one dtype that holds all of a tree's weights exactly."""
    kinds = {tensor.dtype for tensor in jax.tree.leaves(tree)}
    return kinds.pop() if len(kinds) == 1 else np.dtype(np.float32)


def _check_finite(array: np.ndarray, name: str) -> np.ndarray:
    integer, mask = _EXPONENT[array.dtype]
    bits = array.reshape(-1).view(integer)
    for start in range(0, bits.size, _BLOCK):
        bad = (bits[start : start + _BLOCK] & mask) == mask
        if bad.any():
            index = np.unravel_index(start + int(bad.argmax()), array.shape)
            value, at = float(array[index]), [int(i) for i in index]
            raise ValueError(
                f"{name}: value {value} at {at} in {array.dtype.name}; weights must be finite: "
                "use an undamaged checkpoint or a wider dtype"
            )
    return array
