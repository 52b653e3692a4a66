"""Every decoding rule side by side: what `--suite=rules` runs, and its table.

One setting a rule, the one that its paper or the paper of MTAD uses, with a depth of 4 but for
BiLD, which stops by itself: the table compares rules, not tuned settings (`--suite=aims` varies
depth and width; `experiments.calibrate` chooses for a given pair).
"""

import dataclasses
import math
import statistics
from collections.abc import Sequence

from experiments.bench.measure import Rule, Sample
from experiments.bench.scores import (
    Z95,
    by_rule,
    perplexity_of,
    score,
    shown_change,
    shown_perplexity,
)
from mtad_jax import recipes
from mtad_jax.calibration.candidates import Candidate
from mtad_jax.decode.warp import Warp

DEPTH, WIDTH, NARROW = 4, 4, 2
BRANCHING = (4, 2, 2)
LOWER_TEMPERATURES = (0.7, 0.5)  # shares of the temperature: what sharpening alone gives
BASE = "sample"

_COLUMNS = (
    f"{'rule':<30}{'law':<10}{'tok/call':>9}{'x plain':>9}{'ppl':>7}  {'against plain (95 %)':<22}"
    f"{'ppl tok':>8}  {'SQL right (95 %)':<20}"
)


def make_rules(warp: Warp, tau: float, others: Sequence[Candidate] = ()) -> list[Rule]:
    """Return the rules to compare, plain sampling first and `others` last.

    No width or branching of ours is above the tokens that the warp keeps.
    """
    k, w, narrow = DEPTH, *(min(size, warp.top_k or size) for size in (WIDTH, NARROW))
    tree = tuple(min(size, w) for size in BRANCHING)
    rules = [*_lossless_rules(warp, k, w, tree), *_lossy_rules(warp, k, w, narrow, tau)]
    rules += cooler_rules(warp)
    for rule in others:
        note = rule.label.removeprefix(rule.name).strip()
        rules.append(Rule(rule.name, rule.strategy, warp, note=note))
    return list({rule.label: rule for rule in rules}.values())  # small widths may coincide


def _lossless_rules(warp: Warp, k: int, w: int, tree: tuple[int, ...]) -> list[Rule]:
    shape = ",".join(map(str, tree))
    return [
        Rule(BASE, recipes.sample(), warp),
        Rule("speculative", recipes.speculative(k), warp, k),
        Rule("block", recipes.block(k), warp, k),
        Rule("specinfer", recipes.specinfer(tree), warp, note=shape),
        Rule("mcsd", recipes.mcsd(tree), warp, note=shape),
        Rule("spectr", recipes.spectr(k, w), warp, k, note=f"n={w}"),
        Rule("lookup", recipes.lookup(k), warp, k),
    ]


def _lossy_rules(warp: Warp, k: int, w: int, narrow: int, tau: float) -> list[Rule]:
    r = recipes
    bild = r.bild()
    return [
        Rule("mtad", r.mtad(k, w, tau), warp, k, w),
        Rule("mtad", r.mtad(k, w, tau, bonus_temperature=0.0), warp, k, w, "chosen"),
        Rule("mtad", r.mtad(k, w, tau, "sample"), warp, k, w, "draw=sample"),
        Rule("mmtad", r.mmtad(k, w, tau), warp, k, w),
        Rule("mmtad", r.mmtad(k, w, tau, bonus_temperature=0.0), warp, k, w, "chosen"),
        Rule("mmtad", r.mmtad(k, narrow, tau), warp, k, narrow),
        Rule("mmtad", r.mmtad(k, w, tau, "sample"), warp, k, w, "draw=sample"),
        Rule("threshold", r.threshold(k, w, tau), warp, k, w),
        Rule("threshold", r.threshold(k, tau=tau, draft="chain"), warp, k, note="chain"),
        Rule("lenient", r.lenient(k), warp, k),
        Rule("typical", r.typical(k, w), warp, k, w),
        Rule("typical", r.typical(k, draft="chain"), warp, k, note="chain"),
        Rule("bild", bild, warp, bild.depth),
        Rule("dsbd", r.dsbd(k, w), warp, k, w),
        Rule("mtjd", r.mtjd(k, w), warp, k, w),
        Rule("mtjd", r.mtjd(k, w, "sample"), warp, k, w, "draw=sample"),
        Rule("speculative_mtjd", r.speculative_mtjd(k, w, k, 2 * w), warp, k, w),
        Rule("beam", r.beam(w), warp, width=w),
        Rule("speculative_beam", r.speculative_beam(w, k, 2 * w), warp, width=w),
        Rule("beam", r.beam(w, "sample"), warp, width=w, note="draw=sample"),
        Rule("greedy", r.greedy(), Warp(temperature=0.0)),
    ]


def cooler_rules(warp: Warp) -> list[Rule]:
    """Return plain sampling at lower temperatures: what sharpening alone gives."""
    if float(warp.temperature) == 0:
        return []
    rules = []
    for share in LOWER_TEMPERATURES:
        cooler = dataclasses.replace(warp, temperature=float(warp.temperature) * share)
        rules.append(Rule(BASE, recipes.sample(), cooler, note=f"T={cooler.temperature:g}"))
    return rules


def table_lines(rules: Sequence[Rule], samples: Sequence[Sample]) -> list[str]:
    """Return the table, a rule a line, and what its columns are."""
    groups = by_rule(samples)
    base = groups[BASE]
    lines = [_COLUMNS, "-" * len(_COLUMNS)]
    lines += [_line(rule, groups[rule.label], base) for rule in rules]
    return [
        *lines,
        "",
        "law: lossless rules draw from the warped target, lossy ones do not, by design; tok/call:",
        "tokens a user gets per target call; x plain: tokens/s against plain sampling in the same",
        "passes, median; ppl: un-warped target, mean over prompts; against plain: its change, with",
        "prompts paired; ppl tok: mean over tokens; SQL right: queries that give the right rows.",
    ]


def perplexity_change(
    samples: Sequence[Sample], base: Sequence[Sample]
) -> tuple[float, float, float]:
    """Return how macro perplexity changes against the base, with its 95 % interval.

    Paired by prompt: the differences of the prompts' mean log-probabilities, whose mean is taken to
    be normal.
    """
    plain = {s.prompt: s.logp_raw / s.tokens for s in base}
    change = [plain[s.prompt] - s.logp_raw / s.tokens for s in samples]
    mean = statistics.fmean(change)
    half = Z95 * statistics.stdev(change) / math.sqrt(len(change)) if len(change) > 1 else math.inf
    low, high = (perplexity_of(-mean - side * half) - 1 for side in (-1, 1))
    return perplexity_of(-mean) - 1, low, high


def _line(rule: Rule, samples: Sequence[Sample], base: Sequence[Sample]) -> str:
    s = score(samples, base)
    law = "lossless" if rule.strategy.lossless else "lossy"
    change, right = "-", "-"
    if rule.label != BASE:
        mean, low, high = perplexity_change(samples, base)
        change = f"{shown_change(mean)} ({shown_change(low)} to {shown_change(high)})"
    if s.accuracy is not None:
        share, low, high = s.accuracy
        right = f"{share:.0%} ({low:.0%} to {high:.0%})"
    return (
        f"{rule.label:<30}{law:<10}{s.tokens_per_call:>9.2f}{s.ratio or math.nan:>9.2f}"
        f"{shown_perplexity(s.perplexity):>7}  "
        f"{change:<22}{shown_perplexity(s.perplexity_by_token):>8}  {right:<20}"
    )
