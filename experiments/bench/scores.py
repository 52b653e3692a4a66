"""What a set of samples says about a rule: speed, tokens a call, quality.

What is counted is defined once, for the benchmark's samples and for the rows of a run.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from experiments.bench.measure import Sample

Z95 = 1.959964


class Counted(Protocol):
    """A text that was decoded, and what was counted; see `Sample`."""

    @property
    def tokens(self) -> int:
        """Tokens that a user gets."""
        ...

    @property
    def rounds(self) -> int:
        """Calls of the target."""
        ...

    @property
    def accepted(self) -> int:
        """Drafted tokens that were kept."""
        ...

    @property
    def drafted(self) -> int:
        """Tokens that were drafted."""
        ...

    @property
    def logp_raw(self) -> float:
        """Sum over the tokens of the un-warped target's log-probability."""
        ...


@dataclass(frozen=True)
class Score:
    """A rule's line of the table.

    Attributes:
      tokens_per_second: median over the passes.
      ratio: median over the passes of the ratio to the base rule in the same pass; None if the
        base is not there.
      tokens_per_call: tokens per call of the target, over all samples.
      block_efficiency: 1 + accepted / rounds, over all samples.
      acceptance: accepted / drafted; None where nothing is drafted.
      perplexity: exp of the mean over prompts of a prompt's mean -logp_raw.
      perplexity_by_token: exp of the mean over all tokens.
      correct, judged: how many of the judged answers are right.
      tokens: mean tokens of a prompt.
    """

    tokens_per_second: float
    ratio: float | None
    tokens_per_call: float
    block_efficiency: float
    acceptance: float | None
    perplexity: float
    perplexity_by_token: float
    correct: int
    judged: int
    tokens: float

    @property
    def accuracy(self) -> tuple[float, float, float] | None:
        """Share of right answers with its 95 % interval, or None."""
        if not self.judged:
            return None
        return self.correct / self.judged, *wilson(self.correct, self.judged)


def score(samples: Sequence[Sample], base: Sequence[Sample] = ()) -> Score:
    """Score one rule's samples; `base` are those of the rule that speeds are compared with."""
    speeds, base_speeds = speed_by_pass(samples), speed_by_pass(base)
    ratios = [speeds[r] / base_speeds[r] for r in speeds if r in base_speeds]
    judged = [s.correct for s in samples if s.correct is not None]
    return Score(
        tokens_per_second=statistics.median(speeds.values()),
        ratio=statistics.median(ratios) if ratios else None,
        tokens_per_call=tokens_per_call(samples),
        block_efficiency=block_efficiency(samples),
        acceptance=acceptance(samples),
        perplexity=perplexity(samples),
        perplexity_by_token=perplexity_by_token(samples),
        correct=sum(judged),
        judged=len(judged),
        tokens=statistics.fmean(s.tokens for s in samples),
    )


def tokens_per_call(texts: Sequence[Counted]) -> float:
    """Return the tokens a call of the target, over all texts; nan without calls."""
    return quotient(sum(t.tokens for t in texts), sum(t.rounds for t in texts))


def block_efficiency(texts: Sequence[Counted]) -> float:
    """Return 1 + accepted / rounds, over all texts; nan without calls."""
    return 1 + quotient(sum(t.accepted for t in texts), sum(t.rounds for t in texts))


def acceptance(texts: Sequence[Counted]) -> float | None:
    """Return accepted / drafted, over all texts; None where nothing is drafted."""
    drafted = sum(t.drafted for t in texts)
    return sum(t.accepted for t in texts) / drafted if drafted else None


def perplexity(texts: Sequence[Counted]) -> float:
    """Return exp of the mean over texts of a text's mean -logp_raw: the macro average.

    Texts without tokens have no mean and are left out; nan where no others are there.
    """
    means = [t.logp_raw / t.tokens for t in texts if t.tokens]
    return perplexity_of(statistics.fmean(means)) if means else math.nan


def perplexity_by_token(texts: Sequence[Counted]) -> float:
    """Return exp of the mean over all tokens of -logp_raw; nan without tokens."""
    return perplexity_of(quotient(sum(t.logp_raw for t in texts), sum(t.tokens for t in texts)))


def quotient(above: float, below: float) -> float:
    """Return a quotient; nan where it has none."""
    return above / below if below else math.nan


def perplexity_of(mean_logp: float) -> float:
    """Return exp(-mean_logp); infinity where that is past the largest float (709 nats)."""
    try:
        return math.exp(-mean_logp)
    except OverflowError:
        return math.inf


def shown_perplexity(value: float, digits: int = 2) -> str:
    """Return a perplexity as a table has it: 2.31, 3.1e+07, inf."""
    return f"{value:.{digits}f}" if value < 1e5 else f"{value:.{digits}g}"


def shown_change(value: float) -> str:
    """Return a change as a table has it: +31%, +3.1e+07%, +inf%."""
    return f"{value:+.0%}" if value < 1e3 else f"{100 * value:+.2g}%"


def speed_by_pass(samples: Iterable[Sample]) -> dict[int, float]:
    """Return tokens per second of each pass: all its tokens over all its time."""
    tokens: dict[int, int] = {}
    seconds: dict[int, float] = {}
    for sample in samples:
        tokens[sample.repeat] = tokens.get(sample.repeat, 0) + sample.tokens
        seconds[sample.repeat] = seconds.get(sample.repeat, 0.0) + sample.seconds
    return {repeat: tokens[repeat] / seconds[repeat] for repeat in tokens}


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Return the 95 % Wilson interval of a share; good at small counts and near 0 and 1."""
    share, z2 = successes / trials, Z95**2
    middle = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = share * (1 - share) / trials + z2 / (4 * trials**2)
    half = Z95 * math.sqrt(half) / (1 + z2 / trials)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def by_rule(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    """Group samples by rule, in the order of first appearance."""
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.rule, []).append(sample)
    return groups


def chosen_and_reported(
    groups: dict[str, list[Sample]], rules: Sequence[str], key: Callable[[Sequence[Sample]], float]
) -> tuple[str, list[Sample]]:
    """Choose the rule with the largest key on the even passes; return it with its odd passes.

    A rule chosen and reported on the same samples would look better than it is. With one pass both
    are the same.
    """
    halves = {name: _halves(groups[name]) for name in rules}
    best = max(rules, key=lambda name: key(halves[name][0]))
    return best, halves[best][1]


def choosing(samples: Sequence[Sample]) -> list[Sample]:
    """Return the passes that `chosen_and_reported` chooses on."""
    return _halves(samples)[0]


def reported(samples: Sequence[Sample]) -> list[Sample]:
    """Return the passes that `chosen_and_reported` reports."""
    return _halves(samples)[1]


def halves_line(samples: Sequence[Sample]) -> str:
    """Return what stands above settings of `chosen_and_reported`: on which prompts each was done.

    Args:
      samples: of all rules.
    """
    if len({sample.repeat for sample in samples}) > 1:
        return "Settings chosen on one half of the prompts, reported on the other:"
    return "Settings chosen and reported on the same prompts, for want of a second pass:"


def _halves(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    even = [s for s in samples if s.repeat % 2 == 0]
    return even, [s for s in samples if s.repeat % 2] or even
