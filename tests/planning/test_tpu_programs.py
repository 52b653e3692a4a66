"""The real decode, compiled for TPUs that are not here: it fits, and nothing moves in vain."""

import importlib.util
import math
import re

import jax
import pytest

from configs import models
from mtad_jax import recipes
from mtad_jax.checkpoints.hf.families import model_of
from mtad_jax.devices.sharding import parse_mesh
from mtad_jax.planning import chips, topology
from mtad_jax.planning.collectives import layer_counts, read_collectives
from mtad_jax.planning.fit import judge
from mtad_jax.planning.job import Job, choose_mesh, make_job, state_of
from mtad_jax.planning.memory import analytic
from mtad_jax.planning.program import compile_call, compile_decode

_INSTALLED = importlib.util.find_spec("libtpu") is not None
pytestmark = [
    pytest.mark.skipif(not _INSTALLED, reason="the tpu extra is not installed"),
    pytest.mark.slow,
    pytest.mark.usefixtures("optimized"),
]
_MOVES = "copy|transpose|convert|all-gather|all-to-all|collective-permute|concatenate|gather"


def mmtad_job(
    target: str, draft: str, machine, *, int8="", layers=None, vocab=None, mesh=None, **sizes
) -> Job:
    """MMTAD with K = W = 4, as the planner's command asks for it; less of the target if told so."""
    config = models.read(target)
    config["num_hidden_layers"] = layers or config["num_hidden_layers"]
    model = model_of(config | (vocab or {})).quantized(int8)
    if mesh is None:
        mesh, _ = choose_mesh(model, sizes["batch"], len(machine.devices))
    return make_job(
        model,
        model_of(models.read(draft) | (vocab or {})),
        strategy=recipes.mmtad(4, 4),
        mesh=mesh,
        devices=machine.devices,
        **sizes,
    )


def on_a_chip(tree) -> int:
    """Bytes of all arrays' parts on one chip."""
    parts = ((x.sharding.shard_shape(x.shape), x.dtype.itemsize) for x in jax.tree.leaves(tree))
    return sum(math.prod(shape) * size for shape, size in parts)


def large_shapes(tree) -> set[tuple[int, ...]]:
    """Shapes on one chip of the larger arrays, and of what `fsdp` would gather; see `_sides`."""
    found = set()
    for x in jax.tree.leaves(tree):
        shape = x.sharding.shard_shape(x.shape)
        whole = x.sharding.mesh.shape["fsdp"] if hasattr(x.sharding, "mesh") else 1
        if math.prod(shape) * x.dtype.itemsize < 1 << 18:
            continue
        found.add(_sides(shape))
        for axis, part in enumerate(x.sharding.spec if whole > 1 else ()):
            if part and "fsdp" in part:
                found.add(_sides([n * (whole if i == axis else 1) for i, n in enumerate(shape)]))
    return found


def copies(text: str, weights, caches) -> list[str]:
    """Instructions that make an array of the size of a weight or a cache out of another.

    Not those within a fusion, which go through registers, nor prefetches to the chip's fast memory
    (space S(1)). A fusion that makes a cache writes rows into it.
    """

    of_weights, of_all = large_shapes(weights), large_shapes((weights, caches))
    fused = set(re.findall(r" fusion\(.*calls=%([\w.\-]+)", text))
    found, inside = [], False
    for line in text.splitlines():
        header = re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line)
        inside = header[1] in fused if header else inside
        made = re.search(rf" = (.*?) ({_MOVES}|fusion)(?:-start)?\(", line)
        if inside or not made or "S(1)" in made[1]:
            continue
        large = of_weights if made[2] == "fusion" else of_all
        shapes = re.findall(r"\w+\[([0-9,]+)\]", made[1])
        if any(_sides(map(int, shape.split(","))) in large for shape in shapes):
            found.append(line.strip()[:160])
    return found


def _sides(shape) -> tuple[int, ...]:
    """Return a shape but for the order of its sides, and sides of length 1."""
    return tuple(sorted(n for n in shape if n > 1))


@pytest.mark.parametrize("text", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_a_tpu_is_known_by_what_it_calls_itself(text):
    machine = topology.tpu(text)
    assert chips.tpu_of(machine.devices[0].device_kind) == machine.chip


def test_copies_are_seen():
    made = " = bf16[1,2,2048,128]{3,2,1,0:T(8,128)} "
    text = "\n".join(
        [
            "%inner (p: bf16[4]) -> bf16[4] {",
            f"  ROOT %a{made}copy(%p)",
            "}",
            "ENTRY %main (p: bf16[4]) -> bf16[4] {",
            f"  %fusion{made}fusion(%p), kind=kLoop, calls=%inner",
            f"  %b{made}copy(%fusion)",
            f"  %c{made.replace('}', 'S(1)}')}copy(%b)",
            "  %d = bf16[2048,2,128]{2,1,0} transpose(%c)",
            "  %e = (bf16[9]{0}, bf16[1,2,2048,128]{3,2,1,0}) all-gather-start(%d)",
            "}",
        ]
    )
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    cache = jax.ShapeDtypeStruct((1, 2, 2048, 128), "bfloat16", sharding=here)
    assert [line.split()[0] for line in copies(text, (), cache)] == ["%b", "%d", "%e"]
    assert [line.split()[0] for line in copies(text, cache, ())] == ["%fusion", "%b", "%d", "%e"]


def weights_and_caches(job: Job):
    """All parameters, and all caches."""
    state = state_of(job)
    weights = [lm.params for lm in job.models.values()]
    return weights, (state.target_cache, state.draft_cache)


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("target", "draft", "slice_", "int8", "layers"),
    [
        ("llama2-70b", "llama-68m", "v5p:2x2x1", "", 80),
        # All layers of these take the compiler minutes: docs/plan.md has them.
        ("opt-66b", "opt-125m", "v5p:2x2x1", "", 4),
        ("llama2-70b", "llama-68m", "v5e:4x4", "weights,kv", 4),
        ("opt-66b", "opt-125m", "v5e:4x4", "weights,kv", 2),
    ],
)
def test_large_models_fit(target, draft, slice_, int8, layers):
    """They fit, no cache or weight is there twice, and the planner counts right."""
    machine = topology.tpu(slice_)
    # 448: no activation of prefill has the sides of a weight.
    sizes = {"int8": int8, "batch": 1, "slots": 2048, "prompt": 448}
    job = mmtad_job(target, draft, machine, layers=layers, **sizes)
    program, memory = compile_decode(job), analytic(job, tpu=True)
    weights, caches = weights_and_caches(job)
    assert not copies(program.text, weights, caches)
    assert program.alias >= on_a_chip(caches), "the state is donated"
    assert memory.kept == pytest.approx(program.arguments, rel=0.1)
    if layers == 80:
        assert judge(job, machine.chip, memory, program, tpu=True).fits
        assert memory.total == pytest.approx(program.arrays, rel=0.1)
        assert program.temporaries < 0.01 * on_a_chip((weights, caches))
    else:
        whole = mmtad_job(target, draft, machine, **sizes)
        assert judge(whole, machine.chip, analytic(whole, tpu=True), None, tpu=True).fits
    inside, outside = layer_counts(read_collectives(program.text).round)
    if job.mesh.shape["fsdp"] == 1:
        assert inside == {"all-reduce": 2 * layers}
        assert sum(outside.values()) <= 2
    else:  # what 72 heads leave of 16 chips; see docs/sharding.md
        assert sum(inside.values()) <= 10 * layers


def temporaries_and_caches(slice_: str, mesh: str, batch: int, slots: int) -> tuple[int, int]:
    """Bytes of temporaries and of caches, of which there is no copy."""
    machine = topology.tpu(slice_)
    job = mmtad_job(
        "llama2-70b", "llama-68m", machine, layers=2, vocab={"vocab_size": 2048},
        mesh=parse_mesh(mesh), batch=batch, slots=slots, prompt=40,
    )  # fmt: skip
    program, (weights, caches) = compile_decode(job), weights_and_caches(job)
    assert not copies(program.text, weights, caches)
    return program.temporaries, on_a_chip(caches)


@pytest.mark.heavy
def test_caches_of_many_rows_stay_where_they_are():
    temporaries, caches = temporaries_and_caches("v5p:2x2x1", "model:4", 16, 1024)
    more_temporaries, more_caches = temporaries_and_caches("v5p:2x2x1", "model:4", 16, 2048)
    # What grows with the slots beside the caches are the scores and masks of one layer.
    assert more_temporaries - temporaries < 0.5 * (more_caches - caches)


@pytest.mark.heavy
def test_caches_of_few_rows_stay_where_they_are():
    temporaries_and_caches("v5e:4x4", "data:2,model:8", 4, 2048)


@pytest.fixture
def cache(tmp_path):
    """An empty compilation cache."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", before)


def test_a_verify_costs_little_more_than_a_token(cache):
    machine = topology.tpu("v5p:2x2x1")
    job = mmtad_job("llama2-70b", "llama-68m", machine, layers=4, batch=1, slots=2048)
    one, five = (compile_call(job, tokens).estimate for tokens in (1, 5))
    assert one and five and five <= 1.1 * one
    assert not list(cache.glob("jit_call-*")), "a program that no later process can load"
