"""Small models for tests: a table that hashes its whole context, and a pair of random Llamas."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from mtad_jax.models.cache import visible_slots
from mtad_jax.models.early_exit import early_exit
from mtad_jax.models.linen import LinenLM
from mtad_jax.models.llama import Llama, LlamaConfig
from mtad_jax.models.protocol import BoundLM
from mtad_jax.types import Array, Bool, Float, Int, Params

_POISON = 5  # what an unwritten slot holds: reading one must change the result


@struct.dataclass
class TableCache:
    """What a `TableLM` remembers.

    Attributes:
      token: [B, S] token written to each slot.
      position: [B, S] position it was written with.
    """

    token: Int[Array, "B S"]
    position: Int[Array, "B S"]


@dataclass(frozen=True)
class TableLM:
    """A fake `CausalLM`: the visible context picks a row of the table of logits.

    The row is sum (token_i + 1) (position_i + 1)^2 mod `rows` over the visible slots, so that a
    wrong slot, window, position or `keep` picks another one. `params["table"]` is [rows, V].

    Attributes:
      rows: rows of the table, at most 4096 (the sum stays within int32); primes hash best.
      vocab_size: V.
      max_positions: positions that a call may use.
      trees: False: `apply` refuses a window, as a model that runs chains only would.
    """

    rows: int
    vocab_size: int
    max_positions: int = 4096
    trees: bool = True

    def init_cache(self, batch: int, slots: int, dtype: jnp.dtype) -> TableCache:
        """Return a cache full of what nobody may read."""
        poison = jnp.full((batch, slots), _POISON, jnp.int32)
        return TableCache(poison, poison)

    def apply(
        self,
        params: Params,
        tokens: Int[Array, "B T"],
        *,
        positions: Int[Array, "B T"],
        write_at: Int[Array, " B"],
        prefix: Int[Array, " B"],
        window: Bool[Array, "B T R"] | None,
        cache: TableCache,
    ) -> tuple[Float[Array, "B T V"], TableCache]:
        """Run T tokens a row; see `CausalLM.apply`."""
        if window is not None and not self.trees:
            raise ValueError("this model runs chains only: no window")
        slot = write_at[:, None] + jnp.arange(tokens.shape[1])
        cache = TableCache(_put(cache.token, tokens, slot), _put(cache.position, positions, slot))
        slots = cache.token.shape[1]
        visible = visible_slots(slots, tokens.shape[1], write_at, prefix, window)
        square = (cache.position + 1) ** 2 % self.rows
        value = (cache.token + 1) % self.rows * square % self.rows
        row = jnp.sum(jnp.where(visible, value[:, None], 0), axis=-1) % self.rows
        return params["table"][row].astype(jnp.float32), cache

    def keep(
        self, cache: TableCache, source: Int[Array, "B M"], dest: Int[Array, " B"], *, span: int
    ) -> TableCache:
        """Copy cache slots; see `CausalLM.keep`. A source outside the span is not found."""
        slot = dest[:, None] + jnp.arange(source.shape[1])
        offset = source - dest[:, None] + 1
        inside = (offset >= 0) & (offset < span)

        def move(buffer: Array) -> Array:
            picked = jnp.take_along_axis(buffer, source, axis=1)
            return _put(buffer, jnp.where(inside, picked, _POISON), slot)

        return TableCache(move(cache.token), move(cache.position))


def _put(buffer: Array, update: Array, slot: Int[Array, "B T"]) -> Array:
    """Write to each row's slots; what lies past the buffer is lost, not moved back inside."""
    rows = jnp.arange(buffer.shape[0])[:, None]
    return buffer.at[rows, slot].set(update, mode="drop")


def table_lm(table: Float[Array | np.ndarray, "rows V"], max_positions: int = 4096) -> BoundLM:
    """Return the `TableLM` of a table of logits, ready for `generate`."""
    table = jnp.asarray(table, jnp.float32)
    return BoundLM({"table": table}, TableLM(*table.shape, max_positions=max_positions))


def tiny_pair(seed: int = 0, *, vocab: int = 64, max_positions: int = 512):
    """Return a random Llama of two layers and, as its draft, the same without the second layer.

    Both are f32. Weights are larger than at the start of a training, so that the distributions
    have peaks; sharing the first layer makes draft and target agree now and then.

    Returns:
      target, draft: `BoundLM`s of one vocabulary.
    """
    config = LlamaConfig(
        vocab_size=vocab, embed_dim=32, mlp_dim=64, num_layers=2, num_heads=4, num_kv_heads=2,
        head_dim=8, max_positions=max_positions, norm_eps=1e-5, rope_theta=1e4, rope_scaling=None,
        tied_head=False, attention_bias=False, mlp_bias=False,
    )  # fmt: skip
    model = LinenLM(Llama(config))
    params = dict(model.init(jax.random.key(seed)))
    params = jax.tree.map(lambda x: 12 * x if x.ndim == 2 else x, params)
    target = BoundLM(params, model)
    return target, early_exit(target, 1)
