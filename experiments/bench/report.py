"""The benchmark's table of depths and widths, and what the best of them gain."""

from collections.abc import Sequence

from experiments.bench.measure import Rule, Sample
from experiments.bench.rules import BASE, cooler_rules, heading, label_width, tau_setting
from experiments.bench.scores import (
    Score,
    by_rule,
    chosen_and_reported,
    halves_line,
    reported,
    score,
    shown_change,
    shown_perplexity,
)
from mtad_jax.decode.warp import Warp

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
    """Return what the best settings of each rule gain.

    Depths and widths are chosen on the even passes and reported on the odd ones, if there are any.
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
    lines = [halves_line(samples)]
    lines += _equal_depth_lines(groups, families)
    mmtad, mmtad_samples = best["mmtad"]
    for name, other in (best["speculative"], (BASE, base)):
        lines.append(f"  tokens/s, {mmtad} / {name}: {score(mmtad_samples, other).ratio:.2f}")
    plain = score(base).perplexity
    for family in ("mtad", "mmtad"):
        name, chosen = best[family]
        worst = max(score(reported(groups[n])).perplexity for n in families[family])
        lines.append(
            f"  perplexity, {name} against {BASE}: "
            f"{shown_change(score(chosen).perplexity / plain - 1)} (highest of its family: "
            f"{shown_change(worst / plain - 1)})"
        )
    return lines


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
            lines.append(f"  tokens a target call, {name} / {plain}: {ratio:.2f}")
    return lines


def _speed(samples: Sequence[Sample]) -> float:
    return score(samples).tokens_per_second


def _tokens_per_call(samples: Sequence[Sample]) -> float:
    return score(samples).tokens_per_call
