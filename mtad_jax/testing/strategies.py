"""The promises of `generate`, checked on a strategy with models of the caller's choice."""

import dataclasses
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from mtad_jax import recipes
from mtad_jax.decode.engine import generate, stream
from mtad_jax.decode.loop import bucket, run_rounds
from mtad_jax.decode.protocols import Strategy
from mtad_jax.decode.result import DecodeResult
from mtad_jax.decode.warp import Warp, warped_logp
from mtad_jax.models.protocol import BoundLM
from mtad_jax.testing.results import check_result, same_result

_LENGTHS = (1, 9, 4, 40)  # of the prompts; the last takes a larger bucket than the others


@dataclass(frozen=True)
class _Subject:
    """A strategy with its models and settings; `decode` runs it with some of them changed."""

    strategy: Strategy
    target: BoundLM
    draft: BoundLM | None
    warp: Warp
    max_new_tokens: int
    eos_id: int
    seed: int
    final: bool
    one_bonus: bool
    prompts: np.ndarray  # [B, P]
    length: np.ndarray  # [B]

    @property
    def kinds(self) -> dict[str, bool]:
        """What `check_result` may expect of the rounds."""
        return {"final": self.final, "one_bonus": self.one_bonus}

    def decode(self, call: Callable[..., Any] = generate, **changes: Any) -> Any:
        """Run `generate` (or `stream`)."""
        new = {name: changes.pop(name) for name in self.__dict__ if name in changes}
        s = dataclasses.replace(self, **new)
        return call(
            s.target, s.prompts, s.length, strategy=s.strategy, draft=s.draft, warp=s.warp,
            max_new_tokens=s.max_new_tokens, eos_id=s.eos_id, seed=s.seed, **changes,
        )  # fmt: skip


def check_strategy(
    strategy: Strategy,
    target: BoundLM,
    draft: BoundLM | None = None,
    *,
    warp: Warp | None = None,
    max_new_tokens: int = 12,
    eos_id: int = 0,
    seed: int = 0,
    greedy_at_zero: bool = True,
    accepts_itself: bool = True,
    final: bool = True,
    one_bonus: bool = True,
    atol: float = 1e-4,
) -> None:
    """Check that a decoding rule keeps every promise of `generate`.

    The models must be f32: then two programs of one model agree but for an edge of top-k or top-p
    in a hundred thousand, and texts are compared token by token.

    Args:
      strategy: the rule; those of its traced settings that are real numbers are varied by a
        tenth. Integers (tables of ids, say) stay as they are.
      target: the model whose text is wanted, at least 64 positions.
      draft: the small model, for the rules that draft.
      warp: sharpening; None: temperature 1, top-k 8 and top-p 0.9.
      max_new_tokens: of the longest runs, at least 4.
      eos_id: an end token for the runs that are not about ends.
      seed: of prompts and runs.
      greedy_at_zero: the rule is plain greedy at temperature 0.
      accepts_itself: a draft by the target itself is accepted whole (for thresholds: below 1).
      final: text once committed stays: it grows when streamed, and a lower limit cuts it. False
        for rules that decide at their end, as beam search does.
      one_bonus: each round commits drafted tokens and one more. False for rules that commit by
        blocks of their own, as speculative MTJD does.
      atol: largest difference of two log-probabilities of one token.

    Raises:
      AssertionError: one of the promises is broken; the message says which.
    """
    size = (len(_LENGTHS), max(_LENGTHS))
    prompts = np.random.default_rng(seed).integers(0, target.vocab_size, size)
    warp = Warp(1.0, 0.9, min(8, target.vocab_size)) if warp is None else warp
    subject = _Subject(
        strategy, target, draft, warp, max_new_tokens, eos_id, seed, final,
        one_bonus, prompts, np.array(_LENGTHS),
    )  # fmt: skip
    base = subject.decode()
    check_result(base, subject.eos_id, max_new_tokens, **subject.kinds)
    _check_scores(subject, base, atol)
    _check_alone(subject, base, atol)
    _check_limits(subject, base)
    _check_ends(subject, base)
    _check_stream(subject, base)
    _check_compiles_once(subject)
    if greedy_at_zero:
        _check_greedy(subject)
    if accepts_itself and strategy.needs_draft:
        _check_itself(subject)


@jax.jit
def _whole_text(target: BoundLM, tokens, warp: Warp):
    """Return raw and warped log-probabilities of every token but the first, from one call."""
    batch, slots = tokens.shape
    at = jnp.zeros((batch,), jnp.int32)
    positions = jnp.broadcast_to(jnp.arange(slots), tokens.shape)
    logits, _ = target.model.apply(
        target.params, tokens, positions=positions, write_at=at, prefix=at, window=None,
        cache=target.model.init_cache(batch, slots, target.dtype),
    )  # fmt: skip
    logits = logits[:, :-1, : target.vocab_size]
    both = jax.nn.log_softmax(logits), warped_logp(logits, warp)
    return [jnp.take_along_axis(x, tokens[:, 1:, None], axis=2)[..., 0] for x in both]


def _check_scores(subject: _Subject, base: DecodeResult, atol: float) -> None:
    """`logp` and `logp_raw` are what the target says of the finished text in one plain call."""
    text = np.pad(subject.prompts, ((0, 0), (0, subject.max_new_tokens)))
    for row, (n, m) in enumerate(zip(subject.length, np.asarray(base.length), strict=True)):
        text[row, n : n + m] = base.tokens[row, :m]
    raw, warped = _whole_text(subject.target, text, subject.warp)
    for row, (n, m) in enumerate(zip(subject.length, np.asarray(base.length), strict=True)):
        for name, got, want in (
            ("logp_raw", base.trace.logp_raw, raw),
            ("logp", base.trace.logp, warped),
        ):
            gap = np.abs(np.asarray(got[row, :m]) - np.asarray(want[row, n - 1 : n - 1 + m]))
            if not gap.max() <= atol:
                where = f"row {row}, token {int(gap.argmax())}"
                raise AssertionError(f"{name} is {gap.max():.3g} off the whole call's: {where}")


def _check_alone(subject: _Subject, base: DecodeResult, atol: float) -> None:
    """Beside a long prompt a row's text is that of the row alone.

    Alone it has junk after its prompt, a smaller bucket and a larger cache. The long prompt itself
    gets other neighbours instead: all of these runs share two programs.
    """
    junk = np.pad(subject.prompts, ((0, 0), (0, 7)), constant_values=1)
    slots = 50 + max(_LENGTHS) + subject.max_new_tokens
    slots += subject.strategy.scratch(subject.max_new_tokens)
    long = len(_LENGTHS) - 1
    for row, n in enumerate(subject.length[:long]):
        alone = subject.decode(
            prompts=junk[row : row + 1], length=np.array([n]), row_ids=[row], slots=slots
        )
        same_result(alone, 0, base, row, atol, "alone with a larger cache")
    others = np.random.default_rng(1).integers(0, subject.target.vocab_size, subject.prompts.shape)
    others[long] = subject.prompts[long]
    beside = subject.decode(prompts=others, length=np.array([30, 2, 17, _LENGTHS[long]]))
    same_result(beside, long, base, long, atol, "beside other prompts")


def _slots(subject: _Subject) -> int:
    """Return the cache slots of the base run: with them shorter runs take the same program."""
    scratch = subject.strategy.scratch(subject.max_new_tokens)
    return bucket(max(_LENGTHS) + subject.max_new_tokens + scratch)


def _check_limits(subject: _Subject, base: DecodeResult) -> None:
    """`max_new_tokens` is never exceeded; a lower one cuts the same text."""
    slots = _slots(subject)
    for limit in (1, 2, 3, subject.max_new_tokens - 1):
        cut = subject.decode(max_new_tokens=limit, slots=slots)
        check_result(cut, subject.eos_id, limit, **subject.kinds)
        for row in range(len(subject.length) if subject.final else 0):
            want = np.asarray(base.tokens[row, : min(limit, int(base.length[row]))]).tolist()
            got = np.asarray(cut.tokens[row, : int(cut.length[row])]).tolist()
            if got != want:
                raise AssertionError(f"max_new_tokens={limit}, row {row}: {got} is not {want}")


def _check_ends(subject: _Subject, base: DecodeResult) -> None:
    """Whatever token ends a text, nothing follows it."""
    for token in np.unique(np.asarray(base.tokens)):
        ended = subject.decode(eos_id=int(token))
        check_result(ended, int(token), subject.max_new_tokens, **subject.kinds)


def _check_stream(subject: _Subject, base: DecodeResult) -> None:
    """`stream` grows to the very result of `generate`."""
    items: list[DecodeResult] = list(subject.decode(stream, rounds=2))
    for before, after in itertools.pairwise(items if subject.final else []):
        for row, n in enumerate(np.asarray(before.length)):
            if not np.array_equal(after.tokens[row, :n], before.tokens[row, :n]):
                raise AssertionError(f"stream took back text of row {row}")
    last = "the last item of stream is not what generate gives"
    chex.assert_trees_all_equal(items[-1], base, custom_message=last)


def _programs() -> int:
    """Return how many programs the loop has been compiled to."""
    return run_rounds._cache_size()  # type: ignore


def _check_compiles_once(subject: _Subject) -> None:
    """Traced settings, seeds and prompts of the same bucket share one program."""
    start, slots = _programs(), _slots(subject)
    warp = dataclasses.replace(subject.warp, temperature=0.7, top_p=0.8)
    subject.decode(warp=warp)
    subject.decode(strategy=jax.tree.map(_tenth_less, subject.strategy))
    subject.decode(seed=subject.seed + 1, max_new_tokens=subject.max_new_tokens - 1, slots=slots)
    shorter = subject.length[::-1] * 9 // 10 + 1
    subject.decode(prompts=subject.prompts[::-1, 1:], length=shorter, slots=slots)
    list(subject.decode(stream, rounds=1))
    if _programs() != start:
        raise AssertionError(f"{_programs() - start} new programs for traced settings")


def _tenth_less(x: Any) -> Any:
    """Return a traced setting a tenth smaller, if a tenth of it means anything."""
    return 0.9 * x if jnp.issubdtype(jnp.result_type(x), jnp.floating) else x


def _check_greedy(subject: _Subject) -> None:
    """At temperature 0 the text is plain greedy's."""
    warp = dataclasses.replace(subject.warp, temperature=0.0)
    got = subject.decode(warp=warp)
    want = subject.decode(warp=warp, strategy=recipes.greedy(), draft=None)
    check_result(got, subject.eos_id, subject.max_new_tokens, **subject.kinds)
    if not np.array_equal(got.tokens, want.tokens):
        raise AssertionError(f"temperature 0: {got.tokens} is not greedy's {want.tokens}")


def _check_itself(subject: _Subject) -> None:
    """A draft by the target itself is accepted whole."""
    stats = subject.decode(draft=subject.target).stats()
    if not np.array_equal(stats.accepted, stats.drafted):
        raise AssertionError(f"draft = target: accepted {stats.accepted} of {stats.drafted}")
