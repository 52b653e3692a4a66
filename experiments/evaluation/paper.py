"""The paper's figures, each beside the same figure of a run.

Source: arXiv 2407.09722, the abstracts of its versions, and the logs published with its code. What
they give is a number for a pair; the ratio here is of another pair, and only its direction and size
can be compared.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.bench import bootstrap
from experiments.bench.bootstrap import Interval
from experiments.bench.summary import Answer, Problems, by_problem, compare

SAMPLE, SPECULATIVE, SPECINFER = "sample", "speculative depth=4", "specinfer branching=4,2,2"
MTAD, MMTAD = "mtad depth=4 width=4 tau=0.5", "mmtad depth=4 width=4 tau=0.5"


@dataclasses.dataclass(frozen=True)
class Claim:
    """A figure of the paper.

    Attributes:
      what: is compared, in words.
      rule, base: labels of the strategies.
      ratio: of what: a key of `against` in `summary.json`, where `score` is the quotient here, or
        joules.
      paper: the figure as it is given there, with the pair.
      low, high: the ratio that it comes to, or its range.
    """

    what: str
    rule: str
    base: str
    ratio: str
    paper: str
    low: float
    high: float


_SUBMITTED = "Llama-2 and OPT, 13B to 70B; first abstract"
_FINAL = "all tasks; final abstract"
_LOGS = "Llama-3.1-8B + Llama-3.2-1B; published logs"

CLAIMS = (
    Claim("perplexity, MTAD against sampling", MTAD, SAMPLE, "perplexity",
          f"-21.2 % ({_SUBMITTED})", 0.788, 0.788),
    Claim("task score, MMTAD against sampling", MMTAD, SAMPLE, "score",
          f"+43 % ({_FINAL})", 1.43, 1.43),
    Claim("tokens/s, MTAD against speculative decoding", MTAD, SPECULATIVE, "tokens_per_second",
          f"1.42 x ({_SUBMITTED})", 1.42, 1.42),
    Claim("tokens/s, MMTAD against speculative decoding", MMTAD, SPECULATIVE, "tokens_per_second",
          f"1.26 x ({_FINAL})", 1.26, 1.26),
    Claim("energy a token, MTAD against speculative decoding", MTAD, SPECULATIVE, "joules",
          f"1 / 1.54 ({_SUBMITTED})", 1 / 1.54, 1 / 1.54),
    Claim("energy a token, MMTAD against speculative decoding", MMTAD, SPECULATIVE, "joules",
          f"-23.6 % ({_FINAL})", 0.764, 0.764),
    Claim("tokens a target call, MMTAD against SpecInfer", MMTAD, SPECINFER, "tokens_per_call",
          f"4.14 to 4.34 for 3.36 to 3.66 ({_LOGS})", 4.14 / 3.66, 4.34 / 3.36),
    Claim("task score, MMTAD against SpecInfer", MMTAD, SPECINFER, "score",
          f"Spider 47 for 37, instruct 64 for 52 ({_LOGS})", 64 / 52, 47 / 37),
    Claim("tokens/s, MMTAD against SpecInfer", MMTAD, SPECINFER, "tokens_per_second",
          f"1.06 to 1.10 x ({_LOGS})", 1.06, 1.10),
)  # fmt: skip


def claim_lines(
    rows: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]], reasons: Mapping[str, str]
) -> list[str]:
    """Return a Markdown table of all claims.

    Args:
      rows: of each task and strategy's label.
      reasons: why a ratio cannot be had, by its name: `joules`.
    """
    tasks = list(rows)
    lines = [
        f"| figure | paper | {' | '.join(f'here: {task}' for task in tasks)} |",
        f"| --- | --- |{' --- |' * len(tasks)}",
    ]
    for claim in CLAIMS:
        cells = [_cell(claim, rows[task], reasons) for task in tasks]
        lines.append(f"| {claim.what} | {claim.paper} | {' | '.join(cells)} |")
    return lines


def _cell(
    claim: Claim, rows: Mapping[str, Sequence[Mapping[str, Any]]], reasons: Mapping[str, str]
) -> str:
    """Return what a task says of a claim."""
    if claim.rule not in rows or claim.base not in rows:
        return "not run"
    mine, base = (by_problem([Answer.of(row) for row in rows[name]])
                  for name in (claim.rule, claim.base))  # fmt: skip
    found = _ratio(claim.ratio, mine, base)
    if found is None:
        return reasons.get(claim.ratio, "not judged" if claim.ratio == "score" else "none")
    return f"{found.value:.2f} x ({found.low:.2f} to {found.high:.2f}): {verdict(claim, found)}"


def verdict(claim: Claim, found: Interval) -> str:
    """Return how a ratio agrees with the paper's: in direction, and in size."""
    up = claim.low > 1
    if found.low <= 1 <= found.high:
        return "not shown"
    if (found.value > 1) != up:
        return "the other way"
    least = math.log(claim.low if up else 1 / claim.high)
    size = abs(math.log(found.value))
    return "agrees" if size >= least else "agrees, but less"


def _ratio(name: str, mine: Problems, base: Problems) -> Interval | None:
    """Return a ratio, mine over the base's, on the problems that both have answered."""
    values = {"score": _score, "joules": _joules}.get(name)
    if values is None:
        found = compare(mine, base)[name]
        return None if found is None else Interval(*found)
    both = [problem for problem in mine if problem in base]
    counts = np.array([[*values(mine[p]), *values(base[p])] for p in both], float)
    if not len(counts) or not np.isfinite(counts).all() or (counts.sum(0) <= 0).any():
        return None
    # A draw of problems in which the base got none right makes no ratio: the interval has no end.
    with np.errstate(divide="ignore", invalid="ignore"):
        value, low, high = bootstrap.ratio(counts)
    return None if math.isnan(low) else Interval(value, low, math.inf if math.isnan(high) else high)


def _joules(answers: Sequence[Answer]) -> tuple[float, float]:
    """Return a problem's joules and tokens."""
    joules = [math.nan if a.joules is None else a.joules for a in answers]
    return math.fsum(joules), sum(a.tokens for a in answers)


def _score(answers: Sequence[Answer]) -> tuple[float, float]:
    """Return a problem's mean of the task's own metric over samples, and 1."""
    found = [next(iter(a.scores.values())) for a in answers if a.scores]
    values = [math.nan if value is None else value for value in found] or [math.nan]
    return math.fsum(values) / len(values), 1.0
