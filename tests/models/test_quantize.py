"""int8 weights and caches: how far they round, and that they compute what they say."""

import re

import generate_flags
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import qwix
import sharded
from absl import flags
from hf_folders import GEMMA3, LLAMA, LLAMA_TIED, OPT_350M, QWEN2, random_tensors, write_folder

import mtad_jax
from experiments import generate as generate_program
from experiments import quantization
from experiments.flags.models import load_models
from mtad_jax import BoundLM, Pipeline, generate, recipes
from mtad_jax.checkpoints.save import save
from mtad_jax.decode.warp import Warp
from mtad_jax.devices.sharding import make_mesh
from mtad_jax.models.linen import LinenLM
from mtad_jax.models.quantize import is_quantized, parse_int8, quantize
from mtad_jax.testing import TableLM, check_causal_lm

IDS = np.random.default_rng(0).integers(3, 40, (2, 9))
CONFIGS = {
    "llama": LLAMA, "tied": LLAMA_TIED, "opt": OPT_350M, "qwen2": QWEN2, "gemma3": GEMMA3,
}  # fmt: skip


def dequantized(lm: BoundLM) -> BoundLM:
    """The same model with the rounded weights as f32 matrices."""
    params = jax.tree.map(
        lambda x: qwix.dequantize(x) if is_quantized(x) else x, lm.params, is_leaf=is_quantized
    )
    return BoundLM(params, LinenLM(lm.model.module), lm.vocab)


@jax.jit
def logits(lm: BoundLM, cache):
    """Logits of a call that reads the cache it has written, and that cache."""
    at = np.zeros(2, np.int32)
    positions = np.broadcast_to(np.arange(9, dtype=np.int32), (2, 9))
    return lm.model.apply(
        lm.params, IDS, positions=positions, write_at=at, prefix=at, window=None, cache=cache
    )


def run(lm: BoundLM):
    return logits(lm, lm.model.init_cache(2, 12, lm.dtype))


def rms(x) -> float:
    return float(jnp.sqrt(jnp.mean(jnp.square(x))))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("models")
    return {
        name: write_folder(base / name, config, random_tensors(config))
        for name, config in CONFIGS.items()
    }


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("channel", [0, 1])
def test_rounds_by_half_a_step_of_each_channel(channel, dtype):
    x = np.random.default_rng(1).normal(size=(40, 30)) * 10.0 ** np.arange(-15, 15)
    x = np.array(x if channel else x[:30].T, np.float32)
    x[(slice(None), 3) if channel else 3] = 0.0  # a channel of zeros has no step
    got = quantize(jnp.asarray(x), (channel,), dtype)
    assert got.qvalue.dtype == jnp.int8 and got.scale.dtype == dtype
    step = np.abs(x).max(axis=1 - channel, keepdims=True) / 127.5
    error = np.abs(np.float32(got.qvalue) * np.asarray(got.scale, np.float32) - x)
    most = 0.5 if dtype == jnp.float32 else 0.5 + 127.5 / 256  # half of the scale's last bit
    assert (error <= most * step * 1.001).all() and (error.max(axis=1 - channel) > 0).sum() == 29


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_computes_with_the_rounded_weights(name, folders):
    plain = mtad_jax.load(folders[name]).lm
    lm = mtad_jax.load(folders[name], int8="weights").lm
    assert lm.dtype == jnp.float32
    leaves = jax.tree_util.tree_leaves_with_path(lm.params, is_leaf=is_quantized)
    names = {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves}
    int8 = {name for name, x in names.items() if is_quantized(x)}
    assert int8 == {name for name in names if name.endswith("kernel")} | {"embed/table"}
    got, want = run(lm)[0], run(dequantized(lm))[0]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())
    # Loading rounds as rounding what was loaded does.
    jax.tree.map(np.testing.assert_array_equal, lm.params, plain.quantized("weights").params)
    # What rounding changes is small against what the logits tell apart.
    full = run(plain)[0]
    assert 0 < rms(got - full) < 0.1 * np.std(full)


def test_int8_cache_is_near_the_exact_one(folders):
    plain = mtad_jax.load(folders["llama"]).lm
    lm = plain.quantized(["kv"])
    (got, cache), (want, exact) = run(lm), run(plain)
    assert 0 < rms(got - want) < 0.05 * np.std(want)
    for layer, whole in zip(cache, exact, strict=True):
        assert layer.k.qvalue.dtype == jnp.int8 and layer.k.scale.shape == (*whole.k.shape[:3], 1)
    first, written = cache[0], (slice(None), slice(None), slice(0, 9))  # before any attention
    step = np.abs(exact[0].v).max(axis=3, keepdims=True)[written] / 127.5
    error = np.abs(qwix.dequantize(first.v) - exact[0].v)[written]
    assert (error <= 0.5001 * step).all()


@pytest.mark.slow
def test_keeps_the_promises_of_a_causal_lm():
    # Sums in another order may round a cached value to the next of 127 steps: logits of up to 26
    # then differ by more than by the sums themselves, whose tolerance is 1e-4.
    check_causal_lm(sharded.pair()[1].quantized("weights,kv"), atol=0.25)


@pytest.mark.parametrize("parts", [pytest.param("weights", marks=pytest.mark.heavy), "weights,kv"])
@pytest.mark.slow
def test_decodes_alike_on_one_device_and_on_eight(parts):
    mesh = "data:2,fsdp:2,model:2"
    target, draft = sharded.pair()

    def decode(target, draft):
        return generate(
            target.quantized(parts), IDS, [9, 4], strategy=recipes.mmtad(2, 2),
            draft=draft.quantized("weights"), max_new_tokens=10, seed=1,
            warp=Warp(temperature=1.0, top_k=10),
        )  # fmt: skip

    on = sharded.on_mesh(target, mesh), sharded.on_mesh(draft, mesh, replicated=True)
    got, want = decode(*on), decode(target, draft)
    if "kv" in parts:  # a cached value at the edge of two steps may be rounded to either
        same = np.logical_and.accumulate(got.tokens == want.tokens, axis=1)
        assert same[:, 0].all()
        ours, theirs = (np.asarray(r.trace.logp_raw)[same] for r in (got, want))
        np.testing.assert_allclose(ours, theirs, atol=0.25)
    else:
        np.testing.assert_array_equal(got.tokens, want.tokens)


@pytest.mark.slow
def test_speculation_by_an_int8_draft_gives_the_greedy_text_of_the_rounded_weights():
    target, draft = (lm.quantized("weights") for lm in sharded.pair())
    got = generate(
        target, IDS, [9, 9], strategy=recipes.speculative(2), draft=draft.quantized("kv"),
        max_new_tokens=8, warp=Warp(temperature=0.0),
    )  # fmt: skip
    texts = np.concatenate([IDS, got.tokens], axis=1)
    rounded = dequantized(target)
    want = jax.jit(rounded.model.train_logits)(rounded.params, texts).argmax(-1)
    np.testing.assert_array_equal(got.tokens, want[:, 8:-1])


@pytest.mark.slow
def test_shapes_axes_and_shardings_agree_with_the_parameters():
    lm = sharded.on_mesh(sharded.pair()[0], "model:8").quantized("weights")
    model, params = lm.model, lm.params
    shapes = model.param_shapes(jnp.bfloat16)
    assert jax.tree.structure(shapes) == jax.tree.structure(params)
    assert jax.tree.map(lambda s: s.shape, shapes) == jax.tree.map(lambda x: x.shape, params)
    assert {s.dtype.name for s in jax.tree.leaves(shapes)} == {"int8", "bfloat16"}
    for x, sharding in zip(
        jax.tree.leaves(params), jax.tree.leaves(model.param_shardings()), strict=True
    ):
        assert x.sharding.is_equivalent_to(sharding, x.ndim)
    layer = params["layer_0"]
    assert layer["down"]["kernel"].scale.sharding.is_fully_replicated
    assert not layer["up"]["kernel"].scale.sharding.is_fully_replicated
    assert params["embed"]["table"].scale.sharding.is_fully_replicated
    text = logits.lower(lm, model.init_cache(2, 12, lm.dtype)).compile().as_text()
    moved = re.findall(r" (all-[a-z-]+|collective-permute|reduce-scatter)(?:-start)?\(", text)
    assert sorted(moved) == ["all-gather"] + 5 * ["all-reduce"]  # as in full precision


def test_loads_onto_a_mesh_as_onto_a_device(folders):
    mesh = make_mesh("data:2,fsdp:2,model:2")
    pipe = Pipeline.load(
        folders["llama"], folders["llama"], mesh=mesh, target_int8="weights,kv", draft_int8="kv"
    )
    assert pipe.target.lm.model.int8 == {"weights", "kv"} and pipe.draft is not None
    assert pipe.draft.lm.model.int8 == {"kv"}
    want = mtad_jax.load(folders["llama"], int8="weights").lm.params
    jax.tree.map(np.testing.assert_array_equal, pipe.target.lm.params, want)
    kernel = pipe.target.lm.params["layer_0"]["up"]["kernel"]
    assert kernel.qvalue.addressable_shards[0].data.shape == (8, 12)
    assert kernel.scale.addressable_shards[0].data.shape == (1, 12)


@pytest.mark.slow
def test_the_runner_measures_a_form_against_full_precision():
    lm = sharded.pair()[1]
    texts = [[3, 9, 4, 22, 7, 5], [8, 3]]
    logp, _ = base = quantization._score(lm, texts)
    want = jax.nn.log_softmax(lm.model.train_logits(lm.params, np.array(texts[:1])))
    np.testing.assert_allclose(logp[:5], want[0, np.arange(5), texts[0][1:]], atol=1e-4)
    same = quantization.change(lm, texts, base)
    assert (same.mean, same.worst, same.same) == (0, 0, 1) and len(logp) == 6
    found = quantization.change(lm.quantized("weights,kv"), texts, base)
    assert 0 < found.mean < found.worst < 1
    # One layer of 8 heads of 8: keys and values of 64 bytes and 8 scales, against 64 floats.
    assert (found.slot_bytes, same.slot_bytes) == (2 * (64 + 8 * 4), 2 * 64 * 4)
    assert found.weight_bytes < 0.4 * same.weight_bytes


def flags_of(program, *args):
    values = flags.FlagValues()
    program.define_flags(values)
    values(["program", *args])
    return values


def test_bad_input_is_one_line(folders, tmp_path):
    lm = sharded.pair()[1].quantized("kv")
    with pytest.raises(ValueError, match="^int8='float8' is unknown: use weights, kv or both$"):
        parse_int8("kv, float8")
    with pytest.raises(ValueError, match="^int8=kv: the model's kv are int8 already: leave it out"):
        lm.quantized("weights,kv")
    with pytest.raises(ValueError, match="only models of this package can be int8, not Tab"):
        BoundLM({}, TableLM(4, 4)).quantized("kv")
    with pytest.raises(ValueError, match="int8='w8' is unknown"):
        mtad_jax.load(folders["llama"], int8="w8")
    with pytest.raises(ValueError, match="draft_int8='kv' needs a draft: give one or leave it out"):
        Pipeline.load(folders["llama"], draft_int8="kv")
    with pytest.raises(ValueError, match="^--draft_int8 means nothing to --strategy=sample"):
        generate_flags.run("--prompt_ids=1", "--strategy=sample", "--draft_int8=kv")
    with pytest.raises(ValueError, match="^--draft_int8 needs a draft: give --draft=DIR"):
        load_models(flags_of(generate_program, f"--target={folders['llama']}", "--draft_int8=kv"))
    for flag, message in {
        "--target_int8=kv": "tries each: leave it out",
        "--texts=1": ">= 2",
    }.items():
        with pytest.raises(ValueError, match=message):
            quantization.quantization(flags_of(quantization, flag))
    short = tmp_path / "short"
    config = LLAMA | {"max_position_embeddings": 32}
    write_folder(short, config, random_tensors(config))
    one, two = (f"--target={folders['llama']}", f"--draft={short}")
    for args, message in (
        (["--tokens=1025"], "^--tokens=1025 > positions=1024 of the target: lower it$"),
        ([one, "--tokens=65"], "^--tokens=65 > positions=64 of the target: lower it$"),
        ([one, two, "--tokens=33"], "^--tokens=33 > positions=32 of the draft: lower it$"),
        ([one, two, "--tokens=32"], "the texts are text"),  # these folders have no tokenizer
    ):
        with pytest.raises(ValueError, match=message):
            quantization.quantization(flags_of(quantization, *args))
    loaded = mtad_jax.load(folders["llama"], int8="weights")
    with pytest.raises(ValueError, match="int8 are no floats: save before quantizing"):
        save(loaded, tmp_path / "out")


def test_float16_is_refused():
    model = sharded.pair()[0].model
    lm = BoundLM(model.init(jax.random.key(0), jnp.float16), model)
    with pytest.raises(ValueError, match="int8=weights with dtype=float16: products of int8"):
        lm.quantized("weights")


def test_loading_in_float16_is_refused(folders):
    with pytest.raises(ValueError, match="int8=kv with dtype=float16: .*give dtype=bfloat16"):
        mtad_jax.load(folders["llama"], dtype=jnp.float16, int8="kv")
