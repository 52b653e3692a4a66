"""Damaged, hostile and unusual Hugging Face folders: one line each, naming file or key."""

import json
import pickle
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from hf_folders import LLAMA, random_tensors, write_folder

from mtad_jax.checkpoints import load as checkpoint
from mtad_jax.checkpoints.hf import read as hf_reader
from mtad_jax.errors import install_hint

KEY = "model.layers.1.mlp.down_proj.weight"
INDEX = "model.safetensors.index.json"


def message(folder, call=checkpoint.load) -> str:
    with pytest.raises(ValueError) as caught:
        call(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def tensors():
    return random_tensors(LLAMA)


@pytest.fixture
def sharded(tmp_path, tensors):
    folder = write_folder(tmp_path / "sharded", LLAMA, tensors, shard_bytes=4000)
    assert len(list(folder.glob("model-*.safetensors"))) > 3
    return folder


@pytest.mark.parametrize("dtype", [np.float32, np.float16, jnp.bfloat16])
def test_shards_hold_what_was_written(tmp_path, dtype):
    tensors = random_tensors(LLAMA, dtype)
    folder = write_folder(tmp_path, LLAMA, tensors, shard_bytes=4000)
    opened = hf_reader.open_folder(folder).tensors
    assert opened.keys() == tensors.keys()
    for key, tensor in opened.items():
        assert (tensor.shape, tensor.dtype) == (tensors[key].shape, tensors[key].dtype)
        np.testing.assert_array_equal(tensor.read(), tensors[key])
    (folder / INDEX).unlink()  # the names alone will do
    assert hf_reader.open_folder(folder).tensors.keys() == tensors.keys()


def test_missing_folder_config_and_weights(tmp_path):
    assert message(tmp_path / "no") == f"{tmp_path / 'no'}: no such folder"
    assert "no config.json" in message(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    assert "no weights: model.safetensors or pytorch_model.bin" in message(tmp_path)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("{", "not valid JSON"),
        ("[1]", "holds a list"),
        ('{"a": 1, "a": 2}', "'a' appears twice"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_bad_config(tmp_path, text, wanted):
    (tmp_path / "config.json").write_text(text)
    text = message(tmp_path)
    assert text.startswith(f"{tmp_path / 'config.json'}: ") and wanted in text


@pytest.mark.parametrize("damage", [b"", b"version https://", b"\0" * 40, None])
def test_corrupt_shard(sharded, damage):
    shard = sorted(sharded.glob("model-*.safetensors"))[2]
    shard.write_bytes(shard.read_bytes()[:-4] if damage is None else damage)
    assert message(sharded).startswith(f"{shard}: truncated or corrupt safetensors file")


def test_missing_shard(sharded):
    shard = sorted(sharded.glob("model-*.safetensors"))[2]
    shard.unlink()
    assert message(sharded) == f"{shard}: shard is missing: download the checkpoint again"


def test_key_missing_in_its_shard(sharded):
    table = json.loads((sharded / INDEX).read_text())
    table["weight_map"]["ghost"] = table["weight_map"][KEY]
    (sharded / INDEX).write_text(json.dumps(table))
    assert f"key ghost is missing though {INDEX} names it" in message(sharded)


def test_key_in_another_shard_than_the_index_names(sharded):
    table = json.loads((sharded / INDEX).read_text())
    there = table["weight_map"][KEY]
    other = next(name for name in table["weight_map"].values() if name != there)
    table["weight_map"][KEY] = other
    (sharded / INDEX).write_text(json.dumps(table))
    wanted = f"{sharded / other}: key {KEY} is missing though {INDEX} names it (it is in {there})"
    assert message(sharded).startswith(wanted)


def test_key_in_two_shards(sharded, tensors):
    a, b = sorted(sharded.glob("model-*.safetensors"))[:2]
    b.write_bytes(a.read_bytes())
    assert "key is also in another shard: " in message(sharded)


@pytest.mark.parametrize("where", [None, {"a": 1}, ["x"]])
def test_bad_index(sharded, where):
    (sharded / INDEX).write_text(json.dumps({"weight_map": where}))
    assert message(sharded).endswith("weight_map must map keys to file names")


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "a/b", "..", "a\\b"])
def test_index_leading_out(sharded, name):
    (sharded / INDEX).write_text(json.dumps({"weight_map": {KEY: name}}))
    assert f"file name {name!r} must not lead to another folder" in message(sharded)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_link_leading_out(tmp_path, tensors, name):
    folder = write_folder(tmp_path / "hf", LLAMA, tensors)
    outside = tmp_path / "outside"
    outside.write_text("{}")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(outside)
    assert message(folder).startswith(f"{folder / name}: links to {outside}, outside of {folder}")


def test_links_of_the_hub_cache(tmp_path, tensors):
    hub = tmp_path / "models--a--b"
    (hub / "blobs").mkdir(parents=True)
    folder = write_folder(hub / "snapshots" / "123", LLAMA, tensors)
    for i, file in enumerate(list(folder.iterdir())):
        file.rename(hub / "blobs" / str(i))
        file.symlink_to(f"../../blobs/{i}")
    assert checkpoint.load(folder).lm.vocab_size == 40
    (hub / "blobs" / "0").unlink()
    assert "links to a missing file: download it again" in message(folder)
    (tmp_path / "models--a--c").write_text("{}")  # a neighbour is outside
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("../../../models--a--c")
    assert f"outside of {hub}" in message(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, jnp.bfloat16])
def test_weights_that_are_not_finite(tmp_path, value, dtype):
    tensors = random_tensors(LLAMA, dtype)
    tensors[KEY][3, 5] = value
    folder = write_folder(tmp_path, LLAMA, tensors)
    text = message(folder, lambda path: checkpoint.load(path, dtype=dtype))
    # [5, 3]: ours is the transpose
    assert f"model.safetensors: {KEY}: value {float(value)} at [5, 3] in" in text


def test_weights_too_large_for_the_dtype(tmp_path, tensors):
    tensors[KEY][3, 5] = 1e5
    folder = write_folder(tmp_path, LLAMA, tensors)
    text = message(folder, lambda path: checkpoint.load(path, dtype=jnp.float16))
    assert "value inf at [5, 3] in float16" in text and "wider dtype" in text


def torch_folder(folder, tensors, **options):
    torch = pytest.importorskip("torch")
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(LLAMA))
    state = {key: torch.from_numpy(x).to(torch.bfloat16) for key, x in tensors.items()}
    torch.save(state, folder / "pytorch_model.bin", **options)
    return folder


def test_torch_weights(tmp_path, tensors):
    opened = hf_reader.open_folder(torch_folder(tmp_path, tensors)).tensors
    for key, array in tensors.items():
        assert opened[key].dtype == jnp.bfloat16
        np.testing.assert_array_equal(opened[key].read(), array.astype(jnp.bfloat16))


def test_torch_is_absent(tmp_path, tensors, monkeypatch):
    folder = torch_folder(tmp_path, tensors)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert message(folder) == (
        f"{folder / 'pytorch_model.bin'}: torch is needed to read .bin weights: "
        f"{install_hint('convert')}"
    )


def test_torch_files_that_are_not_plain_weights(tmp_path, tensors):
    folder = torch_folder(tmp_path, tensors, _use_new_zipfile_serialization=False)
    file = folder / "pytorch_model.bin"
    assert "older than torch 1.6" in message(folder)
    torch_folder(tmp_path, tensors)
    file.write_bytes(file.read_bytes()[:-2000])
    assert message(folder).startswith(f"{file}: ")
    torch = sys.modules["torch"]
    torch.save([1], file)
    assert message(folder) == f"{file}: holds a list, not tensors by name"
    torch.save({"a": 1}, file)
    assert message(folder) == f"{file}: a: holds a int, not a tensor"


def test_torch_parameters_and_tensors_that_numpy_lacks(tmp_path, tensors):
    file = torch_folder(tmp_path, tensors) / "pytorch_model.bin"
    torch = sys.modules["torch"]
    for dtype in (torch.float32, torch.bfloat16):
        state = {k: torch.nn.Parameter(torch.from_numpy(x).to(dtype)) for k, x in tensors.items()}
        torch.save(state, file)
        opened = hf_reader.open_folder(tmp_path).tensors
        wanted = state[KEY].detach().float().numpy()
        np.testing.assert_array_equal(opened[KEY].read().astype(np.float32), wanted)
    for value, wanted in (
        (torch.ones(2, 2).to_sparse(), "holds a sparse_coo tensor, not a dense one"),
        (torch.ones(2, device="meta"), "holds a meta tensor, not a dense one"),
        (torch.ones(2).to(torch.float8_e4m3fn), "dtype float8_e4m3fn is not supported"),
    ):
        torch.save({KEY: value}, file)
        assert message(tmp_path).startswith(f"{file}: {KEY}: {wanted}")


class _Trap:
    """A pickle that leaves a mark if anybody unpickles it."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return open, (self.mark, "w")


def test_nothing_is_unpickled(tmp_path, tensors):
    folder = torch_folder(tmp_path, tensors)
    mark = tmp_path / "mark"
    sys.modules["torch"].save({"a": _Trap(mark)}, folder / "pytorch_model.bin")
    assert "cannot be read as plain weights (UnpicklingError" in message(folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": _Trap(mark)}))
    assert "truncated, corrupt or older" in message(folder)
    assert not mark.exists()
