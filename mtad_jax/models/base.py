"""What the decoder needs of a language model: the `CausalLM` protocol and `BoundLM`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from mtad_jax import cache as kv
from mtad_jax.types import Array, Bool, Float, Int, Params


@runtime_checkable
class CausalLM(Protocol):
    """A language model as a pure function of its parameters and its cache.

    Static and hashable: holds no arrays, so that it can be a jit constant.
    """

    @property
    def vocab_size(self) -> int:
        """Number of logits a position gets."""
        ...

    @property
    def max_positions(self) -> int:
        """Positions 0 ... max_positions - 1 are meaningful to the model."""
        ...

    @property
    def trees(self) -> bool:
        """Whether `apply` takes a `window`, as rules that draft a tree of tokens need."""
        ...

    def init_cache(self, batch: int, slots: int, dtype: jnp.dtype) -> Any:
        """Return an empty cache with `slots` places a row."""
        ...

    def apply(
        self,
        params: Params,
        tokens: Int[Array, "B T"],
        *,
        positions: Int[Array, "B T"],
        write_at: Int[Array, " B"],
        prefix: Int[Array, " B"],
        window: Bool[Array, "B T R"] | None,
        cache: Any,
    ) -> tuple[Float[Array, "B T V"], Any]:
        """Run T tokens a row, writing them to the cache from slot `write_at[b]` on.

        Visibility is `mtad_jax.cache.visible_slots`. Returns f32 logits and the new cache.
        """
        ...

    def keep(
        self, cache: Any, source: Int[Array, "B M"], dest: Int[Array, " B"], *, span: int
    ) -> Any:
        """Copy cache slot `source[b, m]` to `dest[b] + m`, all reads before all writes.

        Every source lies in the `span` slots from `dest[b] - 1` on.
        """
        ...


class LMConfig(Protocol):
    """What `LinenLM` reads of an architecture's config."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def max_positions(self) -> int: ...
    @property
    def num_layers(self) -> int: ...
    @property
    def num_kv_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...


@dataclass(frozen=True)
class LinenLM:
    """A flax.linen module of this package, applied purely, as a `CausalLM`.

    Attributes:
      module: hashable linen module with a `config` field (`Llama`, `OPT`).
    """

    module: nn.Module

    @property
    def config(self) -> LMConfig:
        """The architecture's config dataclass."""
        return self.module.config  # type: ignore[attr-defined]

    @property
    def vocab_size(self) -> int:
        """Number of logits a position gets."""
        return self.config.vocab_size

    @property
    def max_positions(self) -> int:
        """Positions 0 ... max_positions - 1 are meaningful to the model."""
        return self.config.max_positions

    @property
    def trees(self) -> bool:
        """Trees can be run."""
        return True

    def init(self, rng: Array, dtype: jnp.dtype = jnp.float32) -> Params:
        """Return random parameters, unboxed, cast to `dtype`."""
        tokens = jnp.zeros((1, 1), jnp.int32)
        boxed = self.module.init(rng, tokens, positions=tokens)["params"]
        return jax.tree.map(lambda x: x.astype(dtype), nn.meta.unbox(boxed))

    def param_shapes(self) -> Mapping[str, Any]:
        """Return the parameter tree as `jax.ShapeDtypeStruct`s (f32), without computing it."""
        return jax.eval_shape(self.init, jax.random.key(0))

    def param_axes(self) -> Mapping[str, Any]:
        """Return the parameter tree with each array's logical axis names (PartitionSpec)."""
        tokens = jnp.zeros((1, 1), jnp.int32)
        boxed = jax.eval_shape(
            lambda: self.module.init(jax.random.key(0), tokens, positions=tokens)["params"]
        )
        return nn.get_partition_spec(boxed)

    def init_cache(self, batch: int, slots: int, dtype: jnp.dtype) -> kv.KVCache:
        """Return an empty cache with `slots` places a row."""
        c = self.config
        return kv.empty_cache(c.num_layers, batch, c.num_kv_heads, slots, c.head_dim, dtype)

    def apply(
        self,
        params: Params,
        tokens: Int[Array, "B T"],
        *,
        positions: Int[Array, "B T"],
        write_at: Int[Array, " B"],
        prefix: Int[Array, " B"],
        window: Bool[Array, "B T R"] | None,
        cache: kv.KVCache,
    ) -> tuple[Float[Array, "B T V"], kv.KVCache]:
        """Run T tokens a row; see `CausalLM.apply`."""
        return self.module.apply(
            {"params": params},
            tokens,
            positions=positions,
            write_at=write_at,
            prefix=prefix,
            window=window,
            cache=cache,
        )  # type: ignore[return-value]

    def train_logits(self, params: Params, tokens: Int[Array, "B T"]) -> Float[Array, "B T V"]:
        """Return f32 logits of every position of whole sequences, without a cache."""
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        logits, _ = self.module.apply({"params": params}, tokens, positions=positions)
        return logits

    def keep(
        self,
        cache: kv.KVCache,
        source: Int[Array, "B M"],
        dest: Int[Array, " B"],
        *,
        span: int,
    ) -> kv.KVCache:
        """Copy cache slots; see `CausalLM.keep`."""
        return kv.keep(cache, source, dest, span=span)


@struct.dataclass
class BoundLM:
    """A model with its parameters: what `generate` takes.

    Attributes:
      params: the parameter tree, on device.
      model: the static model.
      vocab: ids 0 ... vocab - 1 are real tokens; rows past it are padding and never chosen.
        None: `model.vocab_size`.
    """

    params: Params
    model: CausalLM = struct.field(pytree_node=False)
    vocab: int | None = struct.field(pytree_node=False, default=None)

    @property
    def vocab_size(self) -> int:
        """Number of real token ids."""
        return self.model.vocab_size if self.vocab is None else self.vocab

    @property
    def dtype(self) -> jnp.dtype:
        """The parameters' dtype, which the cache shares."""
        return jax.tree.leaves(self.params)[0].dtype
