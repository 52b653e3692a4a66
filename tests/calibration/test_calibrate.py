"""Calibration: what it decides on given measurements, and one real run on a tiny pair."""

import dataclasses
import math

import numpy as np
import pytest

import mtad_jax
from mtad_jax import recipes
from mtad_jax.calibration.calls import Calls, round_calls
from mtad_jax.calibration.candidates import Candidate, default_candidates
from mtad_jax.calibration.decide import Interval, perplexity_ratio, speed_ratio, why_not
from mtad_jax.calibration.meter import Decoded, EngineMeter
from mtad_jax.calibration.predict import Probe, call_costs, predicted_ratio
from mtad_jax.decode.loop import run_rounds as compiled
from mtad_jax.decode.state import Controls
from mtad_jax.decode.warp import Warp
from mtad_jax.testing import table_lm, tiny_pair

WARP = Warp(1.0, 0.9, 10)
ROUNDS = 20  # of a fake group of prompts


@dataclasses.dataclass
class FakeMeter:
    """A machine of given costs: no models, no clock but the time that it says it took.

    rate: chance that the next drafted token is accepted, a name's. gain: a name's log-perplexity
    below plain decoding's. noise: relative, of a timing; a group's own is worse than the other's.
    """

    draft_seconds: float = 0.001
    target_seconds: float = 0.01
    node_seconds: float = 0.0002
    beside: float = 0.0005
    rate: dict = dataclasses.field(default_factory=dict)
    gain: dict = dataclasses.field(default_factory=dict)
    noise: float = 0.0
    fresh_slower: float = 1.0
    names: dict = dataclasses.field(default_factory=dict)
    now: float = 0.0
    groups: int = 8
    seen: list = dataclasses.field(default_factory=list)
    compiled: set = dataclasses.field(default_factory=set)

    def clock(self):
        return self.now

    @property
    def programs(self):
        return len(self.compiled)

    def name(self, strategy):
        return self.names.get(strategy, "sample")

    def check(self, strategy):
        if self.name(strategy) == "beam":
            raise ValueError("trees are not possible here")

    def calls(self, strategy):
        depth = strategy.depth
        return Calls((depth + 1,), (2, *(1,) * (depth - 1)) if strategy.needs_draft else ())

    def call_seconds(self, model, sizes):
        self.compiled |= {(model, n) for n in sizes}
        return [getattr(self, f"{model}_seconds") + (n - 1) * self.node_seconds for n in sizes]

    def compile(self, strategy):
        self.compiled.add(strategy)
        self.now += 5.0

    def decode(self, strategy, group, seed):
        name, depth = self.name(strategy), strategy.depth
        calls = self.calls(strategy)
        timed = self.compiled.copy()
        seconds = sum(self.call_seconds("target", calls.target))
        seconds += sum(self.call_seconds("draft", calls.draft))
        self.compiled = timed
        rate = self.rate.get(name, 0.0)
        at = tuple(round(1000 * ROUNDS * rate ** (i + 1)) / 1000 for i in range(depth))
        rng = np.random.default_rng([group, seed, len(self.seen) if self.noise else 0])
        seconds *= 1 + self.noise * rng.random()
        seconds *= self.fresh_slower if seed >= 1000 and name != "sample" else 1
        spread = np.random.default_rng([group, seed]).normal(scale=0.1)
        self.now += ROUNDS * (seconds + self.beside)
        self.seen.append((name, group, seed))
        return Decoded(
            tokens=ROUNDS + sum(at), seconds=ROUNDS * (seconds + self.beside), rounds=ROUNDS,
            row_rounds=ROUNDS, accepted_at=at, logp_raw=(-2.0 + self.gain.get(name, 0.0) + spread,),
        )  # fmt: skip


def choose(meter, candidates=None, *, warp=WARP, **settings):
    candidates = default_candidates(draft=True) if candidates is None else candidates
    if isinstance(candidates, list | tuple):
        meter.names = {c.strategy: c.name for c in candidates if isinstance(c, Candidate)}
    return mtad_jax.calibrate(
        None, None, None, None, max_new_tokens=32, warp=warp, candidates=candidates, meter=meter,
        **settings,
    )  # fmt: skip


def verdicts(found):
    return {row.candidate.label: row.verdict for row in found.rows}


GOOD = {"speculative": 0.8, "block": 0.82, "mtad": 0.9, "mmtad": 0.92, "mcsd": 0.85}


def test_a_good_draft_is_used_and_lossy_rules_only_if_allowed():
    found = choose(FakeMeter(rate=GOOD, gain={"mtad": 0.3, "mmtad": 0.3}))
    assert found.name == "block" and found.settings["depth"] == 6
    assert found.speed.low > 1.03 and found.choice == recipes.block(6)
    refused = verdicts(found)
    assert refused["mmtad depth=4 width=4"] == "not lossless"
    assert [row.predicted for row in found.rows if row.candidate.name == "mmtad"] == [None] * 8
    open_ = choose(FakeMeter(rate=GOOD, gain={"mtad": 0.3, "mmtad": 0.3}), floor=1.0)
    assert open_.name == "mmtad" and open_.quality.high < 1


def test_the_floor_of_quality_refuses_likely_losses_and_allows_lossless_rules():
    rate = {"speculative": 0.8, "mtad": 0.95}
    candidates = [Candidate.of("speculative", depth=4), Candidate.of("mtad", depth=4, width=4)]
    worse = choose(FakeMeter(rate=rate, gain={"mtad": -0.2}), candidates, floor=1.1)
    assert worse.name == "speculative"  # its own perplexity wavers, its law is the target's
    assert verdicts(worse)["mtad depth=4 width=4"].startswith("perplexity may be 1.22")
    for floor in (1.3, None):
        found = choose(FakeMeter(rate=rate, gain={"mtad": -0.2}), candidates, floor=floor)
        assert found.name == "mtad"


def test_only_the_upper_end_of_quality_counts():
    plain = [Decoded(9, 1.0, 9, 9, (), (x,)) for x in (-2.0, -1.5, -2.5, -1.9)]
    rule = [Decoded(9, 0.5, 5, 5, (4,), (x,)) for x in (-1.0, -2.2, -2.4, -1.8)]
    quality = perplexity_ratio(rule, plain, range(4))
    assert quality.value == pytest.approx(math.exp(-np.mean([1.0, -0.7, 0.1, 0.1])))
    assert quality.value < 1 < quality.high
    speed = speed_ratio(rule, plain, range(4))
    assert (speed.value, speed.low, speed.high) == pytest.approx((2, 2, 2))
    asked = {"floor": 1.0, "margin": 0.03}
    assert "above 1" in str(why_not(speed, quality, exact=False, **asked))
    assert why_not(speed, quality, exact=True, **asked) is None
    assert "below 1.03" in str(why_not(Interval(1.1, 1.02, 1.2), quality, exact=True, **asked))


def drawn(prompts, draws, seed):
    """Groups of two prompts, each drawn so often; at temperature 0, so that draws are the same."""
    rng = np.random.default_rng(seed)
    once = [
        Decoded(int(rng.integers(9, 30)), 1.0 + rng.random(), 9, 18, (), tuple(rng.normal(size=2)))
        for _ in range(prompts)
    ]
    return once * draws, list(range(prompts)) * draws


@pytest.mark.parametrize("ratio", [speed_ratio, perplexity_ratio])
def test_drawing_the_same_prompts_again_does_not_narrow_an_interval(ratio):
    once = ratio(drawn(3, 1, 0)[0], *drawn(3, 1, 1))
    often = ratio(drawn(3, 4, 0)[0], *drawn(3, 4, 1))
    assert once.low < once.value < once.high
    want = pytest.approx((once.value, once.low, once.high))
    assert (often.value, often.low, often.high) == want


def test_draws_of_a_prompt_that_differ_count_as_one():
    """Two prompts, one fast and one slow, each drawn four times with little noise."""
    groups = [0, 1] * 4
    plain = [Decoded(10, 1.0, 9, 9, (), (-2.0,))] * 8
    rule = [Decoded(20 if g else 10, 1.0 + i / 100, 9, 9, (), (-g,)) for i, g in enumerate(groups)]
    speed, quality = speed_ratio(rule, plain, groups), perplexity_ratio(rule, plain, groups)
    assert speed.value == pytest.approx(120 / 8.28 / 10)
    assert (speed.low, speed.high) == pytest.approx((4 / 4.12, 8 / 4.16))
    assert (quality.low, quality.high) == pytest.approx((math.exp(-2), math.exp(-1)))


def test_one_group_has_no_interval_of_speed_but_one_of_quality():
    plain, groups = drawn(1, 8, 0)
    rule = drawn(1, 8, 1)[0]
    speed, quality = speed_ratio(rule, plain, groups), perplexity_ratio(rule, plain, groups)
    assert (speed.low, speed.high, str(speed)) == (None, None, f"{speed.value:.2f} (no interval)")
    assert quality.low < quality.value < quality.high
    single = [dataclasses.replace(d, logp_raw=d.logp_raw[:1]) for d in plain]
    assert perplexity_ratio(single, single, groups) == Interval(1.0, None, None)
    for floor in ("lossless", 1.0, None):
        why = why_not(speed, quality, exact=True, floor=floor, margin=0.0)
        assert why == "one batch of prompts gives no interval"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("floor", ["lossless", 1.0, None])
def test_on_one_batch_of_prompts_nothing_is_chosen_and_it_says_why(floor, temperature):
    meter = FakeMeter(rate=GOOD, groups=1)
    found = choose(meter, floor=floor, warp=Warp(temperature, 0.9, 10))
    assert (found.name, found.speed.value) == ("sample", 1.0)
    timed = [row for row in found.rows if row.speed]
    assert len(timed) == 4 and all(row.speed.value > 1.03 for row in timed)
    assert {row.verdict for row in timed} == {"one batch of prompts gives no interval"}
    assert "(no interval)" in str(found)
    assert "choice: sample: plain decoding: one batch of prompts gives no interval, so" in str(
        found
    )
    assert "give more prompts or smaller batches" in str(found)
    assert choose(FakeMeter(rate=GOOD, groups=2), floor=floor).name != "sample"


@pytest.mark.parametrize("floor", ["lossless", 1.0, None])
def test_a_useless_draft_is_not_used(floor):
    found = choose(FakeMeter(rate={}), floor=floor)
    assert (found.name, found.settings, found.speed.value) == ("sample", {}, 1.0)
    assert found.choice == recipes.sample()
    assert any(row.speed for row in found.rows)  # the best by prediction was timed


@pytest.mark.parametrize("floor", ["lossless", None])
def test_a_draft_as_costly_as_the_target_is_not_used(floor):
    rate = dict.fromkeys(("speculative", "block", "mcsd", "specinfer", "mtad", "mmtad"), 1.0)
    found = choose(FakeMeter(draft_seconds=0.01, rate=rate), floor=floor)
    assert found.name == "sample"
    timed = [row for row in found.rows if row.speed]
    assert timed and all(row.speed.value < 1.03 for row in timed)


def test_a_gain_within_the_margin_or_the_noise_is_not_worth_it():
    only = [Candidate.of("speculative", depth=1)]
    cost = (0.01 + 0.001 + 0.0002 + 0.0002 + 0.0005) / (0.01 + 0.0005)
    slightly = {"speculative": 1.02 * cost - 1}
    found = choose(FakeMeter(rate=slightly), only)
    assert found.name == "sample"
    assert verdicts(found)["speculative depth=1"] == "speed may be 1.02 of plain's, below 1.03"
    assert choose(FakeMeter(rate=slightly), only, margin=0.01).name == "speculative"
    more = {"speculative": 1.05 * cost - 1}
    assert choose(FakeMeter(rate=more), only).name == "speculative"
    noisy = FakeMeter(rate=more, noise=3.0)
    assert choose(noisy, only).name == "sample"
    assert len(noisy.seen) == 24 + 16 * 9  # timed again and again, and still open


def test_the_fastest_timing_counts_and_a_slow_call_is_not_believed():
    meter = FakeMeter()
    meter.call_seconds = lambda model, sizes: [9.0, 2.0, 3.0][: len(sizes)]
    cost = call_costs(meter, [Calls((n,), ()) for n in (1, 2, 3)])
    assert [cost(Calls((n,), ())) for n in (1, 2, 3)] == [2.0, 2.0, 3.0]
    slow = [Decoded(8, 9.0, 4, 4, (4,), ()), Decoded(8, 4.0, 4, 4, (4,), ())]
    assert Probe(Calls((1,), ()), slow).round_seconds == 1.0


def test_what_does_not_hold_on_fresh_draws_is_not_chosen():
    meter = FakeMeter(rate=GOOD, fresh_slower=3.0)
    found = choose(meter)
    assert found.name == "sample"
    assert any(v.startswith("on fresh draws speed may be") for v in verdicts(found).values())
    assert {seed for _, _, seed in meter.seen} >= {0, 1000}


def test_greedy_decoding_lets_every_rule_compete_that_is_greedy_there():
    candidates = [
        Candidate.of("mmtad", depth=4, width=4),
        Candidate.of("typical", depth=4, width=4),
        Candidate.of("speculative", depth=4),
    ]
    found = choose(FakeMeter(rate=GOOD), candidates, warp=Warp(temperature=0.0))
    assert found.name == "mmtad"
    assert verdicts(found)["typical depth=4 width=4"] == "not lossless"


def test_timings_are_interleaved_and_the_fastest_counts():
    meter = FakeMeter(rate=GOOD)
    only = [Candidate.of("speculative", depth=4)]
    choose(meter, only)
    for first in (0, 24):  # the probe of four groups, three times, then the timing of eight
        assert meter.seen[first : first + 2] == [("sample", 0, 0), ("speculative", 0, 0)]
        assert meter.seen[first + 2 : first + 4] == [("sample", 1, 0), ("speculative", 1, 0)]
    assert len(meter.seen) == 24 + 2 * 48  # settled after three passes; once more on fresh draws
    few = FakeMeter(rate=GOOD, groups=3)
    choose(few, only)
    assert {seed for _, _, seed in few.seen} == {0, 1, 2, 1000, 1001, 1002}


def test_the_budget_ends_it_and_says_so():
    found = choose(FakeMeter(rate=GOOD), budget_s=12.0)
    assert found.name == "sample"
    assert "out of time before its family's probe" in verdicts(found).values()
    assert "out of time before it was timed" in verdicts(found).values()
    none = choose(FakeMeter(rate=GOOD), budget_s=1e-6)
    assert not any(row.speed for row in none.rows)
    assert "no other rule was measured in the budget of seconds: raise it" in str(none)
    slow = choose(FakeMeter(rate={}))
    assert "nothing was shown to beat it by the margin" in str(slow)
    with pytest.raises(ValueError, match="budget_s=0"):
        choose(FakeMeter(), budget_s=0)


def test_few_programs_are_compiled():
    meter = FakeMeter(rate=GOOD)
    found = choose(meter, floor=None)
    families = {c.family for c in default_candidates(draft=True)}
    rules = {c for c in meter.compiled if not isinstance(c, tuple)}
    assert len(rules) <= 1 + len(families) + 4
    assert found.programs == len(meter.compiled)
    assert meter.compiled == rules | {c for c in meter.compiled if isinstance(c, tuple)}


def test_refused_rules_and_wrong_settings():
    found = choose(FakeMeter(rate=GOOD), [Candidate.of("beam", width=4)], floor=None)
    assert verdicts(found) == {"beam width=4": "refused: trees are not possible here"}
    for floor in ("lossles", True, [1]):
        with pytest.raises(ValueError, match="floor=.* must be 'lossless'"):
            choose(FakeMeter(), floor=floor)
    for floor in (0.9, math.inf, math.nan):
        with pytest.raises(ValueError, match="floor=.* must be finite and >= 1"):
            choose(FakeMeter(), floor=floor)
    with pytest.raises(ValueError, match="margin=-1"):
        choose(FakeMeter(), margin=-1)
    for wrong in ("mmtad", ["mmtad"], [recipes.mmtad()], 3):
        with pytest.raises(ValueError, match=r"^candidates.* write .*Candidate.of\(.*$"):
            choose(FakeMeter(), wrong)
    for name in ("nonsense", "Chain", "_draft_of", "check_depth", "isfunction"):
        with pytest.raises(ValueError, match=f"no rule '{name}'"):
            Candidate.of(name)


def test_predictions_follow_costs_and_acceptance():
    """Ten seconds a target call, one a draft call; a round takes a fifth more than its calls."""
    plain = Probe(Calls((1,), ()), [Decoded(8, 8 * 12.0, 8, 8, (), (-1.0,))])
    deep = Calls((4,), (1, 1, 1))
    probe = Probe(deep, [Decoded(14, 4 * 15.0, 4, 4, (4, 2, 1), (-1.0,))])

    def cost(calls):
        return 10.0 * len(calls.target) + 1.0 * len(calls.draft)

    assert probe.tokens_a_round(3) == 1 + 7 / 4
    want = (1 + 7 / 4) / 15 * 12
    assert predicted_ratio(deep, 3, probe, plain, cost) == pytest.approx(want)
    want = (1 + 1.0) / (15 * 11 / 13) * 12
    assert predicted_ratio(Calls((2,), (1,)), 1, probe, plain, cost) == pytest.approx(want)


def test_few_sizes_are_timed_and_the_others_interpolated():
    meter = FakeMeter()
    cost = call_costs(meter, [Calls((n,), (2, n)) for n in range(1, 30)])
    assert len(meter.compiled) <= 10
    want = meter.target_seconds + 16 * 0.0002 + meter.draft_seconds + 1 * 0.0002
    assert cost(Calls((17,), (2,))) == pytest.approx(want)


def test_the_calls_of_a_round_are_counted_without_a_model():
    pair = table_lm(np.zeros((3, 9))), table_lm(np.zeros((3, 9)))
    controls = Controls(Warp(), Warp(), np.array([0]))
    cases = [
        (recipes.sample(), (1,), ()),
        (recipes.speculative(3), (4,), (2, 1, 1)),
        (recipes.mtad(3, 4), (4,), (2, 4, 4)),
        (recipes.mmtad(3, 4), (13,), (2, 4, 4)),
        (recipes.beam(3), (3,), ()),
        (recipes.bild(1), (2,), (2,)),
        (recipes.bild(4), (5,), (2, 1, 1, 1)),  # as many as its loop makes at most
    ]
    for strategy, target, draft in cases:
        assert round_calls(strategy, *pair, controls) == Calls(target, draft)


@pytest.mark.slow
def test_a_real_run_on_a_tiny_pair():
    """Only its structure: the speeds of random models of a few kilobytes mean nothing."""
    target, draft = tiny_pair()
    prompts = np.random.default_rng(0).integers(1, 64, (4, 9))
    asked = [Candidate.of("speculative", depth=2), Candidate.of("mtad", depth=2, width=99)]
    said, before = [], compiled._cache_size()  # type: ignore[attr-defined]
    found = mtad_jax.calibrate(
        target, draft, prompts, [9, 3, 5, 7], warp=WARP, max_new_tokens=6, eos_id=0, floor=None,
        candidates=asked, batch_size=2, progress=said.append,
    )  # fmt: skip
    grown = compiled._cache_size() - before  # type: ignore[attr-defined]
    assert grown == 2 and found.programs == grown + 3  # a target call of 3, draft calls of 2 and 1
    rule, refused = found.rows
    assert refused.verdict.startswith("refused: width=99")
    assert rule.predicted > 0 and 0 < rule.speed.low <= rule.speed.value <= rule.speed.high
    assert rule.quality.value > 0 and rule.verdict
    assert found.name in ("sample", "speculative") and found.plain_tokens_per_second > 0
    assert said[0] == "compiling plain decoding" and "probing speculative depth=2" in said
    text = str(found)
    assert text.count("\n") < 12 and "speculative depth=2" in text and "choice: " in text
    again = EngineMeter(target, draft, prompts, [9, 3, 5, 7], batch_size=2,
                        settings={"max_new_tokens": 6, "warp": WARP})  # fmt: skip
    one, two = (again.decode(recipes.speculative(2), 1, 0) for _ in range(2))
    assert dataclasses.replace(one, seconds=0) == dataclasses.replace(two, seconds=0)
    assert one.row_rounds <= one.tokens and one.rounds <= 6 and len(one.logp_raw) == 2


@pytest.mark.slow
def test_a_real_run_without_a_draft_model():
    """Only its structure again: prompt lookup competes, and no draft call is timed."""
    target, _ = tiny_pair()
    prompts = np.random.default_rng(0).integers(1, 64, (2, 9))
    asked = [Candidate.of("lookup", depth=2, ngram=2), Candidate.of("mtad", depth=2)]
    found = mtad_jax.calibrate(
        target, None, prompts, [9, 5], warp=WARP, max_new_tokens=4, candidates=asked, floor=None,
    )  # fmt: skip
    rule, refused = found.rows
    assert rule.predicted > 0 and rule.speed.value > 0 and rule.verdict
    assert refused.verdict.startswith("refused: ") and "draft" in refused.verdict
    assert found.name in ("sample", "lookup") and found.programs == 3  # one target call, of 3


def test_prompts_and_settings_are_checked_first():
    target, draft = tiny_pair()
    call = {"warp": WARP, "max_new_tokens": 4}
    with pytest.raises(ValueError, match="batch_size=2 > 1 prompts"):
        mtad_jax.calibrate(target, draft, [[1, 2]], [2], batch_size=2, **call)
    with pytest.raises(ValueError, match="seed is chosen by the calibration"):
        mtad_jax.calibrate(target, draft, [[1, 2]], [2], seed=1, **call)
    with pytest.raises(ValueError, match="holds id 99"):
        mtad_jax.calibrate(target, draft, [[1, 99]], [2], **call)
    with pytest.raises(ValueError, match="positions=512 of the target"):
        mtad_jax.calibrate(target, draft, [[1, 2]], [2], warp=WARP, max_new_tokens=600)
