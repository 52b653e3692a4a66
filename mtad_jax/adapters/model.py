"""`AdaptedLM`: a foreign model behind the `CausalLM` protocol."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from mtad_jax.adapters.slots import Buffer, CacheForm, InitCache
from mtad_jax.models.cache import visible_slots
from mtad_jax.types import Array, Bool, Float, Int, Params

Buffers = tuple[Array, ...]
"""A foreign cache without its indices; see `CacheForm`."""


@struct.dataclass
class Inputs:
    """What a foreign model is called with: take what it needs, under its own names.

    B is 1 unless the model was adapted with `together=True`.

    Attributes:
      tokens: [B, T] int32.
      positions: [B, T] int32; in a draft that is a tree a token's depth in the text, not its slot.
      mask: [B, T, S] which of the cache's slots each token sees, its own among them. S is all
        slots of the cache, as after the call.
      write_at: [B] slot of each row's first token; the cache's own indices say it already.
      cache: as `init_cache` makes it, its indices at `write_at`.
    """

    tokens: Int[Array, "B T"]
    positions: Int[Array, "B T"]
    mask: Bool[Array, "B T S"]
    write_at: Int[Array, " B"]
    cache: Any


Call = Callable[[Any, Inputs], tuple[Array, Any]]
"""`call(params, inputs)`: the logits [B, T, V] and the new cache."""


@dataclass(frozen=True)
class AdaptedLM:
    """A foreign model as a `CausalLM`; made by `from_linen`, `from_nnx` and `from_function`.

    Foreign models write all rows of a batch from one slot on, while the rows of a decode have
    lengths of their own. So each row is a call of its own, with the cache's index at its slot, and
    `jax.vmap` makes one call of them.

    Attributes:
      call: runs the model.
      init: makes its empty cache.
      form: of that cache.
      vocab_size: V, logits of a position.
      max_positions: positions that it was made for.
      trees: whether it heeds `Inputs.mask` and `Inputs.positions`.
      together: whether `call` takes rows that write at different slots.
    """

    call: Call
    init: InitCache
    form: CacheForm
    vocab_size: int
    max_positions: int
    trees: bool
    together: bool

    def init_cache(self, batch: int, slots: int, dtype: jnp.dtype) -> Buffers:
        """Return the buffers of an empty cache with `slots` places a row."""
        return self.form.pack(self.init(batch, slots, dtype))

    def apply(
        self,
        params: Params,
        tokens: Int[Array, "B T"],
        *,
        positions: Int[Array, "B T"],
        write_at: Int[Array, " B"],
        prefix: Int[Array, " B"],
        window: Bool[Array, "B T R"] | None,
        cache: Buffers,
    ) -> tuple[Float[Array, "B T V"], Buffers]:
        """Run T tokens a row; see `CausalLM.apply`.

        Raises:
          ValueError: a window, of a model that runs chains only.
        """
        if window is not None and not self.trees:
            raise ValueError("this model was adapted with trees=False: it takes no window")
        mask = visible_slots(self.form.slots(cache), tokens.shape[1], write_at, prefix, window)
        if self.together or tokens.shape[0] == 1:
            return self._run(params, tokens, positions, mask, write_at, cache)
        rows = tuple(buffer.row for buffer in self.form.buffers)
        by_row = jax.vmap(self._run_row, in_axes=(None, 0, 0, 0, 0, rows), out_axes=(0, rows))
        return by_row(params, tokens, positions, mask, write_at, cache)

    def _run_row(self, params: Params, tokens, positions, mask, write_at, cache: Buffers):
        """Run one row, whose arrays have no axis of rows."""
        rows = [buffer.row for buffer in self.form.buffers]
        cache = tuple(jnp.expand_dims(x, row) for x, row in zip(cache, rows, strict=True))
        tokens, positions, mask, write_at = (x[None] for x in (tokens, positions, mask, write_at))
        logits, cache = self._run(params, tokens, positions, mask, write_at, cache)
        return logits[0], tuple(jnp.squeeze(x, row) for x, row in zip(cache, rows, strict=True))

    def _run(self, params: Params, tokens, positions, mask, write_at, cache: Buffers):
        """Call the model."""
        foreign = self.form.unpack(cache, write_at)
        logits, foreign = self.call(params, Inputs(tokens, positions, mask, write_at, foreign))
        return logits.astype(jnp.float32), self.form.pack(foreign)

    def keep(
        self, cache: Buffers, source: Int[Array, "B M"], dest: Int[Array, " B"], *, span: int
    ) -> Buffers:
        """Copy cache slots; see `CausalLM.keep`."""
        pairs = zip(cache, self.form.buffers, strict=True)
        return tuple(_keep(x, buffer, source, dest, span) for x, buffer in pairs)


def _keep(x: Array, buffer: Buffer, source: Array, dest: Array, span: int) -> Array:
    """Copy the slots of one buffer; the `span` slots that sources lie in are read as one slice."""
    axis = buffer.slot - (buffer.row < buffer.slot)  # of a row

    def one(row: Array, source: Array, dest: Array) -> Array:
        read = lax.dynamic_slice_in_dim(row, dest - 1, span, axis)
        picked = jnp.take(read, source - (dest - 1), axis=axis, mode="clip")
        return lax.dynamic_update_slice_in_dim(row, picked, dest, axis)

    return jax.vmap(one, in_axes=(buffer.row, 0, 0), out_axes=buffer.row)(x, source, dest)
