"""What must hold of one result whatever the rule: ends, limits, and counters that add up."""

import numpy as np

from mtad_jax.decode.result import DecodeResult


def check_result(
    result: DecodeResult,
    eos_id: int,
    max_new_tokens: int,
    *,
    final: bool = True,
    one_bonus: bool = True,
) -> None:
    """Check one result against itself.

    Args:
      result: of `generate`.
      eos_id: its end token.
      max_new_tokens: its limit.
      final: rounds commit text as they go; False: all of it comes from the last round.
      one_bonus: each round commits drafted tokens and one more; False: any number, or none.

    Raises:
      AssertionError: a row is empty, too long, goes on after an end or stops before one; its
        rounds, places and candidates contradict each other; the counters differ from the trace.
    """
    for row in range(len(result.length)):
        try:
            _check_row(result, row, eos_id, max_new_tokens)
            if final and one_bonus:
                _check_rounds(result, row)
        except AssertionError as error:
            raise AssertionError(f"row {row}: {error}") from None
    _check_counters(result, final and one_bonus)


def same_result(
    got: DecodeResult, row: int, want: DecodeResult, other: int, atol: float, what: str
) -> None:
    """Check that two rows hold one text with one trace.

    Raises:
      AssertionError: they do not.
    """
    n = int(want.length[other])
    text, expected = np.asarray(got.tokens[row]), np.asarray(want.tokens[other])
    if int(got.length[row]) != n or not np.array_equal(text[:n], expected[:n]):
        raise AssertionError(f"row {other} {what}: {text[:n].tolist()} is not {expected[:n]}")
    for name in ("round", "place", "candidate"):
        pair = (np.asarray(getattr(r.trace, name)) for r in (got, want))
        if not np.array_equal(next(pair)[row, :n], next(pair)[other, :n]):
            raise AssertionError(f"row {other} {what}: trace.{name} differs")
    for name in ("logp", "logp_raw"):
        pair = (np.asarray(getattr(r.trace, name)) for r in (got, want))
        gap = np.abs(next(pair)[row, :n] - next(pair)[other, :n])
        if not gap.max() <= atol:
            raise AssertionError(f"row {other} {what}: trace.{name} differs by {gap.max():.3g}")


def _require(fact, message: str) -> None:
    if not fact:
        raise AssertionError(message)


def _check_row(result: DecodeResult, row: int, eos_id: int, limit: int) -> None:
    n, tokens = int(result.length[row]), np.asarray(result.tokens[row]).tolist()
    _require(1 <= n <= limit, f"{n} tokens, not 1 to {limit}")
    _require(eos_id not in tokens[: n - 1], f"text after the end token {eos_id}: {tokens[:n]}")
    _require(n == limit or tokens[n - 1] == eos_id, f"stops before its end: {tokens[:n]}")
    _require(not any(tokens[n:]), f"{tokens[n:]} past the row's length")
    for name in ("logp", "logp_raw"):
        value = np.asarray(getattr(result.trace, name)[row, :n])
        _require(np.isfinite(value).all() and (value < 1e-5).all(), f"{name} holds {value}")


def _check_rounds(result: DecodeResult, row: int) -> None:
    n = int(result.length[row])
    trace = {name: np.asarray(value[row]) for name, value in vars(result.trace).items()}
    rounds = trace["round"][:n]
    _require(rounds[0] == 0 and np.isin(np.diff(rounds), (0, 1)).all(), f"rounds {rounds}")
    for index in range(rounds[-1] + 1):
        (at,) = np.nonzero(rounds == index)
        last = index == rounds[-1]
        _check_round(trace["place"][at].tolist(), trace["candidate"][at].tolist(), result, last)


def _check_round(place: list[int], candidate: list[int], result: DecodeResult, last: bool) -> None:
    """One round: drafted tokens 1, 2, ..., then a bonus that only the last round may lack."""
    drafted = len(place) - (place[-1] == 0)
    _require(place[:drafted] == list(range(1, drafted + 1)), f"places {place} of one round")
    _require(drafted <= result.depth, f"{drafted} drafted tokens accepted of {result.depth}")
    _require(last or place[-1] == 0, f"places {place}: a round without bonus, not the last")
    _require(not any(candidate[1:]), f"candidates {candidate} inside one round")
    _require(0 <= candidate[0] <= result.depth, f"candidate of {candidate[0]} tokens")


def _check_counters(result: DecodeResult, one_bonus: bool) -> None:
    stats, trace = result.stats(), result.trace
    for row, n in enumerate(np.asarray(result.length)):
        place = np.asarray(trace.place[row, :n])
        want = {
            "rounds": int(trace.round[row, n - 1]) + 1,
            "accepted": int((place > 0).sum()),
            "drafted": int(np.asarray(trace.candidate[row, :n]).sum()),
        }
        got = {name: int(getattr(stats, name)[row]) for name in want}
        _require(got == want, f"row {row}: stats say {got}, the trace {want}")
        at = stats.accepted_at[row]
        _require(at.sum() == want["accepted"], f"row {row}: accepted_at {at} adds up wrongly")
        _require((np.diff(at) <= 0).all(), f"row {row}: accepted_at {at} rises")
        bonuses = n - want["accepted"]
        fits = not one_bonus or want["rounds"] - 1 <= bonuses <= want["rounds"]
        _require(fits, f"row {row}: {bonuses} bonuses in {want['rounds']} rounds")
        efficiency = 1 + want["accepted"] / want["rounds"]
        _require(np.isclose(stats.block_efficiency[row], efficiency), f"row {row}: efficiency")
