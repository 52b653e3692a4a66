"""Modules of this package as language models: parameters, layouts, int8 and caches."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh

from mtad_jax.devices.sharding import Layout, Rules, check_axes, constrain, is_spec
from mtad_jax.models import cache as kv
from mtad_jax.models import quantize as q8
from mtad_jax.types import Array, Bool, Float, Int, Params


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
    @property
    def num_heads(self) -> int: ...
    @property
    def embed_dim(self) -> int: ...
    @property
    def mlp_dim(self) -> int: ...


_LOGITS = ("batch", None, "vocab")
_WHOLE_LOGITS = ("batch", None, None)


@dataclass(frozen=True)
class LinenLM:
    """A flax.linen module of this package, applied purely, as a `CausalLM`.

    Attributes:
      module: hashable linen module with the fields `config` and `layout`, such as `Llama`.
      kv_repeat: how often each stored key/value head is repeated in the parameters, so that every
        device of the mesh's model axis has one; see `on`.
      int8: which of `mtad_jax.models.quantize.PARTS` are int8; see `quantized`.
    """

    module: nn.Module
    kv_repeat: int = 1
    int8: frozenset[str] = frozenset()

    @property
    def config(self) -> LMConfig:
        """The architecture's config dataclass."""
        return self.module.config  # type: ignore[attr-defined]

    @property
    def layout(self) -> Layout | None:
        """Where parameters, caches and activations lie; None: wherever the compiler likes."""
        return self.module.layout  # type: ignore[attr-defined]

    def on(self, mesh: Mesh, *, replicated: bool = False) -> "LinenLM":
        """Return this model laid out on a mesh.

        Heads, hidden units and vocabulary are split over `model`, the other dimension of every
        weight over `fsdp`, rows over `data`. With fewer key/value heads than the model axis each
        head is repeated, so that a device computes and caches just the one that its query heads
        read. A vocabulary that `model` does not divide stays whole.

        Args:
          mesh: of `make_mesh`.
          replicated: every device holds the whole model; only rows are split.

        Raises:
          ValueError: heads, hidden units or width do not divide, naming sizes that do; the model
            is on a mesh already, or the mesh has other axes.
        """
        if self.layout is not None:
            raise ValueError("the model is on a mesh already: lay out the one that was read")
        check_axes(mesh)
        rules, repeat = [("batch", ("data",))], 1
        config: Any = self.config
        if not replicated:
            split = mesh.shape["model"]
            repeat = self.check_split(model=split, fsdp=mesh.shape["fsdp"])
            whole = ("model",)
            rules += [("heads", whole), ("kv_heads", whole), ("mlp", whole), ("embed", ("fsdp",))]
            rules += [("vocab", whole)] if config.vocab_size % split == 0 else []
        if repeat > 1:
            config = dataclasses.replace(config, num_kv_heads=config.num_kv_heads * repeat)
        module = self.module.clone(config=config, layout=Layout(mesh, Rules(tuple(rules))))
        return dataclasses.replace(self, module=module, kv_repeat=repeat)

    def check_split(self, *, model: int, fsdp: int) -> int:
        """Check that mesh axes of these sizes divide the model.

        Returns how often each key/value head must be there.

        Raises:
          ValueError: heads, hidden units or width do not divide, naming sizes that do.
        """
        c: Any = self.config
        _check_divides("model", model, num_heads=c.num_heads, mlp_dim=c.mlp_dim)
        word_dim = getattr(c, "word_dim", c.embed_dim)  # OPT's token table
        _check_divides("fsdp", fsdp, embed_dim=c.embed_dim, word_dim=word_dim)
        return _kv_repeat(c.num_kv_heads, model)

    def quantized(self, int8: str | Iterable[str]) -> "LinenLM":
        """Return this model with weights, cache or both as int8; see `mtad_jax.models.quantize`.

        It holds no arrays, so this costs nothing: `param_shapes`, `param_axes` and
        `param_shardings` then give trees whose matrices are `QArray`s. `BoundLM.quantized` does
        it to parameters too.

        Args:
          int8: "weights", "kv", both ("weights,kv"), or none ("").

        Raises:
          ValueError: an unknown name, or a part that is int8 already.
        """
        parts = q8.parse_int8(int8)
        for name in sorted(parts & self.int8):
            raise ValueError(f"int8={name}: the model's {name} are int8 already: leave it out")
        return dataclasses.replace(self, int8=self.int8 | parts)

    def param_shardings(self) -> Mapping[str, Any]:
        """Return the parameter tree with each array's `NamedSharding`.

        Raises:
          ValueError: the model is on no mesh.
        """
        layout = self.layout
        if layout is None:
            raise ValueError("the model is on no mesh: call on(make_mesh(...)) first")
        return jax.tree.map(
            lambda axes: layout.sharding(tuple(axes)),
            self.param_axes(),
            is_leaf=is_spec,
        )

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

    @property
    def _plain(self) -> nn.Module:
        """The module on no mesh, whose one-row calls of `init` need not be split."""
        return self.module.clone(layout=None)

    def init(self, rng: Array, dtype: jnp.dtype = jnp.float32) -> Params:
        """Return random parameters, unboxed, cast to `dtype`."""
        tokens = jnp.zeros((1, 1), jnp.int32)
        params = nn.meta.unbox(self._plain.init(rng, tokens, positions=tokens)["params"])
        return self.convert(params, dtype)

    def convert(self, params: Params, dtype: jnp.dtype) -> Params:
        """Return full-precision parameters as this model has them: in `dtype`, or as int8."""
        if "weights" not in self.int8:
            return jax.tree.map(lambda x: x.astype(dtype), params)
        return jax.tree.map(
            lambda x, axes: q8.quantize_param(x, tuple(axes), dtype, self.layout),
            params,
            self.stored_axes(),
        )

    def param_shapes(self, dtype: jnp.dtype = jnp.float32) -> Mapping[str, Any]:
        """Return the parameter tree as `jax.ShapeDtypeStruct`s, without computing it.

        With int8 weights the leaves of a matrix are an int8 array and its scales in `dtype`. Never
        replace a leaf's dtype by that of the model: give it here. Together with `param_shardings`,
        this is all that compiling without arrays needs:

            jax.tree.map(lambda s, w: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=w),
                         lm.param_shapes(jnp.bfloat16), lm.param_shardings())
        """
        return jax.eval_shape(lambda: self.init(jax.random.key(0), dtype))

    def param_axes(self) -> Mapping[str, Any]:
        """Return the parameter tree with each array's logical axis names (PartitionSpec)."""
        if "weights" not in self.int8:
            return self.stored_axes()
        return jax.tree.map(
            lambda axes: q8.quantized_axes(tuple(axes)),
            self.stored_axes(),
            is_leaf=is_spec,
        )

    def stored_axes(self) -> Mapping[str, Any]:
        """Return the axes of the parameters in full precision, as checkpoints hold them."""
        tokens = jnp.zeros((1, 1), jnp.int32)
        boxed = jax.eval_shape(
            lambda: self._plain.init(jax.random.key(0), tokens, positions=tokens)["params"]
        )
        return nn.get_partition_spec(boxed)

    def init_cache(self, batch: int, slots: int, dtype: jnp.dtype) -> kv.KVCache:
        """Return an empty cache with `slots` places a row."""
        c = self.config
        return kv.empty_cache(
            c.num_layers, batch, c.num_kv_heads, slots, c.head_dim, dtype, self.layout,
            quantized="kv" in self.int8,
        )  # fmt: skip

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
        logits, cache = self.module.apply(
            {"params": params},
            tokens,
            positions=positions,
            write_at=write_at,
            prefix=prefix,
            window=window,
            cache=cache,
        )  # type: ignore[misc]
        # Split over the vocabulary first: else the partitioner may gather the head's weights.
        logits = constrain(self.layout, logits, _LOGITS)
        return constrain(self.layout, logits, _WHOLE_LOGITS), cache

    def train_logits(
        self,
        params: Params,
        tokens: Int[Array, "B T"],
        documents: Int[Array, "B T"] | None = None,
    ) -> Float[Array, "B T V"]:
        """Return f32 logits of every position of whole sequences, without a cache.

        Args:
          params: the parameters.
          tokens: rows to score.
          documents: which document of its row a token belongs to, each in one stretch: tokens see
            those of their own alone, and positions start anew with each. None: one a row.
        """
        if documents is None:
            positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
            return self.window_logits(params, tokens, positions, None)
        return self.window_logits(params, tokens, *in_documents(documents))

    def window_logits(
        self,
        params: Params,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        window: Bool[Array, "B T T"] | None,
    ) -> Float[Array, "B T V"]:
        """Return f32 logits of every token, without a cache.

        Args:
          params: the parameters.
          tokens: rows to score.
          positions: of each token.
          window: of the tokens up to its own, which each sees; None: all of them.
        """
        logits, _ = self.module.apply(
            {"params": params}, tokens, positions=positions, window=window
        )
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
        return kv.keep(cache, source, dest, span=span, layout=self.layout)


def in_documents(
    documents: Int[Array, "B T"],
) -> tuple[Int[Array, "B T"], Bool[Array, "B T T"]]:
    """Return each token's position in its own document, and which tokens are of that document.

    Args:
      documents: which document of its row a token belongs to, each in one stretch.
    """
    same = documents[:, :, None] == documents[:, None, :]
    positions = jnp.broadcast_to(jnp.arange(documents.shape[1]), documents.shape)
    return positions - jnp.argmax(same, axis=-1), same


def _check_divides(axis: str, size: int, **dims: int) -> None:
    for name, dim in dims.items():
        if dim % size:
            good = [n for n in range(1, dim + 1) if dim % n == 0 and n <= 2 * size]
            raise ValueError(
                f"mesh axis {axis}:{size} does not divide {name}={dim}: use one of {axis}:"
                f"{','.join(map(str, good))}, and give the other devices to another axis"
            )


def _kv_repeat(heads: int, split: int) -> int:
    """Return how often each key/value head must be there for `split` devices to have one."""
    if heads % split == 0:
        return 1
    if split % heads == 0:
        return split // heads
    raise ValueError(
        f"mesh axis model:{split} and num_kv_heads={heads}: one must divide the other: use model:"
        f"{max(n for n in range(1, split) if heads % n == 0)}"
    )
