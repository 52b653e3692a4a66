"""Measuring: samples, scores, interleaving, and the report."""

import dataclasses
import errno
import json
import math
from types import SimpleNamespace

import outside_rules
import pytest
from absl import flags
from bench_samples import SAMPLE, WARP, sample
from tiny_pair import write_pair

from experiments import benchmark
from experiments.bench import bootstrap, scores, suites
from experiments.bench import report as benchmark_report
from experiments.bench import rules as benchmark_rules
from experiments.bench.measure import Bench, Rule
from experiments.rows.output import RowWriter
from experiments.tasks import shipped as benchmark_tasks
from mtad_jax import recipes
from mtad_jax.decode.loop import run_rounds as compiled
from mtad_jax.decode.request import Request
from mtad_jax.decode.warp import Warp
from mtad_jax.pipeline import Pipeline


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    pipe = Pipeline.load(*write_pair(tmp_path_factory.mktemp("measure")))
    texts = ["The cat", "hello world, the dog ran home", "def f(x):", "and the cat did not"]
    return Bench(pipe, [pipe.encode(t) for t in texts], ["story", "sql"] * 2, 6, seed=0)


@pytest.mark.slow
def test_a_sample_is_what_the_pipeline_gives(bench):
    rule = Rule.of("speculative", WARP, depth=2)
    got = bench.decode(rule, 1)
    row = bench.pipe(
        [bench.prompts[1]], strategy=rule.strategy, warp=WARP, max_new_tokens=6, row_ids=[1]
    )[0]
    assert (got.tokens, got.text) == (len(row.tokens), row.text)
    assert (got.rounds, got.accepted) == (row.stats.rounds, row.stats.accepted)
    assert got.drafted == row.stats.drafted
    assert math.isclose(got.logp_raw, sum(row.logp_raw), rel_tol=1e-4)
    assert got.seconds > 0 and got.prefill_seconds > 0
    before = compiled._cache_size()
    bench.decode(rule, 0)
    bench.decode(rule, 3)
    assert compiled._cache_size() == before  # prompts of other lengths compile nothing


def test_passes_share_out_the_prompts(bench, monkeypatch):
    seen = []
    monkeypatch.setattr(Bench, "decode", lambda self, *args: seen.append(args))
    bench.interleaved(["a", "b"], 2)
    assert seen == [
        *[("a", 0, 0), ("a", 1, 0), ("b", 0, 0), ("b", 1, 0)],
        *[("a", 2, 1), ("a", 3, 1), ("b", 2, 1), ("b", 3, 1)],
    ]
    with pytest.raises(ValueError, match="repeats=5"):
        bench.interleaved(["a"], 5)


def test_scores_by_hand():
    samples = [
        sample(correct=True),
        sample(prompt=1, tokens=30, rounds=10, seconds=2.0, logp_raw=-30.0, correct=False),
        sample(prompt=2, repeat=1, tokens=20, rounds=5, seconds=1.0, logp_raw=-10.0),
    ]
    base = [sample(seconds=4.0), sample(repeat=1, seconds=1.0)]
    got = scores.score(samples, base)
    assert got.tokens_per_second == (10 + 20) / 2  # passes: 40 / 4 and 20 / 1
    assert got.ratio == (10 / 2.5 + 20 / 10) / 2
    assert got.tokens_per_call == 60 / 20 and got.block_efficiency == 1 + 12 / 20
    assert got.acceptance == 0.5 and got.tokens == 20
    assert math.isclose(got.perplexity, math.exp((2.0 + 1.0 + 0.5) / 3))
    assert math.isclose(got.perplexity_by_token, math.exp(60 / 60))
    share, low, high = got.accuracy
    assert share == 0.5 and 0 < low < 0.5 < high < 1
    assert scores.score([SAMPLE]).ratio is None and scores.score([SAMPLE]).accuracy is None


def test_perplexities_past_the_largest_float_are_shown():
    """A target that gives no chance at all to what came has a mean above 709 nats."""
    assert scores.perplexity_of(-1.0) == math.e and scores.perplexity_of(-800.0) == math.inf
    shown = [2.306, 99999.4, 3.1e7, 1e300, math.inf, math.nan]
    assert [scores.shown_perplexity(x) for x in shown] == [
        "2.31", "99999.40", "3.1e+07", "1e+300", "inf", "nan",
    ]  # fmt: skip
    changes = [scores.shown_change(x) for x in (0.31, -0.5, 3.1e7, math.inf)]
    assert changes == ["+31%", "-50%", "+3.1e+09%", "+inf%"]
    hopeless = [sample(prompt=i, tokens=1, logp_raw=-800.0) for i in range(3)]
    base = [sample(prompt=i, tokens=1, logp_raw=-1.0) for i in range(3)]
    got = scores.score(hopeless, base)
    assert (got.perplexity, got.perplexity_by_token) == (math.inf, math.inf)
    assert bootstrap.perplexity_change(hopeless, base) == (math.inf,) * 3


def test_wilson():
    low, high = scores.wilson(0, 10)
    assert low == 0 and math.isclose(high, 0.2775, abs_tol=1e-4)
    low, high = scores.wilson(81, 263)  # Newcombe 1998, table I
    assert math.isclose(low, 0.2553, abs_tol=1e-4) and math.isclose(high, 0.3662, abs_tol=1e-4)


def test_settings_are_not_reported_on_the_prompts_that_chose_them():
    groups = {
        "lucky": [sample(rule="lucky", tokens=40), sample(rule="lucky", repeat=1, tokens=5)],
        "steady": [sample(rule="steady", tokens=20), sample(rule="steady", repeat=1, tokens=20)],
    }
    best, reported = scores.chosen_and_reported(
        groups, list(groups), lambda s: scores.score(s).tokens_per_second
    )
    assert best == "lucky" and [s.tokens for s in reported] == [5]


def test_report():
    rules = benchmark_report.make_rules(WARP, [1, 2, 3], [2, 4], 0.5)
    labels = [rule.label for rule in rules]
    assert len(set(labels)) == len(labels) and labels[0] == benchmark_report.BASE
    samples = [
        sample(rule=rule.label, repeat=r, rounds=5 - (rule.name == "mmtad"), seconds=seconds)
        for r in range(2)
        for rule in rules
        for seconds in [{"mmtad": 1.0, "speculative": 1.1}.get(rule.name, 2.0)]
    ]
    table = "\n".join(benchmark_report.table_lines(rules, samples, {}))
    assert all(label in table for label in labels)
    lines = benchmark_report.summary_lines(samples)
    calls = [line for line in lines if "target call" in line]
    assert len(calls) == 2 and all(line.endswith(": 1.25") for line in calls)
    assert any(line.endswith("/ sample: 2.00") for line in lines)
    assert any(line.endswith("/ speculative depth=1: 1.10") for line in lines)
    assert sum("perplexity" in line and line.count("+0%") == 2 for line in lines) == 2
    assert lines[0] == "Settings chosen on one half of the prompts, reported on the other:"
    once = benchmark_report.summary_lines([s for s in samples if s.repeat == 0])
    want = "Settings chosen and reported on the same prompts, for want of a second pass:"
    assert once[0] == want and once[1:] == lines[1:]


@pytest.fixture
def passes(monkeypatch):
    """How often the benchmark measured, which is made up."""
    seen = []

    def measure(bench, tasks, rules, repeats):
        seen.append(repeats)
        return {}, [sample(rule=rule.label, repeat=r) for r in range(repeats) for rule in rules]

    monkeypatch.setattr(benchmark, "measure", measure)
    pipe = Pipeline.shipped()
    monkeypatch.setattr(benchmark, "_open", lambda *args: SimpleNamespace(pipe=pipe))
    return seen


def run_benchmark(*args):
    values = flags.FlagValues()
    benchmark.define_flags(values)
    values(["benchmark", *args])
    benchmark.benchmark(values)


def test_an_output_that_cannot_be_opened_is_refused_before_anything_is_measured(tmp_path, passes):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        run_benchmark(f"--output={tmp_path / 'file' / 'out.jsonl'}")
    assert not passes


def test_a_full_disk_takes_no_table_away(tmp_path, passes, monkeypatch, capsys):
    def full(self, rows):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RowWriter, "write", full)
    with pytest.raises(OSError, match="No space left"):
        run_benchmark(f"--output={tmp_path / 'out.jsonl'}")
    assert passes and "mtad depth=4 width=4" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_output_says_what_was_measured(tmp_path, passes):
    out = tmp_path / "out.jsonl"
    run_benchmark(f"--output={out}", "--tau=0.3", "--seed=7", "--top_k=2", "--widths=1,2")
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    settings = json.loads((tmp_path / "out.jsonl.settings.json").read_text())
    about = settings["config"]
    wanted = {"tau": 0.3, "seed": 7, "max_new_tokens": 100, "openings": 24, "repeats": 6}
    wanted |= {"questions": 24, "prompts": None}
    wanted |= {"temperature": 1.0, "top_k": 2, "top_p": 0.9, "data_dir": None}
    assert wanted.items() <= about.items() and "beam width=2" in about["rules"]
    assert len(rows) == 6 * len(about["rules"]) and settings["compile_seconds"] == {}


def test_the_default_prompts_differ():
    texts = [task.prompt for task in benchmark_tasks.make_tasks(24, 24, 0)]
    assert len(set(texts[::2])) == 24


def test_tasks():
    tasks = benchmark_tasks.make_tasks(15, 15, 0)
    assert [task.kind for task in tasks] == ["story", "sql"] * 15
    assert tasks[1].judge(tasks[1].example.sql + "\n") is True
    assert tasks[1].judge("DROP TABLE x") is False and tasks[0].judge("x") is None
    assert tasks[:10] == benchmark_tasks.make_tasks(15, 15, 0)[:10]


def test_stories_are_looked_for(tmp_path):
    assert benchmark_tasks.find_stories(None) is None
    with pytest.raises(OSError, match="--data_dir=.*test.txt"):
        benchmark_tasks.find_stories(str(tmp_path))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--openings=0", "--questions=0"], "--openings=0 and --questions=0"),
        (["--openings=25"], "--openings=25 must be <= 24"),
        (["--questions=-1"], "--questions=-1 must be >= 0"),
        (["--questions=1", "--prompts=x"], "--questions=1 is about built-in prompts"),
        (["--repeats=9", "--openings=4", "--questions=4"], "--repeats=9 must be <= 8"),
        (["--suite=rules", "--plot=x.png"], "--plot=x.png means nothing to --suite=rules"),
        (["--suite=frontier", "--plot=x.gif"], "--plot=x.gif must end with .png"),
        (["--suite=frontier", "--plot=no/x.png"], "--plot=no/x.png: no such folder"),
        (["--suite=frontier", "--depths=1"], "--depths=1 must hold"),
        (["--suite=frontier", "--widths=11"], "width=11"),
        (["--suite=frontier", "--tau=0.5"], "--tau=0.5 means nothing to --suite=frontier"),
        (["--suite=rules", "--data_dir=x"], "--data_dir=x has stories, and --suite=rules asks"),
        (["--prompts=x.jsonl", "--data_dir=x"], "--data_dir=x is about built-in prompts"),
        (["--draft=x"], "--draft=x needs --target"),
        (["--depths=1"], "--depths=1 must hold"),
        (["--depths=2,0"], "depth=0"),
        (["--widths="], "--widths is empty"),
        (["--widths=11"], "width=11"),
        (["--tau=0"], "tau=0.0"),
        (["--top_p=2"], "top_p=2.0"),
        (["--target=x"], "--target and --draft"),
        (["--overwrite"], "--overwrite needs --output"),
    ],
)
def test_wrong_flags(args, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = flags.FlagValues()
    benchmark.define_flags(values)
    values(["benchmark", *args])
    with pytest.raises(ValueError, match=message):
        benchmark.benchmark(values)
    assert not list(tmp_path.iterdir())


def test_perplexity_change_is_paired_by_prompt():
    base = [sample(prompt=i, tokens=10, logp_raw=-10.0 * (i + 1)) for i in range(4)]
    same = [dataclasses.replace(s, rule="other") for s in base]
    assert bootstrap.perplexity_change(same, base) == (0.0, 0.0, 0.0)
    # Every prompt a nat a token better: e^-1, without any doubt; prompts differ much more.
    better = [dataclasses.replace(s, logp_raw=s.logp_raw + 10) for s in base]
    got = bootstrap.perplexity_change(better, base)
    assert got == pytest.approx((math.exp(-1) - 1,) * 3)
    worse = [dataclasses.replace(s, logp_raw=s.logp_raw - 20 * (s.prompt % 2)) for s in base]
    mean, low, high = bootstrap.perplexity_change(worse, base)
    assert mean == pytest.approx(math.e - 1) and low <= 0 < mean < high


def test_tasks_of_unequal_kinds_are_spread():
    tasks = benchmark_tasks.make_tasks(3, 9, 0)
    kinds = [task.kind for task in tasks]
    assert kinds.count("sql") == 9
    assert all("story" in kinds[i : i + 4] for i in (0, 4, 8))


def test_suite_of_rules_takes_other_numbers_and_refuses_depths():
    def suite(*args):
        values = flags.FlagValues()
        benchmark.define_flags(values)
        values(["benchmark", *args])
        found = suites.suite_of(values)
        return found.openings, found.questions

    assert suite() == (24, 24) and suite("--suite=rules") == (0, 300)
    assert suite("--suite=frontier", "--questions=12") == (0, 12)
    assert suite("--openings=9", "--questions=3", "--depths=2") == (9, 3)
    with pytest.raises(ValueError, match="--depths=2 means nothing to --suite=rules"):
        suite("--suite=rules", "--depths=2")
    with pytest.raises(ValueError, match="--rule=mtad means nothing to --suite=depths"):
        suite("--rule=mtad")


@pytest.mark.parametrize("top_k", [0, 1, 2, 4, 10])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_suite_of_rules_has_every_recipe_once(top_k, temperature):
    rules = benchmark_rules.make_rules(Warp(temperature, 0.9, top_k), 0.5)
    labels = [rule.label for rule in rules]
    assert len(set(labels)) == len(labels)
    assert {rule.name for rule in rules} == recipes.RECIPES.keys()
    for rule in rules:
        rule.strategy.check(Request(top_k=top_k, draft_top_k=top_k))


def test_the_suite_of_rules_takes_others():
    values = flags.FlagValues()
    benchmark.define_flags(values)
    values(["benchmark", "--suite=rules", "--rule=outside_rules:slack depth=2", "--rule=mtad"])
    rules = suites.SUITES["rules"].rules(values)
    assert [rule.label for rule in rules[-2:]] == ["outside_rules:slack depth=2", "mtad"]
    assert rules[-2].strategy == outside_rules.slack(2) and rules[-2].warp == WARP
    values.rule = ["outside_rules:slack width=2"]
    with pytest.raises(ValueError, match="--rule=outside_rules:slack width=2: .* no setting 'wid"):
        suites.SUITES["rules"].rules(values)


def test_the_table_of_rules():
    rules = benchmark_rules.make_rules(WARP, 0.5)
    samples = [
        sample(rule=rule.label, prompt=i, kind=kind, correct=correct)
        for rule in rules
        for i, (kind, correct) in enumerate([("story", None), ("sql", True), ("sql", False)])
    ]
    lines = benchmark_rules.table_lines(rules, samples)
    assert len(lines) == len(rules) + 8
    assert all(
        line.startswith(f"{rule.label}  ") for line, rule in zip(lines[2:], rules, strict=False)
    )
    width = lines[0].index("law")
    got = {line[:width].strip(): line[width:].split() for line in lines[2 : 2 + len(rules)]}
    assert got["sample"] == "lossless 2.00 1.00 7.39 - 50% -".split()
    assert got["mcsd branching=4,2,2"][:4] == "lossless 2.00 1.00 7.39".split()
    assert got["mtad depth=4 width=4"][0] == "lossy"
    assert got["mtad depth=4 width=4"][4:] == "+0% (+0% to +0%) 50% +0 (+0 to +0)".split()


@pytest.mark.heavy
def test_prompts_of_ones_own(tmp_path, capsys):
    target, draft = write_pair(tmp_path)
    prompts, out = tmp_path / "own.jsonl", tmp_path / "out.jsonl"
    rows = [{"prompt": "The cat"}, {"prompt_ids": [1, 9, 10]}]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = flags.FlagValues()
    benchmark.define_flags(values)
    args = [f"--target={target}", f"--draft={draft}", f"--prompts={prompts}", f"--output={out}"]
    small = ["--suite=frontier", "--depths=2", "--widths=2", "--repeats=2", "--max_new_tokens=4"]
    values(["benchmark", *args, *small, f"--plot={tmp_path / 'x.svg'}"])
    benchmark.benchmark(values)
    said = capsys.readouterr().out
    assert f"2 prompts of {prompts}" in said and "against greedy" in said
    samples = [json.loads(line) for line in out.read_text().splitlines()]
    about = json.loads((tmp_path / "out.jsonl.settings.json").read_text())
    assert about["config"]["prompts"] == str(prompts) and set(about["compile_seconds"]) == {
        s["rule"] for s in samples
    }
    assert {s["kind"] for s in samples} == {"own"}
    assert {s["prompt"] for s in samples} == {0, 1} and (tmp_path / "x.svg").is_file()
    prompts.write_text('{"prompt": "The cat", "seed": 3}\n')
    values.overwrite = True
    with pytest.raises(ValueError, match="line 1: seed=3: every rule draws with the run's seed"):
        benchmark.benchmark(values)
    values.prompts = "nowhere.jsonl"
    with pytest.raises(OSError, match="nowhere.jsonl"):
        benchmark.benchmark(values)
