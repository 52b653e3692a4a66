"""`generate` and `stream`: host checks, buckets, and calls of the one compiled program."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from mtad_jax.decode.loop import bucket, empty_state, result_of, run
from mtad_jax.decode.result import DecodeResult
from mtad_jax.decode.state import Controls, DecodeState
from mtad_jax.decode.strategy import Strategy
from mtad_jax.models.base import BoundLM
from mtad_jax.types import Array, Int
from mtad_jax.warp import Warp, check_warp

_ALL = np.int32(2**31 - 1)


def generate(
    target: BoundLM,
    prompt_ids: Int[Array | np.ndarray, "B P"] | Sequence[Sequence[int]],
    prompt_length: Int[Array | np.ndarray, " B"] | Sequence[int],
    *,
    strategy: Strategy,
    draft: BoundLM | None = None,
    warp: Warp | None = None,
    max_new_tokens: int,
    eos_id: int | Sequence[int] | None = None,
    seed: int = 0,
    row_ids: Sequence[int] | None = None,
    slots: int | None = None,
) -> DecodeResult:
    """Continue a batch of prompts; prefill and all rounds run in one compiled call.

    A row's text depends on its prompt, `seed` and its row id, not on the batch or the padding.

    Args:
      target: the model whose text is wanted.
      prompt_ids: [B, P] token ids, padded on the right with anything.
      prompt_length: [B] how many of them are the prompt, at least 1.
      strategy: the decoding rule; see `mtad_jax.recipes`.
      draft: the small model, for the strategies that draft.
      warp: sharpening of both models' distributions; None: none.
      max_new_tokens: most tokens a row gets, end token included.
      eos_id: end token or tokens; None: only `max_new_tokens` ends a row.
      seed: of the whole call.
      row_ids: [B] which random stream each row uses; None: 0 ... B - 1.
      slots: cache slots a row; None: as few as the smallest bucket that fits.

    Returns:
      Tokens, lengths, log-probabilities and counters, on device.

    Raises:
      ValueError: bad prompts, settings out of range, too few slots or positions, vocabularies
        that differ; before anything is compiled.
    """
    call = prepare(
        target, prompt_ids, prompt_length, strategy, draft, warp, max_new_tokens, eos_id, seed,
        row_ids, slots,
    )  # fmt: skip
    return call.result(call.advance(call.state, _ALL))


def stream(
    target: BoundLM,
    prompt_ids: Int[Array | np.ndarray, "B P"] | Sequence[Sequence[int]],
    prompt_length: Int[Array | np.ndarray, " B"] | Sequence[int],
    *,
    strategy: Strategy,
    draft: BoundLM | None = None,
    warp: Warp | None = None,
    max_new_tokens: int,
    eos_id: int | Sequence[int] | None = None,
    seed: int = 0,
    row_ids: Sequence[int] | None = None,
    slots: int | None = None,
    rounds: int = 1,
) -> Iterator[DecodeResult]:
    """Like `generate`, but yield the text so far after every `rounds` rounds.

    The same compiled program runs again and again on the state that it gave back. The last item
    equals `generate`'s result. Stop early by closing the iterator.

    Raises:
      ValueError: as `generate`; `rounds` below 1.
    """
    if rounds < 1:
        raise ValueError(f"rounds={rounds} must be >= 1: rounds between two items")
    call = prepare(
        target, prompt_ids, prompt_length, strategy, draft, warp, max_new_tokens, eos_id, seed,
        row_ids, slots,
    )  # fmt: skip
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
    target, prompt_ids, prompt_length, strategy, draft, warp, max_new_tokens, eos_id, seed,
    row_ids, slots,
) -> Call:  # fmt: skip
    """Check everything on the host and build the state before prefill.

    Takes `generate`'s arguments. For those who drive the loop themselves, as the benchmark does
    to time prefill and decoding apart.

    Raises:
      ValueError: as `generate`.
    """
    warp = Warp() if warp is None else warp
    check_warp(warp)
    vocab = target.vocab_size
    strategy.check(vocab, warp.top_k)
    if max_new_tokens < 1 or max_new_tokens != int(max_new_tokens):
        raise ValueError(f"max_new_tokens={max_new_tokens} must be a whole number >= 1")
    ids, length = check_prompts(prompt_ids, prompt_length, vocab)
    draft = check_draft(target, draft, strategy)
    longest = int(length.max())
    check_positions(target, draft, longest, max_new_tokens, strategy.depth)
    slots = check_slots(slots, longest, max_new_tokens, strategy.scratch(max_new_tokens))
    width = min(bucket(longest), slots)
    ids = np.pad(ids[:, :longest], ((0, 0), (0, width - longest)))
    rows = np.arange(len(ids)) if row_ids is None else np.asarray(row_ids)
    if rows.dtype.kind not in "iu":
        raise ValueError(f"row_ids has dtype {rows.dtype}: give one integer a row")
    if rows.shape != length.shape:
        raise ValueError(f"row_ids has shape {rows.shape}, not one id for each of {len(ids)} rows")
    if not isinstance(seed, int | np.integer):
        raise ValueError(f"seed={seed!r} must be an integer")
    ends = check_ends(eos_id, vocab)
    # Python floats would be weakly typed and compile a second program beside arrays.
    strategy, warp = jax.tree.map(jnp.float32, (strategy, warp))
    state = empty_state(
        target, draft, strategy, ids, length, length + np.int32(max_new_tokens),
        np.uint32(int(seed) % 2**32), rows.astype(np.int32), slots=slots,
    )  # fmt: skip
    leaf = jax.tree.leaves(target.params)[0]
    if leaf.committed and len(leaf.devices()) == 1:
        # `run` gives its state back committed; given an uncommitted one it would compile twice.
        state = jax.device_put(state, leaf.sharding)
    controls = Controls(warp, jnp.asarray(ends, jnp.int32))
    return Call(
        target, draft, strategy, controls, state, jnp.asarray(length), width, max_new_tokens
    )


def check_prompts(prompt_ids, prompt_length, vocab: int) -> tuple[np.ndarray, np.ndarray]:
    """Return prompts as int32 arrays.

    Raises:
      ValueError: not [B, P] integers, lengths out of range, ids outside the vocabulary.
    """
    try:
        ids, length = np.asarray(prompt_ids), np.asarray(prompt_length)
    except ValueError as error:  # numpy does not say which argument
        raise ValueError(
            "prompt_ids or prompt_length has rows of different lengths: give integers [B, P] and "
            "[B], prompts padded on the right with anything"
        ) from error
    if ids.ndim != 2 or ids.dtype.kind not in "iu" or 0 in ids.shape:
        raise ValueError(
            f"prompt_ids has shape {ids.shape} and dtype {ids.dtype}: give integers [B, P]"
        )
    if length.shape != ids.shape[:1] or length.dtype.kind not in "iu":
        raise ValueError(f"prompt_length has shape {length.shape}, not ({ids.shape[0]},) integers")
    for row, n in enumerate(length):
        if not 1 <= n <= ids.shape[1]:
            raise ValueError(
                f"prompt_length[{row}]={n} must be in [1, {ids.shape[1]}]: an empty prompt needs "
                "at least a start token"
            )
        bad = ids[row, :n][(ids[row, :n] < 0) | (ids[row, :n] >= vocab)]
        if bad.size:
            raise ValueError(f"prompt_ids[{row}] holds id {bad[0]}, outside [0, {vocab - 1}]")
    return np.clip(ids, 0, vocab - 1).astype(np.int32), length.astype(np.int32)


def check_ends(eos_id: int | Sequence[int] | None, vocab: int) -> np.ndarray:
    """Return the end tokens as an array, empty for None.

    Raises:
      ValueError: not integers, or outside the vocabulary.
    """
    ends = np.atleast_1d(np.asarray([] if eos_id is None else eos_id))
    if ends.size and ends.dtype.kind not in "iu":
        raise ValueError(f"eos_id={eos_id!r} must be a token id or a list of them")
    for end in ends:
        if not 0 <= end < vocab:
            raise ValueError(f"eos_id={end} is outside [0, {vocab - 1}]: give the model's own end")
    return ends.astype(np.int32)


def check_draft(target: BoundLM, draft: BoundLM | None, strategy: Strategy) -> BoundLM | None:
    """Return the draft if the strategy uses one.

    Raises:
      ValueError: a draft is needed and missing; vocabularies differ.
    """
    if not strategy.needs_draft:
        return None
    if draft is None:
        raise ValueError("draft=None: this strategy drafts; give draft=<BoundLM>")
    if draft.vocab_size != target.vocab_size:
        raise ValueError(
            f"draft vocabulary {draft.vocab_size} != target vocabulary {target.vocab_size}: both "
            "models must share one tokenizer"
        )
    return draft


def check_positions(
    target: BoundLM, draft: BoundLM | None, prompt: int, new: int, depth: int
) -> None:
    """Check the deepest position of the last round.

    Raises:
      ValueError: it is past what either model was made for.
    """
    need = prompt + new + max(depth - 1, 0)
    for name, lm in (("target", target), ("draft", draft)):
        if lm is not None and need > lm.model.max_positions:
            raise ValueError(
                f"positions={lm.model.max_positions} of the {name} < {need} = prompt {prompt} + "
                f"new {new} + look-ahead {max(depth - 1, 0)}: lower max_new_tokens or shorten "
                "the prompt"
            )


def check_slots(slots: int | None, prompt: int, new: int, scratch: int) -> int:
    """Return the cache size.

    Raises:
      ValueError: fewer slots asked for than a call can touch.
    """
    need = prompt + new + scratch
    if slots is None:
        return bucket(need)
    if slots < need:
        raise ValueError(
            f"slots={slots} < {need} = prompt {prompt} + new {new} + scratch {scratch}: lower "
            "max_new_tokens or raise slots"
        )
    return slots
