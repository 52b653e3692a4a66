"""Bytes that a decode needs on each chip, part by part, before and beside the compiler's count."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mtad_jax.decode.loop import CHUNK
from mtad_jax.models.protocol import BoundLM
from mtad_jax.planning.job import Job, state_of

_LANES, _SUBLANES = 128, 8  # a TPU's tile: the last two dimensions are padded to it
_LAWS = 6  # arrays [B, N, V] of f32 that are live at once: logits, log-laws, their sort


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of arrays on each chip; the code comes on top, which only the compiler knows.

    Attributes:
      parts: name -> bytes that stay there from round to round.
      laws: logits and the distributions made of them, of the widest call.
      activations: everything else that prefill or a round needs for a while.
    """

    parts: dict[str, int]
    laws: int
    activations: int

    @property
    def kept(self) -> int:
        """Bytes of all parts that stay: the program's arguments."""
        return sum(self.parts.values())

    @property
    def temporaries(self) -> int:
        """Bytes that come and go; prefill makes no logits, so the larger of both counts."""
        return self.laws + self.activations

    @property
    def total(self) -> int:
        """All of it."""
        return self.kept + self.temporaries


def analytic(job: Job, *, tpu: bool) -> Memory:
    """Add up a decode's bytes on each chip from shapes alone.

    Args:
      job: the decode.
      tpu: count the padding of arrays to a TPU's tiles.
    """
    size = padded_bytes if tpu else plain_bytes
    state = state_of(job)
    parts = {f"{name} weights": total(lm.params, size) for name, lm in job.models.items()}
    caches = {name: total(getattr(state, f"{name}_cache"), size) for name in job.models}
    share = job.scratch / job.slots
    for name, cache in caches.items():
        parts[f"{name} cache"] = round(cache * (1 - share))
    parts["scratch slots"] = sum(caches.values()) - sum(parts[f"{name} cache"] for name in caches)
    rest = dataclasses.replace(state, target_cache=None, draft_cache=None)
    parts["text and trace"] = total(rest, size)
    laws = _laws(job)
    fill, step = _activations(job, min(job.prompt, CHUNK)), _activations(job, job.scratch)
    return Memory(parts, laws, max(fill - laws, step))


def total(tree: Any, size: Callable[[Any], int]) -> int:
    """Return the bytes of a tree's arrays on one chip."""
    return sum(size(leaf) for leaf in jax.tree.leaves(tree))


def _local(leaf: Any) -> tuple[tuple[int, ...], int]:
    """Return the shape of a chip's part of an array, and the bytes of an item."""
    shape = leaf.sharding.shard_shape(leaf.shape)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return (*shape, 2), 4  # what a key is made of
    return shape, leaf.dtype.itemsize


def plain_bytes(leaf: Any) -> int:
    """Return the bytes of a chip's part of an array."""
    shape, item = _local(leaf)
    return math.prod(shape) * item


def padded_bytes(leaf: Any) -> int:
    """Return them as a TPU keeps it: the last two dimensions padded to tiles, whichever way less.

    A short dimension of rows gets a short tile.
    """
    shape, item = _local(leaf)
    if len(shape) < 2:
        return -(-math.prod(shape) // _LANES) * _LANES * item
    *outer, a, b = shape

    def tiles(rows: int, columns: int) -> int:
        short = min(_SUBLANES, 1 << (rows - 1).bit_length()) if rows else 1
        return -(-rows // short) * short * (-(-columns // _LANES)) * _LANES

    return math.prod(outer) * min(tiles(a, b), tiles(b, a)) * item


def _rows(job: Job) -> int:
    return job.batch // job.mesh.shape["data"]


def _laws(job: Job) -> int:
    """Return the bytes of a verification's logits and laws."""
    return _LAWS * 4 * _rows(job) * job.scratch * job.target.vocab_size


def _activations(job: Job, tokens: int) -> int:
    """Return the bytes of a call on so many tokens a row, of the model that needs more."""
    return max(_layer(job, lm, tokens) for lm in job.models.values())


def _layer(job: Job, lm: BoundLM, tokens: int) -> int:
    """Return the bytes of one layer's activations for so many tokens a row."""
    model: Any = lm.model
    c, item = model.config, lm.dtype.itemsize
    split = math.prod(job.mesh.shape[a] for a in dict(model.layout.rules.table).get("mlp", ()))
    stream = c.embed_dim * (2 * item + 4)
    hidden = 2 * c.mlp_dim // split * item
    scores = c.num_heads // split * job.slots * (4 + item)
    return _rows(job) * tokens * (stream + max(hidden, scores))
