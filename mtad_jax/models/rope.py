"""Rotary position encoding, and its stretchings beyond the trained context.

Source: Su et al. 2021, arXiv 2104.09864; the stretchings as Hugging Face's `modeling_rope_utils`
has them.
"""

import math
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from mtad_jax.types import Array, Float, Int


@dataclass(frozen=True)
class RopeScaling:
    """Stretching of the rotary frequencies beyond the trained context.

    Attributes:
      kind: "linear" (positions divided by `factor`), "llama3" (Llama 3.1: only the low frequencies
        are divided, with a ramp between by wavelength) or "yarn" (likewise, with a ramp by number
        of the pair, and angles that are scaled by `magnitude`; arXiv 2309.00071).
      factor: by how much.
      low_freq_factor, high_freq_factor: the ramp of "llama3".
      original_max_positions: the trained context, of "llama3" and "yarn".
      beta_fast, beta_slow: the ramp of "yarn", in turns over the trained context.
      truncate: that ramp begins and ends at whole pairs.
      magnitude: factor of every cosine and sine.
    """

    kind: str
    factor: float
    low_freq_factor: float = 0.0
    high_freq_factor: float = 0.0
    original_max_positions: int = 0
    beta_fast: float = 0.0
    beta_slow: float = 0.0
    truncate: bool = True
    magnitude: float = 1.0


@dataclass(frozen=True)
class Rope:
    """A rotary encoding: the base of its frequencies, and how they are stretched, if at all."""

    theta: float
    scaling: RopeScaling | None


def rope_frequencies(
    head_dim: int, theta: float, scaling: RopeScaling | None
) -> Float[Array, " D/2"]:
    """Return the angular step of each pair of dimensions, in radians a position."""
    # On the host, where the power is exact to the last bit but one, whatever the back end.
    freq = 1.0 / np.float32(theta) ** (np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)
    if scaling is None:
        return jnp.asarray(freq)
    if scaling.kind == "linear":
        return jnp.asarray(freq / np.float32(scaling.factor))
    # 1: short waves, kept; 0: long waves, divided
    if scaling.kind == "llama3":
        ramp = _ramp_by_wavelength(freq, scaling)
    else:
        ramp = 1 - _ramp_by_pair(head_dim, theta, scaling)
    return jnp.asarray(ramp * freq + (1 - ramp) * freq / scaling.factor, jnp.float32)


def _ramp_by_wavelength(freq: np.ndarray, scaling: RopeScaling) -> np.ndarray:
    wavelength = 2 * math.pi / freq
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    ramp = (scaling.original_max_positions / wavelength - low) / (high - low)
    return np.clip(ramp, 0.0, 1.0)


def _ramp_by_pair(head_dim: int, theta: float, scaling: RopeScaling) -> np.ndarray:
    """Return 0 for pairs of `beta_fast` turns or more, 1 of `beta_slow` or fewer, a line between.

    Where the line begins and ends is a pair's number, but need not be a whole one.
    """

    def pair_of(turns: float) -> float:
        length = scaling.original_max_positions / (2 * math.pi * turns)
        return head_dim * math.log(length) / (2 * math.log(theta))

    first, last = pair_of(scaling.beta_fast), pair_of(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_dim - 1)
    if first == last:
        last += 0.001  # a step
    pairs = np.arange(head_dim // 2, dtype=np.float32)
    return np.clip((pairs - np.float32(first)) / np.float32(last - first), 0.0, 1.0)


def rope_angles(
    positions: Int[Array, "B T"], head_dim: int, rope: Rope
) -> tuple[Float[Array, "B T D/2"], Float[Array, "B T D/2"]]:
    """Return cos and sin of every position's angles, f32."""
    frequencies = rope_frequencies(head_dim, rope.theta, rope.scaling)
    angles = positions[..., None].astype(jnp.float32) * frequencies
    magnitude = 1.0 if rope.scaling is None else rope.scaling.magnitude
    return magnitude * jnp.cos(angles), magnitude * jnp.sin(angles)


def rotate(
    x: Float[Array, "B T H D"], cos: Float[Array, "B T D/2"], sin: Float[Array, "B T D/2"]
) -> Float[Array, "B T H D"]:
    """Rotate the two halves of each head (Hugging Face's half-split form), in f32."""
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = cos[:, :, None], sin[:, :, None]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)
