"""Checkpoints go straight onto the shards of a mesh, and back to one folder."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hf_folders import GEMMA3, LLAMA, OPT, random_tensors, write_folder
from jax.sharding import NamedSharding, PartitionSpec

import mtad_jax
from checkpoints_convert import engine
from mtad_jax.checkpoints import arrays
from mtad_jax.checkpoints import load as checkpoint
from mtad_jax.checkpoints.hf import write as hf_writer
from mtad_jax.checkpoints.hf.families import model_of
from mtad_jax.checkpoints.hf.params import KeyLayout, to_tensors
from mtad_jax.checkpoints.lazy import LazyTensor, from_array
from mtad_jax.devices.sharding import make_mesh
from mtad_jax.pipeline import Pipeline

pytestmark = pytest.mark.slow

CONFIG = LLAMA | {
    "hidden_size": 32,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "attention_bias": True,
}
ODD = OPT | {"hidden_size": 32, "word_embed_proj_dim": 32, "num_attention_heads": 8}
ODD |= {"vocab_size": 41}  # that no mesh divides
GEMMA = GEMMA3 | {"hidden_size": 32, "num_attention_heads": 8, "num_key_value_heads": 2}
MESHES = {"model:8": 4, "fsdp:2,model:4": 2, "data:8": 1}  # how often a k/v head is repeated


def write(folder: Path, config=CONFIG, kind="safetensors") -> Path:
    """Write random weights as a folder of one kind."""
    hf = write_folder(folder / "hf", config, random_tensors(config), shard_bytes=9000)
    if kind == "own":
        engine.from_hf(hf, folder / "own")
        return folder / "own"
    if kind == "torch":
        torch = pytest.importorskip("torch")
        for file in hf.glob("model*"):
            file.unlink()
        state = {key: torch.from_numpy(x) for key, x in random_tensors(config).items()}
        torch.save(state, hf / "pytorch_model.bin")
    return hf


def flat(lm) -> dict[str, jax.Array]:
    return {jax.tree_util.keystr(k): x for k, x in jax.tree_util.tree_leaves_with_path(lm.params)}


@pytest.mark.parametrize("shape", MESHES)
@pytest.mark.parametrize("kind", ["safetensors", "torch", "own"])
@pytest.mark.parametrize("config", [CONFIG, GEMMA, ODD], ids=["llama", "gemma3", "opt"])
def test_values_and_shards(tmp_path, config, kind, shape):
    folder, mesh = write(tmp_path, config, kind), make_mesh(shape)
    stored, loaded = flat(mtad_jax.load(folder).lm), mtad_jax.load(folder, mesh=mesh).lm
    model, repeat = model_of(config).on(mesh), 1 if config is ODD else MESHES[shape]
    assert loaded.model == model and model.kv_repeat == repeat
    shardings = jax.tree.leaves(model.param_shardings())
    head = model.config.head_dim
    for (name, leaf), sharding in zip(flat(loaded).items(), shardings, strict=True):
        wanted = np.asarray(stored[name])
        if "'k'" in name or "'v'" in name:
            wanted = wanted.reshape(*wanted.shape[:-1], -1, head).repeat(repeat, axis=-2)
            wanted = wanted.reshape(*wanted.shape[:-2], -1)
        np.testing.assert_array_equal(np.asarray(leaf), wanted, err_msg=name)
        assert leaf.sharding == sharding
        assert {s.data.shape for s in leaf.addressable_shards} == {
            sharding.shard_shape(wanted.shape)
        }
    q = loaded.params["layer_0"]["q"]["kernel"]
    assert q.addressable_shards[0].data.size * mesh.shape["model"] * mesh.shape["fsdp"] == q.size


def test_replicated(tmp_path):
    mesh = make_mesh("model:8")
    lm = mtad_jax.load(write(tmp_path), mesh=mesh, replicated=True).lm
    assert lm.model == model_of(CONFIG).on(mesh, replicated=True) and lm.mesh == mesh
    assert all(leaf.sharding.is_fully_replicated for leaf in flat(lm).values())


@pytest.mark.parametrize(
    ("spec", "parts", "size"),
    [
        (("fsdp", "model"), 4, 6),
        ((None, "model"), 2, 12),
        ((("fsdp", "model"),), 4, 6),
        ((), 1, 24),
    ],
)
def test_a_part_is_read_once_and_nothing_else(spec, parts, size):
    array = np.arange(24, dtype=np.float32).reshape(4, 6)
    read = []

    def source(index):
        read.append(array[index].size)
        return array[index]

    sharding = NamedSharding(make_mesh("data:2,fsdp:2,model:2"), PartitionSpec(*spec))
    got = LazyTensor("x", array.shape, array.dtype, source).put(sharding)
    np.testing.assert_array_equal(np.asarray(got), array)
    assert read == [size] * parts


def test_parts_of_transformed_tensors():
    array = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)
    lazy = from_array(array).transposed().repeated(3, 2).astype(jnp.bfloat16).finite()
    wanted = array.T.reshape(5, 3, 2).repeat(3, axis=1).reshape(5, 18).astype(jnp.bfloat16)
    np.testing.assert_array_equal(lazy.read(), wanted)
    for start in range(18):
        for stop in range(start + 1, 19):
            part = slice(1, 4), slice(start, stop)
            np.testing.assert_array_equal(lazy.read(part), wanted[part])
    np.testing.assert_array_equal(lazy.thinned(3, 2).read(), array.T.astype(jnp.bfloat16))


@pytest.mark.parametrize("kind", ["safetensors", "own"])
def test_a_damaged_part_is_named_by_its_place_in_the_whole(tmp_path, kind):
    tensors = random_tensors(CONFIG)
    tensors["model.layers.1.mlp.down_proj.weight"][30, 20] = np.nan
    folder = write_folder(tmp_path / "hf", CONFIG, tensors)
    if kind == "own":
        folder = write(tmp_path / "sound", kind=kind)
        params = jax.tree.map(np.array, mtad_jax.load(folder).lm.params)
        params["layer_1"]["down"]["kernel"][20, 30] = np.nan
        arrays.save(tmp_path / "new", jax.tree.map(from_array, params))
        (folder / "params").rename(tmp_path / "old")
        (tmp_path / "new").rename(folder / "params")
    with pytest.raises(ValueError, match=r"value nan at \[20, 30\] in float32"):
        mtad_jax.load(folder, mesh=make_mesh("fsdp:2,model:4"))


@pytest.mark.parametrize("shape", MESHES)
def test_save_on_eight_restore_on_one_and_back(tmp_path, shape):
    hf = write_folder(tmp_path / "hf", CONFIG | {"dtype": "float32"}, random_tensors(CONFIG))
    (hf / "generation_config.json").write_text('{"eos_token_id": [5, 6]}')
    on_eight = mtad_jax.load(hf, mesh=make_mesh(shape))
    mtad_jax.save(on_eight, tmp_path / "eight")
    on_one = mtad_jax.load(tmp_path / "eight")
    mtad_jax.save(on_one, tmp_path / "one")
    again = mtad_jax.load(tmp_path / "one", mesh=make_mesh(shape))
    assert (again.config, again.eos_ids) == (on_eight.config, (5, 6))
    assert again.lm.model == on_eight.lm.model
    for a, b in zip(flat(again.lm).values(), flat(on_eight.lm).values(), strict=True):
        assert a.sharding == b.sharding and a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    for name in ("eight", "one"):
        engine.to_hf(tmp_path / name, tmp_path / f"{name}_hf")
        file = tmp_path / f"{name}_hf" / "model.safetensors"
        assert file.read_bytes() == (hf / "model.safetensors").read_bytes()


def test_what_is_not_saved(tmp_path):
    loaded = mtad_jax.load(write(tmp_path))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes").touch()
    with pytest.raises(ValueError, match="out: output exists"):
        mtad_jax.save(loaded, tmp_path / "out")
    with pytest.raises(ValueError, match="holds something else than a checkpoint"):
        mtad_jax.save(loaded, tmp_path / "out", overwrite=True)
    loaded.lm.params["layer_0"]["q"]["bias"] = jnp.full(32, jnp.inf)
    with pytest.raises(ValueError, match=r"value inf at \[0\]"):
        mtad_jax.save(loaded, tmp_path / "new")
    loaded.lm.params["layer_0"]["q"]["bias"] = jnp.zeros(32, jnp.int8)
    with pytest.raises(ValueError, match="dtype int8 are no floats"):
        mtad_jax.save(loaded, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_draft_is_whole_on_every_device_unless_asked(tmp_path):
    folder, mesh = write(tmp_path), make_mesh("data:2,model:4")
    pipe = Pipeline.load(folder, folder, mesh=mesh)
    assert pipe.draft is not None and pipe.draft.lm.mesh == pipe.target.lm.mesh == mesh
    whole = [x.sharding.is_fully_replicated for x in flat(pipe.draft.lm).values()]
    assert all(whole) and not pipe.target.lm.params["head"]["kernel"].sharding.is_fully_replicated
    pipe = Pipeline.load(folder, folder, mesh=mesh, shard_draft=True)
    assert pipe.draft is not None and pipe.draft.lm.model == pipe.target.lm.model
    with pytest.raises(ValueError, match="shard_draft=True needs a draft"):
        Pipeline.load(folder, mesh=mesh, shard_draft=True)
    with pytest.raises(ValueError, match="shard_draft=True needs a mesh"):
        Pipeline.load(folder, folder, shard_draft=True)


def test_a_wrong_mesh_is_refused_before_weights_are_read(tmp_path, monkeypatch):
    good, bad = write(tmp_path / "good"), write(tmp_path / "bad", CONFIG | {"intermediate_size": 6})
    monkeypatch.setattr(checkpoint, "load", None)
    wanted = f"{bad}: mesh axis model:8 does not divide mlp_dim=6: use one of model:1,2,3,6"
    with pytest.raises(ValueError, match=wanted):
        Pipeline.load(good, bad, mesh=make_mesh("model:8"), shard_draft=True)


_PEAK = """
import ctypes, gc, json, sys, threading
from pathlib import Path
import jax
from jax import numpy as jnp
address, count, index, small, *folders = sys.argv[1:]
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8 // int(count))
if int(count) > 1:
    jax.distributed.initialize(address, int(count), int(index))
import mtad_jax
from mtad_jax.devices.sharding import make_mesh
mesh = make_mesh("fsdp:2,model:4")

def resident():
    return 4096 * int(Path("/proc/self/statm").read_text().split()[1])

def peak_of(folder):
    # What was freed before, by libraries that are loaded on first use, must not hide what comes.
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before, peak, done = resident(), 0, threading.Event()
    def watch():
        nonlocal peak
        while not done.wait(0.001):
            peak = max(peak, resident())
    watcher = threading.Thread(target=watch)
    watcher.start()
    params = mtad_jax.load(folder, mesh=mesh).lm.params
    done.set()
    watcher.join()
    shards = [s.data for x in jax.tree.leaves(params) for s in x.addressable_shards]
    return peak - before, sum(shard.nbytes for shard in shards)

for folder in (small, small, *folders):  # what libraries take once
    found = peak_of(folder)
    if folder != small:
        print(json.dumps([Path(folder).name, *found]), flush=True)
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[Path]:
    """A small model, and one of 340 MB in both formats."""
    folder, config = tmp_path_factory.mktemp("large"), CONFIG | {"attention_bias": False}
    config |= {"hidden_size": 1024, "intermediate_size": 2816, "vocab_size": 16000}
    config |= {"num_key_value_heads": 4, "num_hidden_layers": 4}
    block = np.random.default_rng(0).standard_normal(1 << 20).astype(np.float32)

    def random(leaf) -> LazyTensor:
        dtype = np.dtype(np.float32)
        return LazyTensor("x", leaf.shape, dtype, lambda index: np.resize(block, leaf.shape)[index])

    params = jax.tree.map(random, model_of(config).param_shapes())
    (folder / "hf").mkdir()
    tensors = to_tensors(config, params, KeyLayout(), {})
    hf_writer.write_tensors(folder / "hf", tensors, shard_bytes=100_000_000)
    hf_writer.write_json(folder / "hf" / "config.json", config)
    engine.from_hf(folder / "hf", folder / "own")
    return [write(folder / "small", kind="own"), folder / "hf", folder / "own"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("processes", [pytest.param(1, marks=pytest.mark.heavy), 2])
def test_no_process_holds_more_than_its_shards_and_a_tensor(folders, processes):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    # Else the C allocator keeps what was freed, of each thread and of the model before.
    allocator = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "131072"}
    weights = sum(file.stat().st_size for file in folders[1].glob("*.safetensors"))
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", _PEAK, address, str(processes), str(i), *map(str, folders)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | allocator,
        )
        for i in range(processes)
    ]  # fmt: skip
    outputs = [run.communicate(timeout=120) for run in runs]
    for run, (out, err) in zip(runs, outputs, strict=True):
        assert run.returncode == 0, err
        for name, peak, mine in map(json.loads, out.splitlines()):
            print(f"{processes} processes: {name}: peak {peak >> 20} MiB, shards {mine >> 20} MiB")
            assert mine * processes < 1.001 * weights
            assert mine < peak < mine + 65_536_000, f"{name}: {peak}, its shards: {mine}"
