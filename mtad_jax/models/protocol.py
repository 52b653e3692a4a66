"""What the decoder needs of a language model: the `CausalLM` protocol and `BoundLM`."""

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import Mesh

from mtad_jax.devices.sharding import mesh_of
from mtad_jax.models import quantize as q8
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

        Visibility is `mtad_jax.models.cache.visible_slots`. Returns f32 logits and the new cache.
        """
        ...

    def keep(
        self, cache: Any, source: Int[Array, "B M"], dest: Int[Array, " B"], *, span: int
    ) -> Any:
        """Copy cache slot `source[b, m]` to `dest[b] + m`, all reads before all writes.

        Every source lies in the `span` slots from `dest[b] - 1` on.
        """
        ...


@runtime_checkable
class Quantizable(CausalLM, Protocol):
    """A model whose weights or cache can be int8, as `LinenLM`."""

    @property
    def int8(self) -> frozenset[str]:
        """Which of `mtad_jax.models.quantize.PARTS` are int8."""
        ...

    def quantized(self, int8: str | Iterable[str]) -> "Quantizable":
        """Return this model with weights, cache or both as int8."""
        ...

    def convert(self, params: Params, dtype: jnp.dtype) -> Params:
        """Return full-precision parameters as this model has them."""
        ...


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
    def mesh(self) -> Mesh | None:
        """The mesh that the parameters lie on; None: single devices."""
        return mesh_of(self.params)

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype that the model computes in, which the cache (or its scales) shares."""
        return q8.compute_dtype(self.params)

    def facts(self) -> dict[str, str]:
        """Return in words what it is: module, numbers of its parameters, their dtypes, vocabulary.

        Of a model on a mesh, the axes that are split, too. Leaves may be shapes or tracers.
        """
        leaves = [leaf for leaf in jax.tree.leaves(self.params) if hasattr(leaf, "dtype")]
        facts = {
            "model": type(getattr(self.model, "module", self.model)).__name__,
            "parameters": f"{sum(leaf.size for leaf in leaves) / 1e6:.3g} M",
            "dtype": "+".join(sorted({str(leaf.dtype) for leaf in leaves})),
            "vocabulary": str(self.vocab_size),
        }
        if (mesh := self.mesh) is not None:
            split = [f"{name}:{size}" for name, size in mesh.shape.items() if size > 1]
            facts["mesh"] = ",".join(split) or "1 device"
        return facts

    def __repr__(self) -> str:
        return f"BoundLM({', '.join(f'{name}={said}' for name, said in self.facts().items())})"

    def quantized(self, int8: str | Iterable[str]) -> "BoundLM":
        """Return this model with weights, cache or both as int8; see `mtad_jax.models.quantize`.

        Loading as int8 (`mtad_jax.load(..., int8=...)`) does it tensor by tensor, and never holds
        the whole model in full precision.

        Args:
          int8: "weights", "kv", both ("weights,kv"), or none ("").

        Raises:
          ValueError: an unknown name, a part that is int8 already, a model in float16, or one
            that is not one of this package's modules.
        """
        if not isinstance(self.model, Quantizable):
            raise ValueError(
                f"int8={int8}: only models of this package can be int8, not "
                f"{type(self.model).__name__}: leave int8 out"
            )
        model = self.model.quantized(int8)
        q8.check_compute_dtype(model.int8, self.dtype)
        params = self.params
        if model.int8 - self.model.int8 >= {"weights"}:
            params = model.convert(params, self.dtype)
        return self.replace(params=params, model=model)  # type: ignore[attr-defined]
