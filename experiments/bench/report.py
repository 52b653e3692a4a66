"""The benchmark's table, and what it says about the project's aims."""

from collections.abc import Callable, Sequence

from experiments.bench.measure import Rule, Sample
from experiments.bench.rules import BASE, cooler_rules, heading, label_width, tau_setting
from experiments.bench.scores import (
    Score,
    by_rule,
    choosing,
    chosen_and_reported,
    reported,
    score,
    shown_change,
    shown_perplexity,
)
from mtad_jax.decode.warp import Warp

AIM_CALLS = 1.42  # tokens a target call, MMTAD over speculative sampling at equal depth
AIM_SPECULATIVE = 1.2  # tokens/s, best MMTAD over best speculative sampling
AIM_PLAIN = 1.6  # tokens/s, best MMTAD over plain sampling
AIM_PERPLEXITY = -0.25  # of MTAD and MMTAD against plain sampling

DEPTHS, WIDTHS = (1, 2, 3, 4, 6), (1, 2, 4)
BEAM_WIDTH = 4

_COLUMNS = (
    f"{'tokens/s':>9}{'x plain':>9}{'tok/call':>9}{'blk eff':>9}{'accepted':>9}"
    f"{'ppl':>7}{'ppl tok':>8}  {'SQL right (95 %)':<20}{'compile s':>9}"
)


def make_rules(warp: Warp, depths: list[int], widths: list[int], tau: float) -> list[Rule]:
    """Return the rules to compare, plain sampling first.

    MTAD and MMTAD start at depth 2: at depth 1 there is no joint. Drawn beams ("draw=sample") are
    shown at one depth. MTAD is shown with the widest beams only, MMTAD with all.
    """
    rules = [Rule.of("sample", warp)]
    rules += [Rule.of("speculative", warp, depth=k) for k in depths]
    joint = [k for k in depths if k > 1]
    middle = joint[-2:][:1]  # one below the deepest, where there are two
    at, wide = tau_setting(tau), max(widths)
    for name, every in (("mtad", [wide]), ("mmtad", widths)):
        grid = [(k, w, {}) for k in joint for w in every]
        grid += [(k, w, {"draw": "sample"}) for k in middle for w in every]
        rules += [Rule.of(name, warp, depth=k, width=w, **at, **draw) for k, w, draw in grid]
    rules.append(Rule.of("greedy", Warp(temperature=0.0)))
    rules += cooler_rules(warp)  # for honesty
    rules.append(Rule.of("beam", warp, width=min(BEAM_WIDTH, warp.top_k or BEAM_WIDTH)))
    return rules


def table_lines(
    rules: Sequence[Rule], samples: Sequence[Sample], compile_seconds: dict[str, float]
) -> list[str]:
    """Return the table, a rule a line, and what its columns are."""
    groups = by_rule(samples)
    base = groups.get(BASE, ())
    width = label_width(rules)
    lines = heading(width, _COLUMNS)
    for rule in rules:
        line = _line(score(groups[rule.label], base), compile_seconds.get(rule.label, 0.0))
        lines.append(f"{rule.label:<{width}}{line}")
    return [
        *lines,
        "",
        "tokens/s and x plain: medians over passes; tok/call: tokens a user gets per target call;",
        "ppl: un-warped target, mean over prompts; ppl tok: mean over tokens.",
    ]


def _line(s: Score, compile_seconds: float) -> str:
    ratio = "-" if s.ratio is None else f"{s.ratio:.2f}"
    accepted = "-" if s.acceptance is None else f"{s.acceptance:.0%}"
    right = "-"
    if s.accuracy is not None:
        share, low, high = s.accuracy
        right = f"{share:.0%} ({low:.0%} to {high:.0%})"
    return (
        f"{s.tokens_per_second:>9.0f}{ratio:>9}{s.tokens_per_call:>9.2f}"
        f"{s.block_efficiency:>9.2f}{accepted:>9}{shown_perplexity(s.perplexity):>7}"
        f"{shown_perplexity(s.perplexity_by_token):>8}  {right:<20}{compile_seconds:>9.1f}"
    )


def summary_lines(samples: Sequence[Sample]) -> list[str]:
    """Return each aim with what was reached.

    Depths and widths are chosen on the even passes and reported on the odd ones.
    """
    groups = by_rule(samples)
    families = {
        family: [name for name in groups if name.startswith(family + " depth=")]
        for family in ("speculative", "mtad", "mmtad")
    }
    base = reported(groups[BASE])
    best = {
        family: chosen_and_reported(groups, names, _speed) for family, names in families.items()
    }
    lines = ["Aims (settings chosen on one half of the prompts, reported on the other):"]
    lines += _equal_depth_lines(groups, families)
    mmtad, mmtad_samples = best["mmtad"]
    for name, other, aim in (
        (best["speculative"][0], best["speculative"][1], AIM_SPECULATIVE),
        (BASE, base, AIM_PLAIN),
    ):
        ratio = score(mmtad_samples, other).ratio
        assert ratio is not None
        lines.append(_aim(f"tokens/s, {mmtad} / {name}", ratio, aim))
    plain = score(base).perplexity
    for family in ("mtad", "mmtad"):
        name, chosen = best[family]
        change = score(chosen).perplexity / plain - 1
        lines.append(_perplexity_line(name, change))
        worst, change = max(
            ((n, score(reported(groups[n])).perplexity / plain - 1) for n in families[family]),
            key=lambda pair: pair[1],
        )
        lines.append(_perplexity_line(f"{worst} (highest of its family)", change))
    return [*lines, _at_once_line(groups, families["mmtad"], best["speculative"][0])]


def _at_once_line(groups: dict[str, list[Sample]], names: list[str], speculative: str) -> str:
    """Return whether one MMTAD setting reaches the aims of speed and of perplexity.

    Of the settings that do on the even passes the fastest is taken, and judged on the odd ones.
    """

    def gains(name: str, half: Callable[[Sequence[Sample]], list[Sample]]) -> tuple[float, ...]:
        samples, base = half(groups[name]), half(groups[BASE])
        ratios = [score(samples, other).ratio for other in (half(groups[speculative]), base)]
        assert ratios[0] is not None and ratios[1] is not None
        return ratios[0], ratios[1], score(samples).perplexity / score(base).perplexity - 1

    def reaches(gain: tuple[float, ...]) -> bool:
        return gain[0] >= AIM_SPECULATIVE and gain[1] >= AIM_PLAIN and gain[2] <= AIM_PERPLEXITY

    what = "one MMTAD setting for both aims of speed and that of perplexity"
    able = [name for name in names if reaches(gains(name, choosing))]
    if not able:
        return f"  {what}: none (NOT reached)"
    name = max(able, key=lambda n: _speed(choosing(groups[n])))
    gain = gains(name, reported)
    verdict = "reached" if reaches(gain) else "NOT reached"
    return (
        f"  {what}: {name}, {gain[0]:.2f} x {speculative}, {gain[1]:.2f} x {BASE}, "
        f"perplexity {shown_change(gain[2])} ({verdict})"
    )


def _equal_depth_lines(
    groups: dict[str, list[Sample]], families: dict[str, list[str]]
) -> list[str]:
    """Return, for every depth, MMTAD's tokens a target call over speculative sampling's."""
    lines = []
    for plain in families["speculative"]:
        depth = plain.split(" ")[1]
        same = [name for name in families["mmtad"] if name.split(" ")[1] == depth]
        if same:
            name, chosen = chosen_and_reported(groups, same, _tokens_per_call)
            ratio = _tokens_per_call(chosen) / _tokens_per_call(reported(groups[plain]))
            lines.append(_aim(f"tokens a target call, {name} / {plain}", ratio, AIM_CALLS))
    return lines


def _aim(what: str, reached: float, aim: float) -> str:
    verdict = "reached" if reached >= aim else "NOT reached"
    return f"  {what}: {reached:.2f} (aim {aim:.2f}: {verdict})"


def _perplexity_line(name: str, change: float) -> str:
    verdict = "reached" if change <= AIM_PERPLEXITY else "NOT reached"
    return (
        f"  perplexity, {name} against {BASE}: {shown_change(change)} "
        f"(aim {AIM_PERPLEXITY:+.0%}: {verdict})"
    )


def _speed(samples: Sequence[Sample]) -> float:
    return score(samples).tokens_per_second


def _tokens_per_call(samples: Sequence[Sample]) -> float:
    return score(samples).tokens_per_call
