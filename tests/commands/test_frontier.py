"""The frontier of quality and speed: paired intervals, verdicts, the picture."""

import dataclasses

import numpy as np
import pytest
import scipy.stats
from bench_samples import SAMPLE, WARP, sample

from experiments.bench import bootstrap, frontier, plot
from mtad_jax.decode.request import Request
from mtad_jax.decode.warp import Warp


def test_intervals_are_those_of_scipy():
    """The percentile bootstrap of paired prompts, to what 10,000 resamples leave open."""
    rng = np.random.default_rng(0)
    count = 120
    rounds = rng.integers(4, 12, (2, count))
    tokens = rounds * 2 + rng.integers(0, 9, (2, count))
    right = rng.random((2, count)) < [[0.7], [0.5]]
    logp = -rng.gamma(2.0, 1.0, (2, count))
    pair = [
        [
            sample(
                prompt=i, tokens=int(tokens[r, i]), rounds=int(rounds[r, i]),
                correct=bool(right[r, i]), logp_raw=float(logp[r, i] * tokens[r, i]),
            )
            for i in range(count)
        ]
        for r in range(2)
    ]  # fmt: skip
    for found, data, statistic in (
        (
            bootstrap.right_change(*pair),
            (right[0].astype(float) - right[1],),
            np.mean,
        ),
        (
            bootstrap.perplexity_change(*pair),
            (logp[1] - logp[0],),
            lambda x, axis=-1: np.exp(np.mean(x, axis)) - 1,
        ),
        (
            bootstrap.calls_ratio(*pair),
            (tokens[0], rounds[0], tokens[1], rounds[1]),
            lambda a, b, c, d, axis=-1: a.sum(axis) / b.sum(axis) / (c.sum(axis) / d.sum(axis)),
        ),
    ):
        wanted = scipy.stats.bootstrap(
            data, statistic, paired=True, method="percentile", rng=np.random.default_rng(1)
        ).confidence_interval
        assert found.value == pytest.approx(statistic(*data))
        width = wanted.high - wanted.low
        assert abs(found.low - wanted.low) < 0.05 * width > abs(found.high - wanted.high)
    shuffled = [pair[0], pair[1][::-1]]  # pairs are made by prompt
    assert bootstrap.right_change(*shuffled) == bootstrap.right_change(*pair)
    with pytest.raises(ValueError, match="not run on the same prompts"):
        bootstrap.right_change(pair[0], pair[1][1:])
    assert bootstrap.right_change([SAMPLE], [SAMPLE]) is None


def frontier_samples(rules, **facts):
    """Four passes of ten questions; `facts`: what the samples of a kind of rule have."""
    found = []
    for rule in rules:
        changes = {}
        joint = rule.name in ("mtad", "mmtad")
        kinds = {
            "sampling": rule.label == "sample",
            "drawn": joint and not frontier.is_chosen(rule),
            "chosen": joint and frontier.is_chosen(rule),
            "strict": rule.settings.get("tau") == 0.8,
        }
        for kind, change in facts.items():  # later ones win
            changes |= change if kinds[kind] else {}
        for i in range(40):
            right = i % 10 < changes.get("right", 5)
            shown = {k: v for k, v in changes.items() if k != "right"}
            found.append(sample(rule=rule.label, prompt=i, repeat=i // 10, correct=right, **shown))
    return found


def test_the_frontier_chooses_on_one_half_and_reports_on_the_other():
    rules = frontier.make_rules(WARP, [2, 4], [2, 4])
    labels = [rule.label for rule in rules]
    assert len(set(labels)) == len(labels)
    samples = frontier_samples(
        rules,
        sampling={"right": 3, "rounds": 10},
        drawn={"right": 6, "logp_raw": -10.0},
        chosen={"rounds": 2, "right": 4},
        strict={"rounds": 3, "right": 5},
    )
    lines = frontier.verdict_lines(rules, samples)
    text = "\n".join(lines)
    # Of the chosen bonus the strict one alone loses nothing.
    assert "tau=0.8 bonus_temperature=0.0, deterministic, against greedy" in text
    assert "right answers, points: +0 (+0 to +0)" in text
    assert "1.67 x (1.67 to 1.67)" in text
    assert "perplexity: -63% (-63% to -63%)" in text
    table = frontier.table_lines(rules, samples)
    assert len(table) == len(rules) + 7 and all(
        line.startswith(f"{label}  ") for line, label in zip(table[2:], labels, strict=False)
    )
    once = [dataclasses.replace(s, repeat=0) for s in samples]
    assert "same prompts" in frontier.verdict_lines(rules, once)[0]
    assert {frontier.family(rule) for rule in rules} == plot._STYLES.keys()


def test_the_frontier_without_judged_prompts(tmp_path):
    rules = frontier.make_rules(Warp(1.0, 0.9, 2), [2], [2, 4])
    samples = [dataclasses.replace(s, correct=None) for s in frontier_samples(rules)]
    lines = frontier.lines_of(rules, samples)
    assert not any("right answers, points" in line for line in lines)
    path = tmp_path / "x.png"
    plot.check_plot(str(path), overwrite=False)
    plot.draw(str(path), rules, samples)
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="x.png exists: use another name or --overwrite"):
        plot.check_plot(str(path), overwrite=False)
    plot.check_plot(str(path), overwrite=True)


@pytest.mark.parametrize("top_k", [0, 1, 2, 10])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_frontier_fits_every_warp(top_k, temperature):
    rules = frontier.make_rules(Warp(temperature, 0.9, top_k), [1, 2], [])
    labels = [rule.label for rule in rules]
    assert len(set(labels)) == len(labels)
    for rule in rules:
        rule.strategy.check(Request(top_k=top_k, draft_top_k=top_k))
    plot.check_plot(None, overwrite=False)
