"""Array aliases, parameter trees, and the axis letters used in every shape comment.

B rows, T tokens in a call, S cache slots, R scratch slots, N tree nodes, K draft depth, W beam
width, V vocabulary, L layers, H query heads, G key/value heads, D head size, E model width,
F hidden width of the MLP.
"""

from collections.abc import Mapping
from typing import Any

from jax import Array
from jaxtyping import Bool, Float, Int, Key

Params = Mapping[str, Any]
"""Nested mapping of arrays: what `flax.linen.Module.init(...)["params"]` gives, unboxed."""

__all__ = ["Array", "Bool", "Float", "Int", "Key", "Params"]
