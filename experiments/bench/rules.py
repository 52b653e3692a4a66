"""Every decoding rule side by side: what `--suite=rules` runs, and its table.

One setting a rule, the one that its paper or the paper of MTAD uses, with a depth of 4 but for
BiLD, which stops by itself: the table compares rules, not tuned settings (`--suite=depths` varies
depth and width; `experiments.calibrate` chooses for a given pair).
"""

import dataclasses
import math
from collections.abc import Sequence

from experiments.bench.bootstrap import Interval, perplexity_change, right_change
from experiments.bench.measure import Rule, Sample
from experiments.bench.scores import by_rule, score, shown_change, shown_perplexity
from experiments.flags.warp import TAU
from mtad_jax.calibration.candidates import Candidate
from mtad_jax.decode.warp import Warp

DEPTH, WIDTH, NARROW = 4, 4, 2
BRANCHING = (4, 2, 2)
LOWER_TEMPERATURES = (0.7, 0.5)  # shares of the temperature: what sharpening alone gives
BASE = "sample"
CHOSEN = {"bonus_temperature": 0.0}

_COLUMNS = (
    f"{'law':<10}{'tok/call':>9}{'x plain':>9}{'ppl':>7}  "
    f"{'against plain (95 %)':<22}"
    f"{'SQL right':>9}  {'against plain (95 %)':<22}"
)


def make_rules(warp: Warp, tau: float, others: Sequence[Candidate] = ()) -> list[Rule]:
    """Return the rules to compare, plain sampling first and `others` last.

    No width or branching of ours is above the tokens that the warp keeps.
    """
    k, w, narrow = DEPTH, *(min(size, warp.top_k or size) for size in (WIDTH, NARROW))
    tree = tuple(min(size, w) for size in BRANCHING)
    rules = [*_lossless_rules(warp, k, w, tree), *_lossy_rules(warp, k, w, narrow, tau)]
    rules += cooler_rules(warp)
    rules += [Rule(rule, warp) for rule in others]
    return list({rule.label: rule for rule in rules}.values())  # small widths may coincide


def _lossless_rules(warp: Warp, k: int, w: int, tree: tuple[int, ...]) -> list[Rule]:
    of = Rule.of
    return [
        of(BASE, warp),
        of("speculative", warp, depth=k),
        of("block", warp, depth=k),
        of("specinfer", warp, branching=tree),
        of("mcsd", warp, branching=tree),
        of("traversal", warp, branching=tree),
        of("rsd_s", warp, depth=k, width=w),
        of("spectr", warp, depth=k, chains=w),
        of("lookup", warp, depth=k),
        of("suffix", warp, depth=k),
        of("recycle", warp, depth=k, width=w),
    ]


def _lossy_rules(warp: Warp, k: int, w: int, narrow: int, tau: float) -> list[Rule]:
    of, cold = Rule.of, Warp(temperature=0.0)
    wide, at = {"depth": k, "width": w}, tau_setting(tau)
    return [
        of("mtad", warp, **wide, **at),
        of("mtad", warp, **wide, **at, **CHOSEN),
        of("mtad", warp, **wide, **at, draw="sample"),
        of("mmtad", warp, **wide, **at),
        of("mmtad", warp, **wide, **at, **CHOSEN),
        of("mmtad", warp, depth=k, width=narrow, **at),
        of("mmtad", warp, **wide, **at, draw="sample"),
        of("threshold", warp, **wide, **at),
        of("threshold", warp, depth=k, **at, draft="chain"),
        of("lenient", warp, depth=k),
        of("cascade", warp, depth=k),
        of("cascade", warp, depth=k, defer="token3"),
        of("fuzzy", warp, depth=k),
        of("mentored", warp, depth=k),
        of("typical", warp, **wide),
        of("typical", warp, depth=k, draft="chain"),
        of("bild", warp),
        of("dsbd", warp, **wide),
        of("mtjd", warp, **wide),
        of("mtjd", warp, **wide, draw="sample"),
        of("speculative_mtjd", warp, **wide, ahead=k, lattice=2 * w),
        of("beam", warp, width=w),
        of("speculative_beam", warp, width=w, ahead=k, lattice=2 * w),
        of("beam", warp, width=w, draw="sample"),
        of("greedy", cold),
        of("speculative", cold, "greedy", depth=k),
        # Beam search of one beam is greedy search, here with a lattice for a draft.
        of("speculative_beam", warp, "greedy", width=1, ahead=k, lattice=w),
    ]


def tau_setting(tau: float) -> dict[str, float]:
    """Return tau as a rule's setting, where it is not the default that a label need not name."""
    return {} if tau == TAU else {"tau": tau}


def cooler_rules(warp: Warp) -> list[Rule]:
    """Return plain sampling at lower temperatures: what sharpening alone gives."""
    if float(warp.temperature) == 0:
        return []
    rules = []
    for share in LOWER_TEMPERATURES:
        cooler = dataclasses.replace(warp, temperature=float(warp.temperature) * share)
        rules.append(Rule.of(BASE, cooler, f"T={cooler.temperature:g}"))
    return rules


def table_lines(rules: Sequence[Rule], samples: Sequence[Sample]) -> list[str]:
    """Return the table, a rule a line, and what its columns are."""
    groups = by_rule(samples)
    base = groups[BASE]
    width = label_width(rules)
    lines = heading(width, _COLUMNS)
    lines += [f"{r.label:<{width}}{_line(r, groups[r.label], base)}" for r in rules]
    return [
        *lines,
        "",
        "law: lossless rules draw from the warped target, lossy ones do not, by design; tok/call:",
        "tokens a user gets per target call; x plain: tokens/s against plain sampling in the same",
        "passes, median; ppl: un-warped target, mean over prompts; SQL right: queries with right",
        "rows; against plain: the change of perplexity, the difference of right answers in points,",
        "each with its paired bootstrap interval.",
    ]


def label_width(rules: Sequence[Rule]) -> int:
    """Return how wide the first column is."""
    return 2 + max(len(rule.label) for rule in rules)


def heading(width: int, columns: str) -> list[str]:
    """Return the first two lines of a table whose first column is the rule."""
    line = f"{'rule':<{width}}{columns}"
    return [line, "-" * len(line)]


def shown_points(interval: Interval | None) -> str:
    """Return a difference of shares as a table has it, in points: +12 (+8 to +16)."""
    if interval is None:
        return "-"
    value, low, high = (f"{100 * x:+.0f}" for x in interval)
    return f"{value} ({low} to {high})"


def shown_interval(interval: Interval) -> str:
    """Return a change as a table has it: -21% (-24% to -18%)."""
    value, low, high = map(shown_change, interval)
    return f"{value} ({low} to {high})"


def shown_right(samples: Sequence[Sample]) -> str:
    """Return the share of right answers as a table has it: 74%, or a dash where none is judged."""
    accuracy = score(samples).accuracy
    return "-" if accuracy is None else f"{accuracy[0]:.0%}"


def _line(rule: Rule, samples: Sequence[Sample], base: Sequence[Sample]) -> str:
    s = score(samples, base)
    law = "lossless" if rule.strategy.lossless else "lossy"
    change, right = "-", "-"
    if rule.label != BASE:
        change = shown_interval(perplexity_change(samples, base))
        right = shown_points(right_change(samples, base))
    return (
        f"{law:<10}{s.tokens_per_call:>9.2f}{s.ratio or math.nan:>9.2f}"
        f"{shown_perplexity(s.perplexity):>7}  {change:<22}{shown_right(samples):>9}  {right:<22}"
    ).rstrip()
