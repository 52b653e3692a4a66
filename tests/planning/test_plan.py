"""Plans: what is counted by hand, what the compilers say, what is refused."""

import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from jax.sharding import NamedSharding, PartitionSpec

from configs import models
from experiments import plan as program
from experiments.flags.acceptance import read_acceptance, rules_of
from mtad_jax import recipes
from mtad_jax.calibration.candidates import Candidate
from mtad_jax.checkpoints.hf.families import model_of
from mtad_jax.devices.sharding import make_mesh
from mtad_jax.planning import chips, topology
from mtad_jax.planning import plan as plans
from mtad_jax.planning.collectives import Collective, counts, layer_counts, read_collectives
from mtad_jax.planning.costs import HOP_SECONDS, link_seconds, round_of, speed, tokens_of_rate
from mtad_jax.planning.fit import judge, largest, usable
from mtad_jax.planning.job import choose_mesh, make_job
from mtad_jax.planning.memory import analytic, padded_bytes
from mtad_jax.planning.program import compile_decode

ROOT = Path(__file__).resolve().parents[2]
V5P = chips.CHIPS["v5p"]
PARAMETERS = {
    "qwen3-32b": 32_762_123_264,
    "qwen2.5-7b": 7_615_616_512,
    "gemma3-27b": 27_009_346_304,
}
TINY = models.read("llama2-7b") | {
    "vocab_size": 256,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 128,
}
needs_tpu_compiler = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="the tpu extra is not installed"
)


def job_of(target, draft=None, **settings):
    """A job on the one processor."""
    asked = {"strategy": recipes.sample(), "batch": 1, "slots": 2048, "mesh": {}} | settings
    return make_job(target, draft, devices=jax.devices()[:1], **asked)


def values_of(*args):
    values = flags.FlagValues()
    program.define_flags(values)
    values(["plan", *args])
    return values


@pytest.fixture(autouse=True, scope="module")
def eight_devices():
    """Open the simulated devices before a plan asks for fewer."""
    assert len(jax.devices()) == 8


@pytest.fixture(scope="module")
def large():
    """Llama-2-70B with its draft, speculative, on one endless chip."""
    target, draft = (model_of(models.read(name)) for name in ("llama2-70b", "llama-68m"))
    return job_of(target, draft, strategy=recipes.speculative(4))


@pytest.mark.slow
def test_costs_of_a_large_model_by_hand(large):
    cost = round_of(large, large.strategy)
    assert cost.calls.target == (5,) and cost.calls.draft == (2, 1, 1, 1)
    parameters, table = 68_976_648_192, 32_000 * 8192
    cache = 80 * 2 * 8 * 2048 * 128 * 2
    target = cost.target[0]
    assert target.weights == 2 * (parameters - table + 5 * 8192)  # of the table 5 rows
    assert target.cache == cache == 671_088_640
    norms = 161 * 8192
    attention = 5 * 80 * 64 * 2048 * 128 * 4
    assert target.flops == 2 * 5 * (parameters - table - norms) + attention
    assert target.bytes == pytest.approx(2 * parameters + cache, rel=0.05)
    draft = cost.draft[1]
    assert draft.weights == 2 * (68_030_208 - 32_000 * 768 + 768)
    assert draft.cache == 2 * 2 * 12 * 2048 * 64 * 2
    # Reading is what takes the time: of the target 138 GB at 2765 GB/s.
    assert cost.floor(V5P) == pytest.approx(sum(c.bytes for c in (target, *cost.draft)) / 2765e9)
    plain = round_of(large, recipes.sample())
    assert plain.calls.target == (1,) and plain.draft == ()
    assert target.bytes / plain.target[0].bytes < 1.01


@pytest.mark.slow
def test_memory_of_a_large_model_by_hand(large):
    memory = analytic(large, tpu=False)
    assert memory.parts["target weights"] == 2 * 68_976_648_192
    assert memory.parts["draft weights"] == 2 * 68_030_208
    caches = 671_088_640 + 2 * 2 * 12 * 2048 * 64 * 2
    kept = ("target cache", "draft cache", "scratch slots")
    assert sum(memory.parts[name] for name in kept) == caches
    assert memory.parts["scratch slots"] == pytest.approx(caches * 5 / 2048, abs=2)


@pytest.mark.slow
def test_what_does_not_fit_says_by_how_much_and_what_would(large):
    fit = judge(large, V5P, analytic(large, tpu=False), None, tpu=False)
    assert not fit.fits and fit.batch is None and fit.context is None
    assert fit.verdict.startswith("does not fit: ") and fit.verdict.endswith(" GiB too much")
    assert fit.needed - fit.usable == pytest.approx(139e9 - 0.98 * 95.74 * 2**30, rel=0.01)
    text = "; ".join(fit.cures)
    assert "int8 weights of the target save 64.2" in text and "GiB a chip: that fits" in text
    assert "at least 2 such chips with the target split over all of them" in text


@pytest.mark.slow
def test_what_fits_says_how_much_more_would():
    target, draft = model_of(models.read("llama-68m")), model_of(TINY | {"vocab_size": 32000})
    job = job_of(target, draft, strategy=recipes.mtad(2, 2), slots=128, prompt=16)
    chip = dataclasses.replace(V5P, memory=1e9)
    memory = analytic(job, tpu=False)
    fit = judge(job, chip, memory, None, tpu=False)
    assert fit.fits and fit.positions == 128 and fit.context == 128 and fit.cures == ()
    for change in ({"batch": fit.batch}, {"slots": fit.memory_context}):
        most = dataclasses.replace(job, **change)
        assert analytic(most, tpu=False).total <= fit.usable
    more = dataclasses.replace(job, batch=fit.batch + 1)
    assert analytic(more, tpu=False).total > fit.usable


@pytest.mark.slow
def test_modelled_speed(large):
    cost = round_of(large, large.strategy)
    given = {"tokens_per_call": 2.5, "links": 1e-3, "watts": 100.0, "efficiency": 0.5}
    found = speed(large, V5P, "x", cost, **given)
    assert found.round_seconds == pytest.approx(2 * cost.floor(V5P) + 1e-3)
    assert found.tokens_per_second == pytest.approx(2.5 / found.round_seconds)
    assert found.joules_per_token == pytest.approx(100 / found.tokens_per_second)
    unknown = speed(large, V5P, "x", cost, **given | {"tokens_per_call": None})
    assert unknown.tokens_per_second is None and unknown.joules_per_token is None
    nothing = speed(large, chips.host(1e9), "x", cost, **given)
    assert nothing.round_seconds is None and nothing.tokens_per_second is None


def test_gpus_have_the_memory_that_was_measured():
    for kind, name in (("NVIDIA A100-SXM4-40GB", "a100-40g"), ("NVIDIA H200", "h200")):
        assert chips.gpu(kind, 39e9) == dataclasses.replace(chips.CHIPS[name], memory=39e9)
    assert chips.gpu("NVIDIA H100 80GB HBM3", 0) == chips.CHIPS["h100"]
    for kind in ("NVIDIA GH200 480GB", "NVIDIA A100-SXM4-80GB MIG 1g.10gb", "NVIDIA H100 PCIe"):
        found = chips.gpu(kind, 9e9)
        assert (found.name, found.memory, found.bandwidth) == (kind, 9e9, None)


def test_collectives_go_around_a_ring():
    target = model_of(TINY)
    job = make_job(
        target, None, strategy=recipes.sample(), mesh={"model": 2}, devices=jax.devices()[:2],
        batch=1, slots=64,
    )  # fmt: skip
    reduce, gather = (Collective(kind, 600, "") for kind in ("all-reduce", "all-gather"))
    chip = dataclasses.replace(V5P, link=1e3)
    assert link_seconds(job, chip, (reduce,)) == pytest.approx(0.6 + HOP_SECONDS)
    assert link_seconds(job, chip, (reduce, gather)) == pytest.approx(0.9 + 2 * HOP_SECONDS)
    assert link_seconds(job, dataclasses.replace(chip, link=None), (reduce,)) is None


def test_tokens_of_a_rate():
    assert tokens_of_rate(0.5, 3) == 1 + 0.5 + 0.25 + 0.125
    assert tokens_of_rate(1.0, 4) == 5 and tokens_of_rate(0.0, 4) == 1
    with pytest.raises(ValueError, match=r"acceptance_rate=1.2 must be in \[0, 1\]"):
        tokens_of_rate(1.2, 3)


@pytest.mark.parametrize(
    ("shape", "dtype", "size"),
    [
        ((3, 200), jnp.float32, 4 * 256 * 4),  # rows to 4, columns to 256
        ((1, 4, 2048, 64), jnp.bfloat16, 4 * 2048 * 64 * 2),  # lies as [64, 2048]: no padding
        ((1, 4, 2048, 128), jnp.int8, 4 * 2048 * 128),
        ((130,), jnp.float32, 256 * 4),
        ((), jnp.int32, 128 * 4),
    ],
)
def test_tiles(shape, dtype, size):
    where = NamedSharding(make_mesh({}, jax.devices()[:1]), PartitionSpec())
    assert padded_bytes(jax.ShapeDtypeStruct(shape, dtype, sharding=where)) == size


@pytest.mark.parametrize("most", [-1, 0, 1, 5, 99])
def test_largest(most):
    assert largest(range(0, 100), lambda n: n <= most) == (None if most < 0 else most)


@pytest.mark.parametrize(
    ("name", "batch", "devices", "mesh"),
    [
        ("llama2-70b", 1, 16, (1, 1, 16)),
        ("opt-66b", 1, 16, (1, 2, 8)),  # 72 heads
        ("opt-66b", 2, 16, (2, 1, 8)),
        ("llama2-13b", 4, 16, (2, 1, 8)),  # 40 heads
        ("llama3.2-3b", 1, 16, (1, 2, 8)),  # 24 heads of 8
    ],
)
def test_the_chosen_mesh(name, batch, devices, mesh):
    found, why = choose_mesh(model_of(models.read(name)), batch, devices)
    assert tuple(found.values()) == mesh and f"model:{mesh[2]} is the most" in why


def test_a_mesh_that_would_be_refused_is_not_chosen():
    target = model_of(models.read("llama2-70b"))
    with pytest.raises(ValueError, match="no mesh of 12 chips .* use one of 1,2,4,8,16 chips"):
        choose_mesh(target, 1, 12)
    assert choose_mesh(target, 3, 12)[0] == {"data": 3, "fsdp": 1, "model": 4}
    narrow = model_of(models.read("opt-350m") | {"word_embed_proj_dim": 4})  # 16 heads
    assert choose_mesh(narrow, 1, 64)[0] == {"data": 1, "fsdp": 4, "model": 16}
    with pytest.raises(ValueError, match="no mesh of 128 chips"):
        choose_mesh(narrow, 1, 128)


HLO = """HloModule jit_run
%add.1 (x: f32[], y: f32[]) -> f32[] {
  ROOT %s = f32[] add(%x, %y)
}
%fused (p: f32[2,8]) -> f32[2,8] {
  ROOT %r = f32[2,8]{1,0} all-reduce(%p), to_apply=%add.1, metadata={op_name="a/layer_0/o/dot"}
}
%fill (c: (f32[4])) -> (f32[4]) {
  %g = (bf16[2,4]{1,0}, bf16[4,4]{1,0:T(8,128)(2,1)}) all-gather-start(%x), metadata={op_name="e"}
}
%step.2 (c: (f32[4])) -> (f32[4]) {
  %a = f32[2,8]{1,0} fusion(%p), kind=kLoop, calls=%fused
  %b = (f32[8]{0}, s32[]) all-reduce-start(%p, %q), to_apply=%add.1
}
ENTRY %main (p: f32[4]) -> f32[4] {
  %one = (f32[4]) while(%t), condition=%cond, body=%fill
  ROOT %two = (f32[4]) while(%one), condition=%cond, body=%step.2
}
"""


def test_collectives_are_read_loop_by_loop():
    found = read_collectives(HLO)
    assert counts(found.prefill) == {"all-gather": 1} and found.prefill[0].bytes == 32
    assert [c.bytes for c in found.round] == [64, 36] and counts(found.round) == {"all-reduce": 2}
    assert layer_counts(found.round) == ({"all-reduce": 1}, {"all-reduce": 1})
    with pytest.raises(ValueError, match="no loop"):
        read_collectives("ENTRY %main (p: f32[4]) -> f32[4] {\n  ROOT %p = f32[4] parameter(0)\n}")


def write_trace(path, depth=2, rounds=10, tokens=25):
    rule = {"strategy": "mtad", "depth": depth, "width": 2, "tau": 0.5, "draw": "search"}
    row = {"rule": rule, "tokens": [1] * tokens, "stats": {"rounds": rounds}}
    path.write_text(json.dumps(row) + "\n" + json.dumps(row) + "\n")
    return path


def test_acceptance_of_traces_and_rates(tmp_path):
    one, two = write_trace(tmp_path / "a.jsonl"), write_trace(tmp_path / "b.jsonl", 3, 5, 20)
    known = read_acceptance(
        values_of(f"--trace={one},{two}", "--acceptance_rate=0.5,speculative:0.8")
    )
    chosen = Candidate.of("mmtad", depth=2, width=2)
    found = {rule.label: known.tokens(rule) for rule in rules_of(chosen, known)}
    assert found == {
        "sample": 1.0,
        "speculative depth=2": pytest.approx(1 + 0.8 + 0.64),
        "mtad depth=2 width=2": 2.5,
        "mmtad depth=2 width=2": 1.75,
        "mtad depth=3 width=2 tau=0.5 draw=search": 4.0,
    }
    nothing = read_acceptance(values_of())
    assert nothing.tokens(chosen) is None and nothing.tokens(Candidate.of("sample")) == 1


BAD = [
    ((), "--target is missing: give a preset"),
    (("--target=llama2-70b",), "give one of --topology"),
    (("--target=llama2-7b", "--topology=v5p:2x2x1"), "--draft is missing: --strategy=mmtad drafts"),
    (("--target=x", "--strategy=sample", "--backend=cpu"), "no preset 'x'"),
    (("--target=opt-125m", "--strategy=sample", "--topology=v9:2x2"), "topology='v9:2x2' is unkn"),
    (("--target=opt-125m", "--strategy=sample", "--backend=tpu"), "backend='tpu' must be cpu or"),
    (("--target=opt-125m", "--strategy=sample", "--backend=gpu"), "finds no GPU here"),
    (
        ("--target=opt-125m", "--strategy=sample", "--backend=cpu", "--context=4096"),
        "positions=2048 of the target < 4095",
    ),
    (
        ("--target=opt-125m", "--strategy=sample", "--backend=cpu", "--prompt=3000"),
        "context=2048 has no room for a prompt of 3000",
    ),
    (
        ("--target=opt-125m", "--strategy=sample", "--backend=cpu", "--mesh=model:1,rows:2"),
        "mesh axis 'rows' is unknown",
    ),
    (
        ("--target=opt-125m", "--draft=llama-68m", "--backend=cpu"),
        "draft vocabulary 32000 != target vocabulary 50272",
    ),
    (
        ("--target=mistral-7b-v0.3", "--draft=llama-68m", "--backend=cpu"),
        "draft vocabulary 32000 != target vocabulary 32768",
    ),
    (
        ("--target=opt-125m", "--strategy=sample", "--backend=cpu", "--acceptance_rate=much"),
        "--acceptance_rate=much must be a number",
    ),
    (
        ("--target=opt-125m", "--strategy=sample", "--backend=cpu", "--efficiency=2"),
        "--efficiency=2.0 must be <= 1",
    ),
    (
        ("--target=opt-125m", "--strategy=sample", "--backend=cpu", "--target_int8=weight"),
        "int8='weight' is unknown",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "draft", "vocab"),
    [
        ("qwen3-32b", "qwen3-0.6b", 151_936),
        ("qwen2.5-7b", "qwen2.5-0.5b", 151_936),  # padded to 152,064 and 151,936 rows
        ("gemma3-27b", "gemma3-270m", 262_144),  # to 262,208 and 262,144
    ],
)
def test_pairs_of_one_vocabulary_padded_differently(target, draft, vocab):
    models_of = (model_of(models.read(name)) for name in (target, draft))
    job = job_of(*models_of, strategy=recipes.mmtad(2, 2))
    assert [lm.vocab_size for lm in job.models.values()] == [vocab, vocab]
    parts = analytic(job, tpu=False).parts
    assert parts["target weights"] == 2 * PARAMETERS[target]  # all rows, padding too


@pytest.mark.slow
@pytest.mark.parametrize(("args", "message"), BAD, ids=range(len(BAD)))
def test_bad_input(args, message, monkeypatch):
    monkeypatch.setattr(plans, "compile_decode", lambda job: pytest.fail("compiled"))
    with pytest.raises(ValueError) as caught:
        program.plan(values_of(*args))
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["threshold", "typical"])
def test_rules_beside_one_whose_width_is_its_default_have_their_own(name):
    chosen = program._candidate(values_of(f"--strategy={name}", "--depth=3"))
    rules = rules_of(chosen, read_acceptance(values_of()))
    assert [rule.name for rule in rules] == ["sample", "speculative", "mtad", "mmtad", name]
    assert rules[2].strategy.depth == 3 and rules[2].strategy == recipes.mtad(
        depth=3, **({"tau": 0.5} if name == "threshold" else {})
    )


def test_texts_of_no_tokens_say_nothing_of_a_trace(tmp_path):
    path = write_trace(tmp_path / "rows.jsonl")
    empty = json.loads(path.read_text().splitlines()[0]) | {"tokens": []}
    with path.open("a") as file:
        file.write(json.dumps(empty) + "\n")
    [(rule, tokens)] = read_acceptance(values_of(f"--trace={path}")).traced
    assert (rule.name, tokens) == ("mtad", 2.5)
    path.write_text(json.dumps(empty) + "\n")
    with pytest.raises(ValueError, match="rows.jsonl: no rows with tokens"):
        read_acceptance(values_of(f"--trace={path}"))


@pytest.mark.parametrize("name", ["suffix", "recycle"])
def test_rules_that_hold_arrays_are_compared(tmp_path, name):
    setting, settings = {"suffix": "corpus", "recycle": "table"}[name], []
    for i in range(2):
        ids = np.full((16, 4), 1 + i)
        np.save(tmp_path / f"{i}.npy", ids.ravel() if name == "suffix" else ids)
        settings.append({"depth": 2, setting: str(tmp_path / f"{i}.npy")})
    path = tmp_path / "rows.jsonl"
    rows = [
        {"rule": {"strategy": name} | settings[i], "tokens": [1] * 6, "stats": {"rounds": 2 + i}}
        for i in (0, 1, 0)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    known = read_acceptance(values_of(f"--trace={path}"))
    chosen = [Candidate.of(name, **each) for each in settings]
    assert [known.tokens(rule) for rule in chosen] == [3.0, 2.0]
    assert [rule.label for rule in rules_of(chosen[1], known)] == [
        "sample", chosen[1].label, chosen[0].label
    ]  # fmt: skip


def test_a_trace_must_be_one(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"tokens": [1], "stats": {"rounds": 1}}\n')
    with pytest.raises(ValueError, match="rows.jsonl:1: no row of experiments.generate with"):
        read_acceptance(values_of(f"--trace={path}"))


@pytest.mark.slow
def test_on_simulated_devices(tmp_path):
    """The whole program, split over two devices: what the compiler counts is what we do."""
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    out = tmp_path / "plan.json"
    args = [f"--target={tmp_path}", f"--draft={tmp_path}", "--backend=cpu", "--mesh=model:2"]
    args += ["--depth=2", "--width=2", "--context=96", "--prompt=16", "--dtype=float32"]
    run = subprocess.run(
        [sys.executable, "-m", "experiments.plan", *args, f"--output={out}"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(out.read_text())
    assert "memory a chip" in run.stdout and "fits: " in run.stdout
    assert run.stderr == "compiling for cpu:2 (a large model: minutes) ...\n"
    kept = sum(found["memory"]["parts"].values())
    assert kept == pytest.approx(found["compiler"]["arguments"], rel=0.01)
    reduced = 2 * TINY["num_hidden_layers"] + 1  # and one for the token table
    assert found["collectives"]["round"] == {"all-reduce": reduced, "all-gather": 1}
    assert found["fits"] and found["mesh"] == {"data": 1, "fsdp": 1, "model": 2}


def test_what_the_compiler_refuses_does_not_fit():
    job = job_of(model_of(TINY), slots=64)
    chip = dataclasses.replace(V5P, memory=1e9)
    fit = judge(job, chip, analytic(job, tpu=False), None, tpu=False, refusal="out of memory")
    assert not fit.fits and fit.verdict.endswith("says the compiler: out of memory")
    weights, both, rest = fit.cures  # the count says not by how much
    assert weights.startswith("int8 weights of") and weights.endswith("that may fit")
    assert both.startswith("int8 weights and cache of") and both.endswith("that may fit")
    assert rest == "a shorter context, a smaller batch or more chips may fit"


def cures_of(data, share):
    """What is said on 2 * data chips with this share of the memory that is needed."""
    target = model_of(models.read("llama2-70b") | {"num_hidden_layers": 2})
    job = make_job(
        target, None, strategy=recipes.sample(), mesh={"data": data, "model": 2}, batch=data,
        devices=jax.devices()[: 2 * data], slots=2048,
    )  # fmt: skip
    memory = analytic(job, tpu=False)
    chip = dataclasses.replace(V5P, memory=share * memory.total)
    return judge(job, chip, memory, None, tpu=False).cures


@pytest.mark.slow
def test_rows_that_are_split_do_not_split_weights():
    first, *_, last = cures_of(1, 0.8)
    assert first.startswith("int8 weights of") and first.endswith("that fits")
    assert last == "at least 3 such chips with the target split over all of them"
    assert cures_of(2, 0.8)[0] == first
    last = cures_of(2, 0.8)[-1]
    assert last == "at least 6 such chips with the target split over 3 of them, and data:2"


def test_int8_that_is_not_enough():
    weights, both = cures_of(1, 0.4)[:2]
    assert weights.startswith("int8 weights of") and weights.endswith("that is not enough")
    assert both.startswith("int8 weights and cache of") and both.endswith("that is not enough")


@needs_tpu_compiler
@pytest.mark.heavy
def test_a_large_model_fits_as_int8_where_it_does_not_in_bfloat16():
    machine = topology.tpu("v5e:2x4")
    target, draft = (model_of(models.read(name)) for name in ("llama2-70b", "llama-68m"))
    needed = []
    for int8 in ("", "weights"):
        job = make_job(
            target.quantized(int8), draft, strategy=recipes.mmtad(4, 4), mesh={"model": 8},
            devices=machine.devices, batch=1, slots=2048,
        )  # fmt: skip
        needed.append(analytic(job, tpu=True).total)
    assert needed[1] < usable(machine.chip) < needed[0]
    assert needed[1] < 0.55 * needed[0]


@needs_tpu_compiler
def test_an_unknown_slice():
    with pytest.raises(ValueError, match="topology=v5e:9x9: there is no such slice"):
        topology.tpu("v5e:9x9")


@needs_tpu_compiler
@pytest.mark.parametrize(
    ("name", "layers", "int8"),
    [("llama2-7b", 1, ""), pytest.param("llama-68m", 2, "weights,kv", marks=pytest.mark.heavy)],
)
@pytest.mark.slow
def test_for_tpus_that_are_not_here(name, layers, int8):
    machine = topology.tpu("v5p:2x2x1")
    target = model_of(models.read(name) | {"num_hidden_layers": layers}).quantized(int8)
    mesh, _ = choose_mesh(target, 1, len(machine.devices))
    job = make_job(
        target, None, strategy=recipes.greedy(), mesh=mesh, devices=machine.devices, batch=1,
        slots=512, prompt=32,
    )  # fmt: skip
    memory, compiled = analytic(job, tpu=True), compile_decode(job)
    assert memory.kept == pytest.approx(compiled.arguments, rel=0.01)
    if not int8:  # the other is so small that temporaries are a third of it
        assert memory.total == pytest.approx(compiled.arrays, rel=0.1)
        assert 0.5 < memory.temporaries / compiled.temporaries < 2
    inside, outside = layer_counts(read_collectives(compiled.text).round)
    assert inside == {"all-reduce": 2 * layers} and sum(outside.values()) <= 2
    assert judge(job, machine.chip, memory, compiled, tpu=True).fits


@needs_tpu_compiler
@pytest.mark.heavy
def test_a_model_that_cannot_fit_is_not_compiled(monkeypatch, capsys):
    monkeypatch.setattr(plans, "compile_decode", lambda job: pytest.fail("compiled"))
    args = ("--target=llama2-13b", "--strategy=sample", "--topology=v5e:1x1")
    with pytest.raises(ValueError) as caught:
        program.plan(values_of(*args))
    assert str(caught.value).startswith("v5e:1x1: does not fit: 2")
    assert "at least 2 such chips" in str(caught.value)
    assert "what would help: int8 weights of the target save" in capsys.readouterr().out


def test_shapes_alone_are_needed(large):
    for leaf in jax.tree.leaves((large.target.params, large.draft.params)):
        assert isinstance(leaf, jax.ShapeDtypeStruct) and not isinstance(leaf, np.ndarray)
