"""The real decode, lowered and compiled from shapes alone."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from mtad_jax.decode.loop import kinds_of, run_rounds
from mtad_jax.devices.sharding import by_rows, replicated
from mtad_jax.errors import out_of_memory
from mtad_jax.planning.job import Job, placed, settings_of, state_of


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


def compile_decode(job: Job) -> Program:
    """Compile prefill and the decode loop, the one program that `generate` runs.

    Raises:
      DoesNotFit: the compiler needs more memory than the chip has.
    """
    rounds = jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated(job.mesh))
    begin = time.perf_counter()
    lowered = run_rounds.lower(
        job.target, job.draft, *settings_of(job), state_of(job), rounds,
        kinds=kinds_of(job.strategy), prompt_width=job.prompt, mesh=job.mesh,
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
        return placed(x, by_rows(job.mesh, x))

    begin = time.perf_counter()
    lowered = jax.jit(call, donate_argnums=1).lower(
        job.target.params, state_of(job).target_cache, rows(job.batch, tokens), rows(job.batch)
    )
    return _compile(lowered, begin)


@contextlib.contextmanager
def _without_cache() -> Iterator[None]:
    """Leave JAX's compilation cache aside: programs for chips that are not here cannot be loaded.

    JAX would write them, and warn at each later attempt to read them.
    """
    folder = getattr(jax.config, "jax_compilation_cache_dir", None)
    jax.config.update("jax_compilation_cache_dir", None)
    reset_cache()
    try:
        yield
    finally:
        jax.config.update("jax_compilation_cache_dir", folder)
        reset_cache()


def _compile(lowered: Any, begin: float) -> Program:
    try:
        with _without_cache():
            compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if not out_of_memory(error):
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
