"""`generate` and `stream`: host checks, buckets, and calls of the one compiled program."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Required, TypedDict, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from mtad_jax.decode import checks
from mtad_jax.decode.loop import bucket, empty_state, result_of, run
from mtad_jax.decode.result import DecodeResult
from mtad_jax.decode.state import Controls, DecodeState
from mtad_jax.decode.strategy import Strategy
from mtad_jax.models.base import BoundLM
from mtad_jax.types import Array, Int
from mtad_jax.warp import Warp

_ALL = np.int32(2**31 - 1)


class Settings(TypedDict, total=False):
    """Keyword settings that `generate`, `stream` and `Pipeline` share.

    Attributes:
      max_new_tokens: most tokens a row gets, end token included. Must be given.
      warp: sharpening of both models' distributions; None: none.
      draft_warp: another sharpening for the draft's; None: the target's.
      eos_id: end token or tokens; None: only `max_new_tokens` ends a row.
      min_new_tokens: no end token comes before a row has got so many tokens.
      banned_ids: tokens that never come.
      repetition_penalty: logits of tokens that the prompt or the text holds are divided by it
        where positive and multiplied where negative, in both models; None: none. (CTRL, arXiv
        1909.05858; as Hugging Face.)
      samples: texts for each prompt; the rows of the result are prompt 0's samples, then prompt
        1's, and so on.
      seed: of the whole call; or one a prompt, which then gets the same texts in any call.
      row_ids: [B * samples] which random stream each row uses; None: 0, 1, 2, ...
      slots: cache slots a row; None: as few as the smallest bucket that fits.
    """

    max_new_tokens: Required[int]
    warp: Warp | None
    draft_warp: Warp | None
    eos_id: int | Sequence[int] | None
    min_new_tokens: int
    banned_ids: Sequence[int] | None
    repetition_penalty: float | None
    samples: int
    seed: int | Sequence[int]
    row_ids: Sequence[int] | None
    slots: int | None


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
    return call.result(call.advance(call.state, _ALL))


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
    if rounds < 1:
        raise ValueError(f"rounds={rounds} must be >= 1: rounds between two items")
    call = prepare(target, prompt_ids, prompt_length, strategy=strategy, draft=draft, **settings)
    return _stream(call, rounds)


def _stream(call: "Call", rounds: int) -> Iterator[DecodeResult]:
    state, done = call.state, False
    while not done:
        state = call.advance(state, np.int32(rounds))
        done = bool(jnp.all(state.done))
        yield call.result(state)


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

    def advance(self, state: DecodeState, rounds: np.int32) -> DecodeState:
        """Prefill if that is still to do and run at most `rounds` rounds; donates the state."""
        return run(
            self.target, self.draft, self.strategy, self.controls, state, rounds,
            prompt_width=self.prompt_width,
        )  # fmt: skip

    def result(self, state: DecodeState) -> DecodeResult:
        """Return what a state holds for the user."""
        return result_of(
            self.strategy, state, self.prompt_length, max_new_tokens=self.max_new_tokens
        )


def prepare(
    target: BoundLM,
    prompt_ids: Int[Array | np.ndarray, "B P"] | Sequence[Sequence[int]],
    prompt_length: Int[Array | np.ndarray, " B"] | Sequence[int],
    *,
    strategy: Strategy,
    draft: BoundLM | None = None,
    **settings: Unpack[Settings],
) -> Call:
    """Check everything on the host and build the state before prefill.

    For those who drive the loop themselves, as the benchmark does to time prefill and decoding
    apart; arguments and errors are `generate`'s.
    """
    unknown = settings.keys() - Settings.__annotations__.keys()
    if unknown or "max_new_tokens" not in settings:
        wrong = f"unknown {', '.join(sorted(unknown))}" if unknown else "max_new_tokens is missing"
        raise TypeError(f"settings: {wrong}: give {', '.join(Settings.__annotations__)}")
    vocab = target.vocab_size
    ids, length = checks.check_prompts(prompt_ids, prompt_length, vocab)
    draft = checks.check_draft(target, draft, strategy)
    warp, own = settings.get("warp") or Warp(), settings.get("draft_warp")
    penalty = settings.get("repetition_penalty")
    samples = checks.check_count("samples", settings.get("samples", 1), 1)
    checks.check_rule(
        strategy, target, draft, shortest=int(length.min()), samples=samples, warp=warp,
        draft_warp=own, penalty=penalty,
    )  # fmt: skip
    new = checks.check_count("max_new_tokens", settings["max_new_tokens"], 1)
    least = checks.check_count("min_new_tokens", settings.get("min_new_tokens", 0), 0)
    checks.check_lengths(least, new)
    ends = checks.check_ends(settings.get("eos_id"), vocab)
    banned = checks.check_banned(settings.get("banned_ids"), ends, vocab, least)
    seed, rows = checks.check_seeds(
        settings.get("seed", 0), settings.get("row_ids"), len(ids), samples
    )
    longest = int(length.max())
    checks.check_positions(target, draft, longest, new, strategy.depth)
    slots = checks.check_slots(settings.get("slots"), longest, new, strategy.scratch(new))
    width = min(bucket(longest), slots)
    ids = np.pad(ids[:, :longest], ((0, 0), (0, width - longest)))
    ids, length = np.repeat(ids, samples, axis=0), np.repeat(length, samples)
    controls = Controls(
        warp=warp,
        draft_warp=warp if own is None else own,
        eos_ids=jnp.asarray(ends, jnp.int32),
        banned=banned,
        penalty=None if penalty is None else jnp.float32(penalty),
        min_length=jnp.asarray(length + np.int32(least)) if least else None,
    )
    # Python floats would be weakly typed and compile a second program beside arrays.
    strategy, controls = jax.tree.map(_strong, (strategy, controls))
    state = empty_state(
        target, draft, strategy, controls, ids, length, length + np.int32(new), seed, rows,
        slots=slots,
    )  # fmt: skip
    leaf = jax.tree.leaves(target.params)[0]
    if leaf.committed and len(leaf.devices()) == 1:
        # `run` gives its state back committed; given an uncommitted one it would compile twice.
        state = jax.device_put(state, leaf.sharding)
    return Call(target, draft, strategy, controls, state, jnp.asarray(length), width, new)


def _strong(x: float | Array) -> Array:
    return jnp.float32(x) if isinstance(x, float | int) else jnp.asarray(x)
