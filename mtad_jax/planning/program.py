"""The real decode, lowered and compiled from shapes alone: no array is ever made."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mtad_jax.decode import checks
from mtad_jax.decode.loop import empty_state, run
from mtad_jax.decode.protocols import Strategy
from mtad_jax.decode.settings import Settings, check_settings
from mtad_jax.decode.state import Controls, DecodeState
from mtad_jax.devices.sharding import by_rows, make_mesh, replicated
from mtad_jax.models import cache as kv
from mtad_jax.models.linen import LinenLM
from mtad_jax.models.protocol import BoundLM

_PREFILL = 512  # prompt tokens unless told otherwise


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


@dataclass(frozen=True)
class Program:
    """A compiled program, as far as a plan looks at it.

    Attributes:
      text: the compiler's own (HLO).
      arguments, output, alias, temporaries, code: bytes on each chip; alias is what outputs and
        arguments share.
      estimate: the compiler's guess of seconds for one pass (a loop's body counts once); None:
        it gives none.
      seconds: that tracing and compiling took.
    """

    text: str
    arguments: int
    output: int
    alias: int
    temporaries: int
    code: int
    estimate: float | None
    seconds: float

    @property
    def arrays(self) -> int:
        """Bytes of all arrays on a chip."""
        return self.arguments + self.output - self.alias + self.temporaries

    @property
    def total(self) -> int:
        """Bytes of memory that a chip needs to run it."""
        return self.arrays + self.code


class DoesNotFit(ValueError):
    """The compiler found too little memory."""


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


def bind(model: LinenLM, dtype: Any) -> BoundLM:
    """Return a model on a mesh with the shapes of its parameters instead of them."""
    params = jax.tree.map(
        _placed,
        model.param_shapes(dtype),
        model.param_shardings(),
    )
    return BoundLM(params, model)


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
    lm = bind(target.on(arranged), dtype)
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
    return checks.check_draft(target, bind(laid_out, target.dtype), strategy)


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


def _settings_of(job: Job) -> tuple[Strategy, Controls]:
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
        lambda *args: empty_state(*args, slots=job.slots, mesh=job.mesh),
        job.target, job.draft, *_settings_of(job), *rows,
    )  # fmt: skip

    def put(tree: Any, where: Any) -> Any:
        return jax.tree.map(lambda x: _placed(x, where(x)), tree)

    caches = {
        f"{name}_cache": put(
            getattr(state, f"{name}_cache"),
            lambda x, lm=lm: lm.model.layout.sharding(kv.CACHE_AXES),  # type: ignore
        )
        for name, lm in job.models.items()
    }
    rest = state.replace(**dict.fromkeys(caches))  # type: ignore
    return put(rest, lambda x: by_rows(job.mesh, x)).replace(**caches)


def _placed(x: Any, where: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)


def compile_decode(job: Job) -> Program:
    """Compile prefill and the decode loop, the one program that `generate` runs.

    Raises:
      DoesNotFit: the compiler needs more memory than the chip has.
    """
    rounds = jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated(job.mesh))
    begin = time.perf_counter()
    lowered = run.lower(
        job.target, job.draft, *_settings_of(job), state_of(job), rounds,
        prompt_width=job.prompt, mesh=job.mesh,
    )  # fmt: skip
    return _compile(lowered, begin)


def compile_call(job: Job, tokens: int) -> Program:
    """Compile a lone call of the target on so many tokens a row, for the compiler's estimate."""

    def call(params, cache, ids, at):
        positions = at[:, None] + jnp.arange(tokens)
        return job.target.model.apply(
            params, ids, positions=positions, write_at=at, prefix=at, window=None, cache=cache
        )

    def rows(*shape: int) -> jax.ShapeDtypeStruct:
        x = jax.ShapeDtypeStruct(shape, jnp.int32)
        return _placed(x, by_rows(job.mesh, x))

    begin = time.perf_counter()
    lowered = jax.jit(call, donate_argnums=1).lower(
        job.target.params, state_of(job).target_cache, rows(job.batch, tokens), rows(job.batch)
    )
    return _compile(lowered, begin)


def _compile(lowered: Any, begin: float) -> Program:
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise DoesNotFit(str(error).split("\n")[0]) from error
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    return Program(
        text=compiled.as_text(),
        arguments=memory.argument_size_in_bytes,
        output=memory.output_size_in_bytes,
        alias=memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        code=memory.generated_code_size_in_bytes,
        estimate=cost.get("optimal_seconds"),
        seconds=time.perf_counter() - begin,
    )
