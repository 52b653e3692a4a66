"""`summary.json` from rows: every key by hand, its intervals by scipy's bootstrap."""

import math
import tracemalloc

import numpy as np
import pytest
import scipy.stats
from bench_samples import sample
from run_folders import of_length, row

from experiments.bench import bootstrap, scores
from experiments.bench.summary import Answer, Facts, by_problem, perplexity, summarize


def stats(rounds, accepted, drafted, at):
    return {"rounds": rounds, "accepted": accepted, "drafted": drafted, "accepted_at": at}


FIRST = [
    of_length(2, id="a", decode_seconds=1.0, prefill_seconds=0.1, scores={"right": 1.0}),
    of_length(4, id="b", batch=1, decode_seconds=4.0, prefill_seconds=0.2, scores={}),
    of_length(
        2, id="b", batch=1, turn=1, decode_seconds=1.0, prefill_seconds=0.3, scores={"right": 0.0},
        logp_raw=[-2.0, -4.0],
    ),
]  # fmt: skip
SECOND = [
    of_length(
        4, id="a", strategy="mtad", decode_seconds=1.0, prefill_seconds=0.1, joules=3.0,
        stats=stats(2, 2, 6, [2, 0, 0]), scores={"right": 1.0, "runs": 1.0},
    ),
    of_length(
        4, id="b", batch=1, strategy="mtad", decode_seconds=0.5, prefill_seconds=0.2, joules=4.0,
        stats=stats(1, 3, 3, [1, 1, 1]), scores={},
    ),
    of_length(
        2, id="b", batch=1, turn=1, strategy="mtad", decode_seconds=0.5, prefill_seconds=0.3,
        joules=5.0, stats=stats(1, 1, 3, [1]), scores={"right": 1.0, "runs": 0.0},
        logp_raw=[-1.0, -2.0],
    ),
]  # fmt: skip


def test_every_key_by_hand():
    facts = {"mtad": Facts(12.5, 1000, "nvml"), "sample": Facts(2.5, None, "no counter")}
    first, second = summarize({"sample": FIRST, "mtad": SECOND}, facts)
    intervals = {"scores": first.pop("scores")}
    assert first == {
        "task": "tinysql", "strategy": "sample", "problems": 2, "rows": 3, "tokens": 8,
        "tokens_per_second": 8 / 6, "time_to_first_token": pytest.approx(0.8),  # 0.6, 1.2, 0.8
        "tokens_per_call": 1.0, "block_efficiency": 1.0, "acceptance": None, "accepted_at": [],
        "perplexity": pytest.approx(math.exp(5 / 3)),  # losses of 1, 1 and 3
        "perplexity_by_token": pytest.approx(math.exp(12 / 8)), "against": None,
        "joules_per_token": None, "joules_source": "no counter", "compile_seconds": 2.5,
        "peak_memory_bytes": None,
    }  # fmt: skip
    assert intervals["scores"] == {"right": [0.5, 0.0, 1.0]}
    against = second.pop("against")
    assert second == {
        "task": "tinysql", "strategy": "mtad", "problems": 2, "rows": 3, "tokens": 10,
        "tokens_per_second": 5.0, "time_to_first_token": pytest.approx(0.7),  # 0.6, 0.7, 0.8
        "tokens_per_call": 2.5, "block_efficiency": 2.5, "acceptance": 0.5,
        "accepted_at": [1.0, 0.25, 0.25], "perplexity": pytest.approx(math.exp(3.5 / 3)),
        "perplexity_by_token": pytest.approx(math.exp(1.1)),
        "scores": {"right": [1.0, 1.0, 1.0], "runs": [0.5, 0.0, 1.0]},
        "joules_per_token": 1.2, "joules_source": "nvml", "compile_seconds": 12.5,
        "peak_memory_bytes": 1000,
    }  # fmt: skip
    # Two problems: the resamples are a a, a b and b b.
    assert against["score"] == [0.5, 0.0, 1.0]
    assert against["tokens_per_call"] == [2.5, 2.0, 3.0]
    assert against["tokens_per_second"] == pytest.approx([3.75, 2.0, 5.0])
    losses = [math.exp(x) for x in (-0.5, -0.75, 0.0)]  # a: 0; b: 0 and -1.5
    assert against["perplexity"] == pytest.approx(losses)


def test_the_time_to_the_first_token_is_the_whole_batchs():
    """A batch of two: prefill 0.4 s, decoding 8 s in four rounds; its rows have halves of both."""
    times = {"prefill_seconds": 0.2, "decode_seconds": 4.0}
    long, short = of_length(4, id=0, **times), of_length(1, id=1, **times)
    no_room = of_length(0, id=2, prefill_seconds=0.0, decode_seconds=0.0)
    cut = of_length(0, id=1, **times)  # by a stop string, at its first token
    later = of_length(2, id=0, turn=1, **times)  # alone in its turn: 0.2 s and 4 s in two rounds
    apart = [long, short | {"batch": 1}]
    unsaid = [{name: found[name] for name in found if name != "batch"} for found in apart]
    for rows, wanted in (
        ([long, short], 0.4 + 2.0),
        ([long, short, no_room], 0.4 + 2.0),
        ([long, cut], 0.4 + 2.0),
        ([later], 0.2 + 2.0),
        ([long, short, later], 0.4 + 2.0),  # the median of 2.4, 2.4 and 2.2
        (apart, (1.2 + 4.2) / 2),
        (unsaid, (1.2 + 4.2) / 2),
    ):
        (entry,) = summarize({"x": rows})
        assert entry["time_to_first_token"] == pytest.approx(wanted)


def test_intervals_are_those_of_scipy_over_problems():
    """Problems of one to three samples, each one unit."""
    rng = np.random.default_rng(3)
    sides: list[list[dict]] = [[], []]
    for problem in range(80):
        for one in range(1 + problem % 3):
            for side, shift in zip(sides, (0.0, 0.4), strict=True):
                tokens = int(rng.integers(2, 9))
                calls = stats(int(rng.integers(1, tokens + 1)), 0, 0, [])
                logp = (-rng.gamma(2.0, 1.0, tokens) - shift).tolist()
                side.append(
                    of_length(
                        tokens, id=problem, sample=one, stats=calls, logp_raw=logp,
                        decode_seconds=float(rng.gamma(4.0)), scores={"f1": float(rng.random())},
                    )
                )  # fmt: skip
    base, mine = sides
    entry = summarize({"base": base, "mine": mine})[1]

    def sums(rows, value):
        found = np.zeros(80)
        np.add.at(found, [r["id"] for r in rows], [value(r) for r in rows])
        return found

    def mean_loss(r):
        return -sum(r["logp_raw"]) / len(r["tokens"])

    count = sums(mine, lambda r: 1)
    f1 = [sums(rows, lambda r: r["scores"]["f1"]) / count for rows in (mine, base)]
    tokens = [sums(rows, lambda r: len(r["tokens"])) for rows in (mine, base)]
    rounds = [sums(rows, lambda r: r["stats"]["rounds"]) for rows in (mine, base)]
    seconds = [sums(rows, lambda r: r["decode_seconds"]) for rows in (mine, base)]
    losses = sums(mine, mean_loss) - sums(base, mean_loss)

    def rates(a, b, c, d, axis=-1):
        return a.sum(axis) / b.sum(axis) / (c.sum(axis) / d.sum(axis))

    def exp_mean(x, n, axis=-1):
        return np.exp(x.sum(axis) / n.sum(axis))

    for found, data, statistic in (
        (entry["scores"]["f1"], (f1[0],), np.mean),
        (entry["against"]["score"], (f1[0] - f1[1],), np.mean),
        (entry["against"]["perplexity"], (losses, count), exp_mean),
        (entry["against"]["tokens_per_call"], (tokens[0], rounds[0], tokens[1], rounds[1]), rates),
        (
            entry["against"]["tokens_per_second"],
            (tokens[0], seconds[0], tokens[1], seconds[1]),
            rates,
        ),
        (
            list(perplexity(by_problem([Answer.of(r) for r in mine])) or ()),
            (sums(mine, mean_loss), count),
            exp_mean,
        ),
    ):
        wanted = scipy.stats.bootstrap(
            data, statistic, paired=True, method="percentile", rng=np.random.default_rng(1)
        ).confidence_interval
        width = wanted.high - wanted.low
        assert found[0] == pytest.approx(statistic(*data))
        assert abs(found[1] - wanted.low) < 0.05 * width > abs(found[2] - wanted.high)


def test_rows_and_samples_have_one_set_of_definitions():
    rows = [*FIRST, *SECOND]
    texts = [
        sample(
            tokens=len(r["tokens"]), rounds=r["stats"]["rounds"], accepted=r["stats"]["accepted"],
            drafted=r["stats"]["drafted"], logp_raw=sum(r["logp_raw"]), seconds=r["decode_seconds"],
        )
        for r in rows
    ]  # fmt: skip
    (entry,) = summarize({"all": rows})
    score = scores.score(texts)
    names = (
        "tokens_per_second", "tokens_per_call", "block_efficiency", "acceptance", "perplexity",
        "perplexity_by_token",
    )  # fmt: skip
    assert [entry[name] for name in names] == pytest.approx([getattr(score, n) for n in names])


def test_what_is_not_finite_is_null():
    """A token without a chance, a text without tokens, times that the clock did not see."""
    hopeless = [of_length(2, id=0), of_length(2, id=1, logp_raw=[-1.0, None])]
    empty = [of_length(0, id=0, stats=stats(0, 0, 0, [])), of_length(2, id=1, batch=1)]
    still = [of_length(2, id=i, decode_seconds=0.0) for i in range(2)]
    found = summarize({"base": still, "hopeless": hopeless, "empty": empty, "still": still})
    _, first, second, third = found
    assert first["perplexity"] is first["perplexity_by_token"] is None
    assert first["against"]["perplexity"] is None
    assert first["against"]["tokens_per_call"] == [1.0, 1.0, 1.0]
    assert second["perplexity"] == pytest.approx(math.e) and second["tokens"] == 2
    assert second["against"]["perplexity"] == pytest.approx([1.0, 1.0, 1.0])
    assert second["time_to_first_token"] == 1.5
    assert third["tokens_per_second"] is None and third["against"]["tokens_per_second"] is None
    (alone,) = summarize({"empty": empty[:1]})
    assert alone["perplexity"] is alone["tokens_per_call"] is alone["time_to_first_token"] is None
    both = [of_length(1, id=0, logp_raw=[None])]
    assert summarize({"a": both, "b": both})[1]["against"]["perplexity"] is None


def test_strategies_are_compared_on_the_problems_that_both_have():
    base = [row(id=i, scores={"right": float(i == 0)}) for i in range(4)]
    cut = [row(id=i, scores={"right": 1.0}) for i in (1, 2)]
    other = [row(id=9)]
    _, first, second = summarize({"base": base, "cut": cut, "other": other})
    assert first["problems"] == 2 and first["against"]["score"] == [1.0, 1.0, 1.0]
    assert second["against"] == dict.fromkeys(first["against"])
    plain = [row(id=0, scores={})]
    entry = summarize({"base": base, "plain": plain})[1]
    assert entry["scores"] == {} and entry["against"]["score"] is None


def test_joules_need_every_row():
    rows = [row(id=0, joules=1.0), row(id=1)]
    (entry,) = summarize({"x": rows}, {"x": Facts(joules_source="rapl")})
    assert entry["joules_per_token"] is None
    assert entry["joules_source"] == "1 of 2 rows have none (rapl)"
    no_room = row(id=2, tokens=[], logp_raw=[], stats=stats(0, 0, 0, []))
    (entry,) = summarize({"x": [rows[0], no_room]}, {"x": Facts(joules_source="rapl")})
    assert entry["joules_per_token"] == 1 / len(rows[0]["tokens"])
    cut = row(id=3, tokens=[], logp_raw=[], stats=stats(0, 0, 0, []), joules=2.0)
    (entry,) = summarize({"x": [rows[0], cut]}, {"x": Facts(joules_source="rapl")})
    assert entry["joules_per_token"] == 3 / len(rows[0]["tokens"])
    (entry,) = summarize({"x": [rows[1], cut]}, {"x": Facts(joules_source="rapl")})
    assert entry["joules_source"] == "1 of 2 rows have none (rapl)"
    (entry,) = summarize({"x": rows[1:]})
    assert (entry["joules_per_token"], entry["joules_source"]) == (None, "none was read")


def test_a_strategy_without_rows_is_refused():
    with pytest.raises(ValueError, match="mtad: it has no rows"):
        summarize({"sample": FIRST, "mtad": []})


@pytest.mark.parametrize("kept", [2000, 3])
def test_draws_in_blocks_are_those_of_one_matrix(kept, monkeypatch):
    monkeypatch.setattr(bootstrap, "_MOST_KEPT", kept)
    values = np.random.default_rng(2).normal(size=40)
    draws = np.random.default_rng(0).multinomial(40, np.full(40, 1 / 40), bootstrap.RESAMPLES)
    low, high = np.percentile(draws.astype(float) @ values / 40, [2.5, 97.5])
    assert bootstrap.mean(values) == (values.mean(), low, high)


@pytest.mark.slow
def test_memory_does_not_grow_with_all_resamples():
    values = np.random.default_rng(2).normal(size=4000)  # 320 MB of floats in one matrix
    tracemalloc.start()
    bootstrap.mean(values)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6
