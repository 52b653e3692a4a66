"""How good and how fast: settings of MTAD and MMTAD between greedy speculation and beam search.

What `--suite=frontier` runs. Of every setting the table has tokens a target call, tokens/s, right
answers and perplexity; the verdicts below it say what the settings that were chosen on one half of
the prompts do on the other.
"""

from collections.abc import Callable, Sequence

from experiments.bench.bootstrap import Interval, calls_ratio, perplexity_change, right_change
from experiments.bench.measure import Rule, Sample
from experiments.bench.rules import (
    BASE,
    CHOSEN,
    heading,
    label_width,
    shown_interval,
    shown_points,
    shown_right,
)
from experiments.bench.scores import (
    by_rule,
    choosing,
    halves_line,
    reported,
    score,
    shown_perplexity,
)
from mtad_jax.decode.warp import Warp

GREEDY = "greedy"
DEPTHS, WIDTHS = (4, 8, 12), (2, 4)
TAUS = (0.3, 0.5, 0.8)
BEAMS = 4  # width of the target's own beams
LATTICES = (8, 16)  # places of a level, below the target's own beams
GREEDY_LATTICE = 4  # the same below greedy's one
# Perplexity against sampling, and tokens a call against speculative sampling; arXiv 2407.09722.
PAPERS_CHANGE, PAPERS_CALLS = -0.2, 1.42

Half = Callable[[Sequence[Sample]], list[Sample]]

_COLUMNS = (
    f"{'tok/call':>9}{'tokens/s':>9}{'SQL right':>10}  {'against greedy (95 %)':<22}"
    f"{'ppl':>7}  {'against greedy (95 %)':<22}"
)


def make_rules(warp: Warp, depths: Sequence[int], widths: Sequence[int]) -> list[Rule]:
    """Return the rules to compare.

    No width of ours (where `widths` is empty) is above the tokens that the warp keeps. Beam search
    of one beam is greedy search with a lattice for a draft: `speculative` at temperature 0 has a
    chain.
    """
    cold, of = Warp(temperature=0.0), Rule.of
    widths = widths or sorted({min(width, warp.top_k or width) for width in WIDTHS})
    beams = min(BEAMS, warp.top_k or BEAMS)
    rules = [of(BASE, warp), of(GREEDY, cold)]
    rules += [of("speculative", warp, depth=k) for k in depths]
    rules += [of("speculative", cold, GREEDY, depth=k) for k in depths]
    rules += [
        of("speculative_beam", warp, GREEDY, width=1, ahead=k, lattice=GREEDY_LATTICE)
        for k in depths
    ]
    joint = [k for k in depths if k > 1]
    for name, sizes in (("mtad", widths[-1:]), ("mmtad", widths)):
        for bonus in ({}, CHOSEN):
            rules += [
                of(name, warp, depth=k, width=w, tau=tau, **bonus)
                for k in joint for w in sizes for tau in TAUS
            ]  # fmt: skip
    rules += [of("mtjd", warp, depth=4, width=beams), of("beam", warp, width=beams)]
    for size in LATTICES:
        ahead = {"width": beams, "ahead": 4, "lattice": size}
        rules.append(of("speculative_mtjd", warp, depth=4, **ahead))
        rules.append(of("speculative_beam", warp, **ahead))
    return rules


def family(rule: Rule) -> str:
    """Return what a picture calls the rules that differ from this one in settings alone."""
    if rule.name in ("mtad", "mmtad"):
        return f"{rule.name.upper()}, bonus {'chosen' if is_chosen(rule) else 'drawn'}"
    if rule.note == GREEDY:
        return "greedy speculation, " + ("chain" if rule.name == "speculative" else "lattice")
    names = {
        "sample": "sampling", "speculative": "speculative sampling", "mtjd": "MTJD",
        "beam": "beam search", "speculative_mtjd": "speculative MTJD",
        "speculative_beam": "speculative beam search",
    }  # fmt: skip
    return names.get(rule.name, rule.name)


def is_chosen(rule: Rule) -> bool:
    """Whether the token after what is accepted is the likeliest one."""
    return "bonus_temperature" in rule.settings


def table_lines(rules: Sequence[Rule], samples: Sequence[Sample]) -> list[str]:
    """Return the table, a rule a line, and what its columns are."""
    groups = by_rule(samples)
    base = groups[GREEDY]
    width = label_width(rules)
    lines = heading(width, _COLUMNS)
    for rule in rules:
        mine = groups[rule.label]
        s = score(mine)
        right, change = "-", "-"
        if rule.label != GREEDY:
            right = shown_points(right_change(mine, base))
            change = shown_interval(perplexity_change(mine, base))
        line = (
            f"{rule.label:<{width}}{s.tokens_per_call:>9.2f}{s.tokens_per_second:>9.0f}"
            f"{shown_right(mine):>10}  {right:<22}{shown_perplexity(s.perplexity, 3):>7}  {change}"
        )
        lines.append(line.rstrip())
    return [
        *lines,
        "",
        "tok/call: tokens a user gets per target call; tokens/s: median over the passes, batch 1;",
        "SQL right: queries that give the right rows; ppl: un-warped target, mean over prompts;",
        "against greedy: the difference of right answers in points, the change of perplexity, each",
        "with its paired bootstrap interval.",
    ]


def verdict_lines(rules: Sequence[Rule], samples: Sequence[Sample]) -> list[str]:
    """Return what must hold, with what the settings chosen on one half do on the other."""
    groups = by_rule(samples)
    joint = [rule for rule in rules if rule.name in ("mtad", "mmtad")]
    drawn = [rule for rule in joint if not is_chosen(rule)]
    chosen = [rule for rule in joint if is_chosen(rule)]
    return [
        halves_line(samples),
        *_drawn_lines(groups, drawn),
        *_chosen_lines(rules, groups, chosen),
    ]


def _drawn_lines(groups: dict[str, list[Sample]], rules: Sequence[Rule]) -> list[str]:
    """Return how the paper's rules do against sampling and against speculative sampling."""

    def facts(rule: Rule, half: Half) -> tuple[Interval, Interval, Interval | None]:
        mine, base = half(groups[rule.label]), half(groups[BASE])
        calls = calls_ratio(mine, half(groups[_speculative(rule)]))
        return calls, perplexity_change(mine, base), right_change(mine, base)

    def merit(rule: Rule) -> tuple[bool, float]:
        """Those as good as the paper's figures first; of them the most right, or likeliest."""
        calls, change, right = facts(rule, choosing)
        reaches = calls.value >= PAPERS_CALLS and change.value <= PAPERS_CHANGE
        return reaches, -change.value if right is None else right.value

    best = max(rules, key=merit)
    calls, change, right = facts(best, reported)
    lines = [f"  {best.label}, as in the paper, against sampling"]
    if right is not None:
        lines.append(f"    right answers, points: {shown_points(right)}")
    lines += [
        f"    perplexity: {shown_interval(change)}",
        f"    tokens a target call, of those of {_speculative(best)}: {_shown_ratio(calls)}",
    ]
    return lines


def _chosen_lines(
    rules: Sequence[Rule], groups: dict[str, list[Sample]], chosen: Sequence[Rule]
) -> list[str]:
    """Return how the chosen bonus does against greedy and against greedy speculation.

    Of the settings that lose nothing on the choosing half, the one of most tokens a call is taken.
    """

    def loss(rule: Rule) -> float:
        mine, base = choosing(groups[rule.label]), choosing(groups[GREEDY])
        right = right_change(mine, base)
        return max(perplexity_change(mine, base).value, 0.0) if right is None else -right.value

    def calls(rule: Rule) -> float:
        return score(choosing(groups[rule.label])).tokens_per_call

    def speed(rule: Rule) -> float:
        return score(choosing(groups[rule.label])).tokens_per_second

    able = [rule for rule in chosen if loss(rule) <= 0] or [min(chosen, key=loss)]
    greedy = [rule for rule in rules if rule.note == GREEDY]
    quick, fast = max(able, key=speed), max(greedy, key=speed)
    ratio = score(reported(groups[quick.label]), reported(groups[fast.label])).ratio
    return [
        *_deterministic_lines(groups, max(able, key=calls), max(greedy, key=calls)),
        f"    tokens/s: {quick.label}, {ratio:.2f} x those of {fast.label}",
    ]


def _deterministic_lines(groups: dict[str, list[Sample]], rule: Rule, other: Rule) -> list[str]:
    """Return how a rule does against greedy, and its tokens a call against those of `other`."""
    mine, base = reported(groups[rule.label]), reported(groups[GREEDY])
    right, change = right_change(mine, base), perplexity_change(mine, base)
    ratio = calls_ratio(mine, reported(groups[other.label]))
    lines = [f"  {rule.label}, deterministic, against greedy"]
    if right is not None:
        lines.append(f"    right answers, points: {shown_points(right)}")
    return [
        *lines,
        f"    perplexity: {shown_interval(change)}",
        f"    tokens a target call, of those of {other.label}: {_shown_ratio(ratio)}",
    ]


def _speculative(rule: Rule) -> str:
    """Return the label of speculative sampling at a rule's depth."""
    return f"speculative depth={rule.settings['depth']}"


def _shown_ratio(interval: Interval) -> str:
    value, low, high = interval
    return f"{value:.2f} x ({low:.2f} to {high:.2f})"


def lines_of(rules: Sequence[Rule], samples: Sequence[Sample]) -> list[str]:
    """Return the table and the verdicts."""
    return [*table_lines(rules, samples), "", *verdict_lines(rules, samples)]
