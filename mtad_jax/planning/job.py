"""A decode as shapes with their places: what will be compiled, no array is ever made."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mtad_jax.decode import checks
from mtad_jax.decode.loop import empty_state, kinds_of
from mtad_jax.decode.protocols import Strategy
from mtad_jax.decode.settings import Settings, check_settings
from mtad_jax.decode.state import Controls, DecodeState
from mtad_jax.devices.sharding import by_rows, make_mesh, replicated
from mtad_jax.models import cache as kv
from mtad_jax.models.linen import LinenLM
from mtad_jax.models.protocol import BoundLM

_PREFILL = 512  # prompt tokens unless told otherwise
_PADDING = 0.01  # most rows, by the real ones, that two embeddings of one vocabulary differ by


@dataclass(frozen=True)
class Job:
    """A checked decode: what `generate` would be called with, as shapes with their places.

    Attributes:
      target, draft: the models; the draft is None where the rule needs none.
      strategy, controls: the rule, and what every rule honours.
      batch: rows.
      slots: cache slots a row.
      scratch: how many of them a round needs beyond the text.
      prompt: tokens of the longest prompt.
      mesh: of all devices.
    """

    target: BoundLM
    draft: BoundLM | None
    strategy: Strategy
    controls: Controls
    batch: int
    slots: int
    scratch: int
    prompt: int
    mesh: Mesh

    @property
    def models(self) -> dict[str, BoundLM]:
        """The models by name."""
        return {"target": self.target} | ({} if self.draft is None else {"draft": self.draft})


def choose_mesh(target: LinenLM, batch: int, devices: int) -> tuple[dict[str, int], str]:
    """Return the sizes of the mesh axes for so many devices, and why.

    The largest `model` axis that the target allows; what is left goes to `data` as far as the batch
    divides, then to `fsdp`.

    Raises:
      ValueError: no mesh of so many devices divides both, naming numbers that do.
    """
    mesh = _mesh_of(target, batch, devices)
    if mesh is None:
        good = [n for n in range(1, 2 * devices) if _mesh_of(target, batch, n)]
        raise ValueError(
            f"no mesh of {devices} chips divides the target's heads and width and batch={batch}: "
            f"use one of {','.join(map(str, good))} chips, or rows that --mesh=data:N divides"
        )
    heads = target.config.num_heads  # type: ignore[attr-defined]
    why = f"chosen: model:{mesh['model']} is the most of {devices} that {heads} heads allow"
    if mesh["data"] > 1:
        why += f", data:{mesh['data']} divides {batch} rows"
    if mesh["fsdp"] > 1:
        why += f", fsdp:{mesh['fsdp']} is what is left"
    return mesh, why


def _mesh_of(target: LinenLM, batch: int, devices: int) -> dict[str, int] | None:
    """Return the first choice among meshes that the target and the batch allow; None: no mesh."""
    for model in _divisors(devices):
        for data in _divisors(math.gcd(batch, devices // model)):
            fsdp = devices // model // data
            try:
                target.check_split(model=model, fsdp=fsdp)
            except ValueError:
                continue
            return {"data": data, "fsdp": fsdp, "model": model}
    return None


def _divisors(number: int) -> list[int]:
    """Return all divisors, the largest first."""
    return [n for n in range(number, 0, -1) if number % n == 0]


def bind(model: LinenLM, dtype: Any, vocab: int | None = None) -> BoundLM:
    """Return a model on a mesh with the shapes of its parameters instead of them."""
    params = jax.tree.map(
        placed,
        model.param_shapes(dtype),
        model.param_shardings(),
    )
    return BoundLM(params, model, vocab)


def make_job(
    target: LinenLM,
    draft: LinenLM | None,
    *,
    strategy: Strategy,
    mesh: Mapping[str, int],
    devices: Any,
    batch: int,
    slots: int,
    prompt: int | None = None,
    dtype: Any = jnp.bfloat16,
    shard_draft: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> Job:
    """Check a decode on the host as `generate` would, and lay its shapes out on a mesh.

    Args:
      target, draft: the models, on no mesh.
      strategy, settings: the rule, and more of `generate`'s settings, such as `warp`.
      mesh, devices: size of each axis, and all chips.
      batch, slots: rows, and cache slots of each: text and the rule's scratch.
      prompt: tokens of the longest prompt; None: 512, at most half the slots.
      dtype: of weights and caches.
      shard_draft: split the draft like the target; else every chip holds all of it.

    Raises:
      ValueError: as `generate`; sizes that do not divide; no room for a prompt and a token.
    """
    checks.check_count("batch", batch, 1)
    prompt = min(_PREFILL, max(slots // 2, 1)) if prompt is None else prompt
    new = _new_tokens(slots, prompt, strategy.scratch(slots))
    arranged = make_mesh(mesh, devices)
    vocab = _common_vocabulary(target, draft) if strategy.needs_draft and draft else None
    lm = bind(target.on(arranged), dtype, vocab)
    small = _draft_of(lm, draft, strategy, replicated=not shard_draft)
    asked: Settings = {"max_new_tokens": new, "slots": slots, **(settings or {})}  # type: ignore
    length = np.full(batch, prompt, np.int32)
    controls = check_settings(asked, length, strategy=strategy, target=lm, draft=small).controls
    checks.check_rows(batch, arranged)
    scratch = strategy.scratch(new)
    return Job(lm, small, strategy, controls, batch, slots, scratch, prompt, arranged)


def _draft_of(
    target: BoundLM, draft: LinenLM | None, strategy: Strategy, *, replicated: bool
) -> BoundLM | None:
    """Return the draft on the target's mesh, checked against it; None: the rule needs none."""
    if not strategy.needs_draft:
        return None
    assert draft is not None and target.mesh is not None
    laid_out = draft.on(target.mesh, replicated=replicated)
    return checks.check_draft(target, bind(laid_out, target.dtype, target.vocab), strategy)


def _common_vocabulary(target: LinenLM, draft: LinenLM) -> int | None:
    """Return the ids that both have, if their sizes may be one vocabulary's, padded differently.

    A plan reads no tokenizer. Sizes of different tokenizers are farther apart (32,000 and 32,768);
    what cannot be told from sizes, a run finds out before it starts.
    """
    least, most = sorted((target.vocab_size, draft.vocab_size))
    return least if 0 < most - least <= _PADDING * least else None


def _new_tokens(slots: int, prompt: int, scratch: int) -> int:
    """Return the tokens that a row of so many cache slots has room for.

    Raises:
      ValueError: none.
    """
    new = slots - prompt - scratch
    if prompt < 1 or new < 1:
        raise ValueError(
            f"context={slots} has no room for a prompt of {prompt}, a new token and {scratch} "
            "scratch slots: raise --context or lower --prompt"
        )
    return new


def settings_of(job: Job) -> tuple[Strategy, Controls]:
    """Return the rule and the controls as shapes that every device holds."""

    def shape(x: Any) -> jax.ShapeDtypeStruct:
        dtype = jnp.float32 if isinstance(x, float | int) else x.dtype
        return jax.ShapeDtypeStruct(np.shape(x), dtype, sharding=replicated(job.mesh))

    return jax.tree.map(shape, (job.strategy, job.controls))


def state_of(job: Job) -> DecodeState:
    """Return the state before prefill, as `empty_state` gives it: shapes and places."""
    batch = job.batch
    whole = {"length": jnp.int32, "limit": jnp.int32, "seed": jnp.uint32, "row_ids": jnp.int32}
    rows = [jax.ShapeDtypeStruct((batch, job.prompt), jnp.int32)]
    rows += [jax.ShapeDtypeStruct((batch,), dtype) for dtype in whole.values()]
    state = jax.eval_shape(
        lambda *args: empty_state(
            *args, kinds=kinds_of(job.strategy), slots=job.slots, mesh=job.mesh
        ),
        job.target, job.draft, *settings_of(job), *rows,
    )  # fmt: skip

    def put(tree: Any, where: Any) -> Any:
        return jax.tree.map(lambda x: placed(x, where(x)), tree)

    caches = {
        f"{name}_cache": put(
            getattr(state, f"{name}_cache"),
            lambda x, lm=lm: lm.model.layout.sharding(kv.CACHE_AXES),  # type: ignore
        )
        for name, lm in job.models.items()
    }
    rest = state.replace(**dict.fromkeys(caches))  # type: ignore
    return put(rest, lambda x: by_rows(job.mesh, x)).replace(**caches)


def placed(x: Any, where: Any) -> jax.ShapeDtypeStruct:
    """Return the shape of an array that lies at `where`."""
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)
