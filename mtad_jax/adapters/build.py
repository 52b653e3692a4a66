"""`from_linen`, `from_nnx`, `from_function`: foreign models, checked on the host, as `BoundLM`s."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mtad_jax.adapters.checks import check_call
from mtad_jax.adapters.model import AdaptedLM, Call, Inputs
from mtad_jax.adapters.slots import InitCache, form_of
from mtad_jax.models.protocol import BoundLM
from mtad_jax.models.quantize import compute_dtype

if TYPE_CHECKING:
    from flax import linen, nnx


def from_function(
    params: Any,
    call: Call,
    init_cache: InitCache,
    *,
    max_positions: int,
    vocab: int | None = None,
    trees: bool = True,
    together: bool = False,
) -> BoundLM:
    """Adapt a function of parameters: a model of plain JAX, Haiku, Equinox, ....

    Nothing is compiled: the model is traced once, for its shapes.

    Args:
      params: any tree of arrays.
      call: `call(params, inputs)` runs the model on `Inputs` and returns logits [B, T, V] of every
        token, and the cache. Pure, and defined once: programs are compiled for each function.
      init_cache: `init_cache(batch, slots, dtype)` makes the empty cache: any tree of arrays that
        have an axis of rows and an axis of slots, and of whole numbers that say where the next
        token goes, which are set before every call.
      max_positions: positions that the model was made for.
      vocab: real token ids, where the model has more logits than its tokenizer has ids; None: all.
      trees: whether the model heeds `Inputs.mask` and `Inputs.positions`. False: it counts for
        itself, and only rules that draft a chain may use it.
      together: whether `call` takes rows that write at different slots (`Inputs.write_at`); False:
        it gets one row at a time.

    Raises:
      ValueError: the cache cannot be rolled back; the model cannot be called so, or gives other
        shapes or dtypes than it should; `vocab` or `max_positions` out of range.
    """
    if max_positions < 1:
        raise ValueError(f"max_positions={max_positions} must be >= 1: give the model's own")
    form = form_of(init_cache, compute_dtype(params), max_positions)
    shared = [leaf.name for leaf in form.leaves if leaf.row is None]  # indices
    if together and shared:
        raise ValueError(
            f"together=True, but the cache's {shared[0]} is one index for all rows: leave together "
            "out, or give it an axis of rows"
        )
    size = check_call(params, call, init_cache, form)
    if vocab is not None and not 1 <= vocab <= size:
        raise ValueError(f"vocab={vocab} must be between 1 and the model's {size} logits: lower it")
    model = AdaptedLM(call, init_cache, form, size, max_positions, trees, together)
    return BoundLM(params, model, vocab)


def from_linen(
    module: "linen.Module",
    params: Any,
    call: Callable[["linen.Module", Any, Inputs], tuple[Any, Any]],
    init_cache: InitCache,
    *,
    max_positions: int,
    vocab: int | None = None,
    trees: bool = True,
    together: bool = False,
) -> BoundLM:
    """Adapt a flax.linen module.

    Args:
      module: the module.
      params: its parameters, unboxed; or all its variables: `call` gets what is given here.
      call: `call(module, params, inputs)` applies it, such as `module.apply({"params": params},
        inputs.tokens, ...)`, and returns logits [B, T, V] and the cache. A cache that is a
        collection of variables is given and taken by `apply`'s own means (`mutable`).
      init_cache: as `from_function`'s, and so is all that follows.
      max_positions: positions that the model was made for.
      vocab: real token ids, if fewer than logits.
      trees: whether the model heeds mask and positions.
      together: whether `call` takes rows that write at different slots.

    Raises:
      ValueError: as `from_function`.
    """
    return from_function(
        params, _LinenCall(call, _Constant(module)), init_cache,
        max_positions=max_positions, vocab=vocab, trees=trees, together=together,
    )  # fmt: skip


def from_nnx(
    model: "nnx.Module",
    call: Callable[["nnx.Module", Inputs], tuple[Any, Any]],
    init_cache: InitCache,
    *,
    max_positions: int,
    vocab: int | None = None,
    trees: bool = True,
    together: bool = False,
) -> BoundLM:
    """Adapt a flax.nnx module, in its evaluation mode (`nnx.Module.eval`: no dropout).

    Its arrays are shared, not copied; the module that was given stays as it is.

    Args:
      model: the module.
      call: `call(model, inputs)` calls a module with the same parameters, such as
        `model(inputs.tokens, ...)`, and returns logits [B, T, V] and the cache.
      init_cache: as `from_function`'s, and so is all that follows.
      max_positions: positions that the model was made for.
      vocab: real token ids, if fewer than logits.
      trees: whether the model heeds mask and positions.
      together: whether `call` takes rows that write at different slots.

    Raises:
      ValueError: as `from_function`.
    """
    from flax import nnx

    copy = nnx.clone(model)
    copy.eval()
    static, params, rest = nnx.split(copy, nnx.Param, ...)
    # Parameters come first: what else is in a module, such as random keys, says nothing of it.
    return from_function(
        {"params": params, "rest": rest}, _NnxCall(call, _Constant(static)), init_cache,
        max_positions=max_positions, vocab=vocab, trees=trees, together=together,
    )  # fmt: skip


class _Constant:
    """What is static of a model: equal to an equal one, or, where it has no hash, to itself alone.

    A config that is no frozen dataclass (as some of tunix's) makes a module unhashable, and nothing
    in it says whether two are one. The hash is computed once: of a large model it is slow.
    """

    def __init__(self, value: Any):
        self.value = value
        try:
            self._hash, self._by_value = hash(value), True
        except TypeError:
            self._hash, self._by_value = id(value), False

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Constant) or self._by_value != other._by_value:
            return False
        same = self.value is other.value
        return same or (self._by_value and self._hash == other._hash and self.value == other.value)


@dataclass(frozen=True)
class _LinenCall:
    """A linen module and how to call it."""

    call: Callable[..., tuple[Any, Any]]
    module: _Constant

    def __call__(self, params: Any, inputs: Inputs) -> tuple[Any, Any]:
        return self.call(self.module.value, params, inputs)


@dataclass(frozen=True)
class _NnxCall:
    """What is static of an nnx module, and how to call the module."""

    call: Callable[..., tuple[Any, Any]]
    static: _Constant

    def __call__(self, params: Any, inputs: Inputs) -> tuple[Any, Any]:
        from flax import nnx

        return self.call(nnx.merge(self.static.value, params["params"], params["rest"]), inputs)
