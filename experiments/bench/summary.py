"""What the rows of a run say: `summary.json`, from the rows alone; `docs/records.md` has the keys.

A problem is one unit of resampling, with all its turns and samples, and two strategies are compared
on the problems that both have answered. A token whose `logp_raw` is null had no chance under the
target: the perplexity of its text is infinite, and null in the summary as all is that is not
finite. A text without tokens has no perplexity and is left out of it.
"""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.bench import bootstrap, scores
from experiments.bench.bootstrap import Interval

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the rows of a strategy cannot say.

    Attributes:
      compile_seconds: of its programs.
      peak_memory_bytes: of the device; None where it does not say.
      joules_source: what the rows' `joules` were read from, or why they were not.
    """

    compile_seconds: float | None = None
    peak_memory_bytes: int | None = None
    joules_source: str | None = None


@dataclasses.dataclass(frozen=True)
class Answer:
    """What is counted of a row; a `scores.Counted`.

    Attributes:
      problem, turn, sample: what it answers; together they are unique in a strategy.
      tokens, rounds, accepted, drafted, accepted_at: counters.
      logp_raw: sum over the tokens; -inf where a token has none.
      batch: number of the batch that it was decoded in; None: alone.
      seconds, prefill_seconds: its share of its batch's times.
      joules: its share of the energy; None where none was read.
      scores: by metric, the task's own first; None or no key where it is not judged.
    """

    problem: str
    turn: int
    sample: int
    tokens: int
    rounds: int
    accepted: int
    drafted: int
    accepted_at: Sequence[int]
    logp_raw: float
    batch: int | None
    seconds: float
    prefill_seconds: float
    joules: float | None
    scores: Mapping[str, float | None]

    @classmethod
    def of(cls, row: Row) -> "Answer":
        """Return what is counted of a row."""
        stats = row["stats"]
        return cls(
            problem=str(row["id"]),
            turn=row["turn"],
            sample=row["sample"],
            tokens=len(row["tokens"]),
            **{name: stats[name] for name in ("rounds", "accepted", "drafted", "accepted_at")},
            logp_raw=math.fsum(-math.inf if x is None else x for x in row["logp_raw"]),
            batch=row.get("batch"),
            seconds=row["decode_seconds"],
            prefill_seconds=row["prefill_seconds"],
            joules=row["joules"],
            scores=row["scores"],
        )


Problems = dict[str, list[Answer]]
"""Answers by the problem that they answer, in the order of first appearance."""


def summarize(
    rows_by_strategy: Mapping[str, Sequence[Row]], facts: Mapping[str, Facts] | None = None
) -> list[dict[str, Any]]:
    """Return a task's entries of `summary.json`, an entry a strategy.

    Args:
      rows_by_strategy: one task's rows by the label of their strategy; the first strategy is the
        one that the others are compared with.
      facts: what rows cannot hold, by label.

    Raises:
      ValueError: a strategy without rows.
    """
    entries: list[dict[str, Any]] = []
    base: Problems | None = None
    for label, rows in rows_by_strategy.items():
        if not rows:
            raise ValueError(f"{label}: it has no rows: leave it out of the summary")
        answers = [Answer.of(row) for row in rows]
        mine = by_problem(answers)
        entries.append(
            {
                "task": rows[0]["task"],
                "strategy": label,
                "problems": len(mine),
                **_counted(answers),
                "scores": {name: _listed(mean_score(mine, name)) for name in _metrics(mine)},
                "against": None if base is None else compare(mine, base),
                **_outside(answers, (facts or {}).get(label, Facts())),
            }
        )
        base = base or mine
    return entries


def compare(mine: Problems, base: Problems) -> dict[str, list[float] | None]:
    """Return how answers differ from the base's, paired by problem: `[value, low, high]` each.

    `score` is the difference of the task's own metric, the others are ratios; None where there is
    nothing to compare, or it is not finite.
    """
    both = [problem for problem in mine if problem in base]
    mine, base = ({problem: side[problem] for problem in both} for side in (mine, base))
    with np.errstate(divide="ignore", invalid="ignore"):  # times of 0 make no ratio
        found = {
            "score": _score_change(mine, base),
            "perplexity": _perplexity_ratio(mine, base),
            "tokens_per_call": _rate_ratio(mine, base, "rounds"),
            "tokens_per_second": _rate_ratio(mine, base, "seconds"),
        }
    return {name: _listed(interval) for name, interval in found.items()}


def by_problem(answers: Sequence[Answer]) -> Problems:
    """Group answers by problem."""
    groups: Problems = {}
    for answer in answers:
        groups.setdefault(answer.problem, []).append(answer)
    return groups


def mean_score(problems: Problems, metric: str) -> Interval | None:
    """Return a metric's mean over problems, of each its mean over samples; None if not judged."""
    values = _scores(problems, metric)
    return bootstrap.mean(np.array(list(values.values()))) if values else None


def perplexity(problems: Problems) -> Interval | None:
    """Return the macro perplexity with its interval over problems; None where it is not finite."""
    texts = [[a for a in answers if a.tokens] for answers in problems.values()]
    return _perplexity([[-a.logp_raw / a.tokens for a in answers] for answers in texts])


def _counted(answers: Sequence[Answer]) -> dict[str, Any]:
    """Return what is a sum over rows, or made of sums."""
    tokens, rounds = (sum(getattr(a, name) for a in answers) for name in ("tokens", "rounds"))
    depth = max(len(a.accepted_at) for a in answers)
    at = [sum(a.accepted_at[i] for a in answers if i < len(a.accepted_at)) for i in range(depth)]
    first = _waits(answers)
    found = {
        "tokens_per_second": scores.quotient(tokens, math.fsum(a.seconds for a in answers)),
        "time_to_first_token": statistics.median(first) if first else None,
        "tokens_per_call": scores.tokens_per_call(answers),
        "block_efficiency": scores.block_efficiency(answers),
        "acceptance": scores.acceptance(answers),
        "perplexity": scores.perplexity(answers),
        "perplexity_by_token": scores.perplexity_by_token(answers),
    }
    return {
        "rows": len(answers),
        "tokens": tokens,
        **{name: _finite(value) for name, value in found.items()},
        "accepted_at": [count / rounds for count in at] if rounds else [],
    }


def _waits(answers: Sequence[Answer]) -> list[float]:
    """Return the seconds to the first token of each answer that had a round: the whole batch's."""
    together: dict[object, list[Answer]] = {}
    for index, answer in enumerate(answers):
        if answer.rounds or answer.prefill_seconds:  # a turn without room was in no batch
            alone = answer.batch is None
            key = index if alone else (answer.batch, answer.turn)
            together.setdefault(key, []).append(answer)
    found = []
    for batch in together.values():
        rounds = max(a.rounds for a in batch)  # it goes on until its last text has ended
        for answer in (a for a in batch if a.rounds):
            share = answer.prefill_seconds + scores.quotient(answer.seconds, rounds)
            found.append(share * len(batch))
    return found


def _outside(answers: Sequence[Answer], facts: Facts) -> dict[str, Any]:
    """Return what needs more than the rows: energy and its source, compiling, memory."""
    # A turn without room ran nothing; a text that was cut at its first token has no round but ran.
    answers = [a for a in answers if a.rounds or a.joules is not None]
    read = [a.joules for a in answers if a.joules is not None]
    joules, source = None, facts.joules_source
    if len(read) == len(answers):
        joules = _finite(scores.quotient(math.fsum(read), sum(a.tokens for a in answers)))
    elif read:
        source = f"{len(answers) - len(read)} of {len(answers)} rows have none ({source})"
    elif source is None:
        source = "none was read"
    return {
        "joules_per_token": joules,
        "joules_source": source,
        "compile_seconds": facts.compile_seconds,
        "peak_memory_bytes": facts.peak_memory_bytes,
    }


def _metrics(problems: Problems) -> list[str]:
    """Return the names of the metrics, the task's own first."""
    found = (a.scores for answers in problems.values() for a in answers)
    return list(dict.fromkeys(name for names in found for name in names))


def _scores(problems: Problems, metric: str) -> dict[str, float]:
    """Return each judged problem's mean of a metric over its samples."""
    found = {}
    for problem, answers in problems.items():
        values = [x for a in answers if (x := a.scores.get(metric)) is not None]
        if values:
            found[problem] = statistics.fmean(values)
    return found


def _score_change(mine: Problems, base: Problems) -> Interval | None:
    for metric in _metrics(mine)[:1]:
        scored, other = _scores(mine, metric), _scores(base, metric)
        gaps = [scored[problem] - other[problem] for problem in scored if problem in other]
        return bootstrap.mean(np.array(gaps)) if gaps else None
    return None


def _perplexity_ratio(mine: Problems, base: Problems) -> Interval | None:
    """Return the ratio of macro perplexities on the answers that have tokens on both sides."""
    losses = []
    for problem, answers in mine.items():
        other = {(a.turn, a.sample): a.logp_raw / a.tokens for a in base[problem] if a.tokens}
        pairs = [(a, other.get((a.turn, a.sample))) for a in answers if a.tokens]
        losses.append([b - a.logp_raw / a.tokens for a, b in pairs if b is not None])
    return _perplexity(losses)


def _perplexity(losses: Sequence[Sequence[float]]) -> Interval | None:
    """Return exp of the mean of all losses, listed by problem; None where it is not finite."""
    sums = np.array([(sum(found), len(found)) for found in losses if found], float)
    if not sums.size or not np.isfinite(sums).all():
        return None
    return bootstrap.perplexity_ratio(sums[:, 0], sums[:, 1])


def _rate_ratio(mine: Problems, base: Problems, below: str) -> Interval | None:
    """Return the ratio of the tokens a round, or a second."""
    sums = [
        [
            math.fsum(getattr(answer, name) for answer in side[problem])
            for side in (mine, base)
            for name in ("tokens", below)
        ]
        for problem in mine
    ]
    return bootstrap.ratio(np.array(sums)) if sums else None


def _listed(interval: Interval | None) -> list[float] | None:
    """Return an interval as JSON has it; None where it is not finite."""
    return list(interval) if interval and all(map(math.isfinite, interval)) else None


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
