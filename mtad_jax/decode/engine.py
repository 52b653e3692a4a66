"""`generate` and `stream`: host checks, buckets, and calls of the one compiled program."""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mtad_jax.decode import arguments, checks
from mtad_jax.decode.loop import ALL_ROUNDS, bucket, empty_state, kinds_of, result_of, run_rounds
from mtad_jax.decode.protocols import Strategy
from mtad_jax.decode.result import DecodeResult
from mtad_jax.decode.settings import Settings, check_settings
from mtad_jax.decode.state import Controls, DecodeState
from mtad_jax.devices.sharding import by_rows, replicated
from mtad_jax.models.protocol import BoundLM
from mtad_jax.types import Array, Int


def generate(
    target: BoundLM,
    prompt_ids: Int[Array | np.ndarray, "B P"] | Sequence[Sequence[int]],
    prompt_length: Int[Array | np.ndarray, " B"] | Sequence[int],
    *,
    strategy: Strategy,
    draft: BoundLM | None = None,
    **settings: Unpack[Settings],
) -> DecodeResult:
    """Continue a batch of prompts; prefill and all rounds run in one compiled call.

    A row's text depends on its prompt, `seed` and its row id, not on the batch or the padding.

    Args:
      target: the model whose text is wanted.
      prompt_ids: [B, P] token ids, padded on the right with anything.
      prompt_length: [B] how many of them are the prompt, at least 1.
      strategy: the decoding rule; see `mtad_jax.recipes`.
      draft: the small model, for the strategies that draft.
      **settings: see `Settings`; `max_new_tokens` must be given.

    Returns:
      Tokens, lengths, log-probabilities and counters, on device.

    Raises:
      ValueError: bad prompts, settings out of range or that contradict each other or the
        strategy, too few slots or positions, vocabularies that differ; before anything is
        compiled.
    """
    call = prepare(target, prompt_ids, prompt_length, strategy=strategy, draft=draft, **settings)
    return call.result(call.advance(call.state))


def stream(
    target: BoundLM,
    prompt_ids: Int[Array | np.ndarray, "B P"] | Sequence[Sequence[int]],
    prompt_length: Int[Array | np.ndarray, " B"] | Sequence[int],
    *,
    strategy: Strategy,
    draft: BoundLM | None = None,
    rounds: int = 1,
    **settings: Unpack[Settings],
) -> Iterator[DecodeResult]:
    """Like `generate`, but yield the text so far after every `rounds` rounds.

    The same compiled program runs again and again on the state that it gave back. The last item
    equals `generate`'s result. Stop early by closing the iterator.

    Raises:
      ValueError: as `generate`; `rounds` below 1.
    """
    rounds = checks.check_count("rounds", rounds, 1)
    call = prepare(target, prompt_ids, prompt_length, strategy=strategy, draft=draft, **settings)
    return call.steps(rounds)


@dataclass(frozen=True)
class Timed:
    """A call that was run against the clock.

    Attributes:
      result: what it gave.
      prefill_seconds: wall time of running the prompts through the models.
      seconds: wall time of all rounds.
    """

    result: DecodeResult
    prefill_seconds: float
    seconds: float


@dataclass(frozen=True)
class Call:
    """One checked call: what `run` needs beside the state, and the state before prefill."""

    target: BoundLM
    draft: BoundLM | None
    strategy: Strategy
    controls: Controls
    state: DecodeState
    prompt_length: Int[Array, " B"]
    prompt_width: int
    max_new_tokens: int
    mesh: Mesh | None

    def advance(self, state: DecodeState, rounds: int = ALL_ROUNDS) -> DecodeState:
        """Prefill if that is still to do and run at most `rounds` rounds; donates the state."""
        return run_rounds(
            self.target, self.draft, self.strategy, self.controls, state,
            np.int32(min(rounds, ALL_ROUNDS)),
            kinds=kinds_of(self.strategy), prompt_width=self.prompt_width, mesh=self.mesh,
        )  # fmt: skip

    def prefilled(self) -> "Call":
        """Run the prompts through the models and wait; the call that is left. Once only."""
        state = jax.block_until_ready(self.advance(self.state, 0))
        return dataclasses.replace(self, state=state)

    def steps(self, rounds: int) -> Iterator[DecodeResult]:
        """Yield the text so far after every `rounds` rounds, to the end; donates the state."""
        state, done = self.state, False
        while not done:
            state = self.advance(state, rounds)
            done = bool(jnp.all(state.done))
            yield self.result(state)

    def timed(self) -> "Timed":
        """Run the whole call, prefill and rounds timed apart, everything waited for; once only.

        The state is donated. Compiling is in the times of a program's first call.
        """
        jax.block_until_ready(self.state)
        begin = time.perf_counter()
        ready_call = self.prefilled()
        ready = time.perf_counter()
        state = jax.block_until_ready(ready_call.advance(ready_call.state))
        end = time.perf_counter()
        return Timed(self.result(state), ready - begin, end - ready)

    def result(self, state: DecodeState) -> DecodeResult:
        """Return what a state holds for the user."""
        return result_of(
            self.strategy, state, self.prompt_length, kinds=kinds_of(self.strategy),
            max_new_tokens=self.max_new_tokens, mesh=self.mesh,
        )  # fmt: skip


def prepare(
    target: BoundLM,
    prompt_ids: Int[Array | np.ndarray, "B P"] | Sequence[Sequence[int]],
    prompt_length: Int[Array | np.ndarray, " B"] | Sequence[int],
    *,
    strategy: Strategy,
    draft: BoundLM | None = None,
    longest: int | None = None,
    **settings: Unpack[Settings],
) -> Call:
    """Check everything on the host and build the state before prefill.

    For those who drive the loop themselves or time it (`Call.timed`); arguments and errors are
    `generate`'s, and one more.

    Args:
      target: as `generate`'s, and so are those not named here.
      prompt_ids: as `generate`'s.
      prompt_length: as `generate`'s.
      strategy: as `generate`'s.
      draft: as `generate`'s.
      longest: tokens of the longest prompt of several calls that are to run in one program: this
        one is prefilled as wide, with a cache that would hold it. None: of this call's prompts.
      **settings: as `generate`'s.
    """
    arguments.check_concrete({"prompt_ids": prompt_ids, "prompt_length": prompt_length})
    draft = checks.check_draft(target, draft, strategy)
    ids, length = checks.check_prompts(prompt_ids, prompt_length, target.vocab_size)
    plan = check_settings(settings, length, strategy=strategy, target=target, draft=draft)
    own, mesh, slots = int(length.max()), target.mesh, plan.slots
    longest = own if longest is None else max(own, longest)
    if longest > own:
        scratch = strategy.scratch(plan.max_new_tokens)
        slots = max(slots, bucket(longest + plan.max_new_tokens + scratch))
    width = min(bucket(longest), slots)
    ids = np.pad(ids[:, :own], ((0, 0), (0, width - own)))
    ids, new = np.repeat(ids, plan.samples, axis=0), np.int32(plan.max_new_tokens)
    checks.check_rows(len(ids), mesh)
    rows = (ids, plan.length, plan.length + new, plan.seed, plan.row_ids)
    # Python floats would be weakly typed and compile a second program beside arrays.
    strategy, controls = jax.tree.map(_strong, (strategy, plan.controls))
    if mesh is None:
        rows = tuple(map(jnp.asarray, rows))
    else:
        rows = tuple(jax.device_put(x, by_rows(mesh, x)) for x in rows)
        strategy, controls = jax.device_put((strategy, controls), replicated(mesh))
    state = empty_state(
        target, draft, strategy, controls, *rows, kinds=kinds_of(strategy), slots=slots, mesh=mesh
    )
    leaf = jax.tree.leaves(target.params)[0]
    if mesh is None and leaf.committed and len(leaf.devices()) == 1:
        # `run` gives its state back committed; given an uncommitted one it would compile twice.
        state = jax.device_put(state, leaf.sharding)
    return Call(target, draft, strategy, controls, state, rows[1], width, plan.max_new_tokens, mesh)


def _strong(x: float | Array) -> Array:
    return jnp.float32(x) if isinstance(x, float | int) else jnp.asarray(x)
