"""Loading Hugging Face folders and our own; writing Hugging Face's."""

import json
import shutil
import sys
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from hf_folders import CONFIGS, LLAMA, LLAMA_TIED, random_params, random_tensors, write_folder

from checkpoints_convert import compare, engine
from mtad_jax.checkpoints import arrays
from mtad_jax.checkpoints import load as checkpoint
from mtad_jax.checkpoints.hf import write as hf_writer
from mtad_jax.checkpoints.lazy import from_array
from mtad_jax.text import tokenizer as tokenizers


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def message(folder) -> str:
    with pytest.raises(ValueError) as caught:
        checkpoint.load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def hf(tmp_path):
    return write_folder(tmp_path / "hf", LLAMA, random_tensors(LLAMA))


@pytest.fixture
def own(hf, tmp_path):
    engine.from_hf(hf, tmp_path / "own")
    return tmp_path / "own"


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_both_formats_load_alike(tmp_path, config):
    hf = write_folder(tmp_path / "hf", config, random_tensors(config))
    engine.from_hf(hf, tmp_path / "own")
    direct, ours = checkpoint.load(hf), checkpoint.load(tmp_path / "own")
    same(direct.lm.params, random_params(config))
    same(direct.lm.params, ours.lm.params)
    assert direct.lm.model == ours.lm.model and direct.config == ours.config == config
    assert ours.eos_ids == (2,) and ours.bos_id == config["bos_token_id"]
    assert ours.tokenizer is None and ours.lm.vocab_size == 40


def test_plain_orbax_restores_our_folder(own):
    with ocp.StandardCheckpointer() as checkpointer:
        same(checkpointer.restore(own / "params"), random_params(LLAMA))
    with ocp.PyTreeCheckpointer() as checkpointer:
        same(checkpointer.restore(own / "params"), random_params(LLAMA))


@pytest.mark.slow
@pytest.mark.parametrize("stored", [np.float32, np.float16, jnp.bfloat16])
@pytest.mark.parametrize("asked", [None, jnp.float32, jnp.bfloat16])
def test_dtypes(tmp_path, stored, asked):
    tensors = random_tensors(LLAMA, stored)
    hf = write_folder(tmp_path / "hf", LLAMA, tensors)
    engine.from_hf(hf, tmp_path / "own")
    wanted = jnp.float32 if asked is None else asked  # None: CPUs compute in float32
    params = jax.tree.map(lambda x: x.astype(wanted), random_params(LLAMA, stored))
    for folder in (hf, tmp_path / "own"):
        lm = checkpoint.load(folder, dtype=asked).lm
        assert {leaf.dtype for leaf in jax.tree.leaves(lm.params)} == {jnp.dtype(wanted)}
        same(lm.params, params)


def test_accelerators_keep_the_stored_dtype(hf, own, tmp_path, monkeypatch):
    engine.from_hf(hf, tmp_path / "half", dtype=jnp.bfloat16)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert checkpoint.load(tmp_path / "half").lm.dtype == jnp.bfloat16
    assert checkpoint.load(own).lm.dtype == jnp.float32
    mixed = random_tensors(LLAMA, jnp.bfloat16)
    mixed["model.norm.weight"] = mixed["model.norm.weight"].astype(np.float32)
    folder = write_folder(tmp_path / "mixed", LLAMA, mixed)
    assert checkpoint.load(folder).lm.dtype == jnp.float32


@pytest.mark.parametrize(("size", "wanted"), [(33, 33), (40, 40), (41, 40)])
def test_vocabulary_is_the_tokenizers_unless_larger(hf, monkeypatch, size, wanted):
    fake = types.SimpleNamespace(vocab_size=size)
    monkeypatch.setattr(tokenizers, "load_tokenizer", lambda _: fake)
    loaded = checkpoint.load(hf)
    assert loaded.tokenizer is fake and loaded.lm.vocab_size == wanted
    assert loaded.lm.model.vocab_size == 40


@pytest.mark.parametrize(
    ("config", "generation", "eos", "bos"),
    [
        ({}, None, (2,), 1),
        ({}, {"eos_token_id": [5, 6], "bos_token_id": 7}, (5, 6), 7),
        ({}, {"eos_token_id": None}, (2,), 1),
        ({"eos_token_id": None, "bos_token_id": None}, {}, (), None),
        ({"eos_token_id": [2, 3]}, {"temperature": 0.6}, (2, 3), 1),
    ],
)
def test_start_and_end_tokens(hf, config, generation, eos, bos):
    hf_writer.write_json(hf / "config.json", LLAMA | config)
    if generation is not None:
        hf_writer.write_json(hf / "generation_config.json", generation)
    loaded = checkpoint.load(hf)
    assert (loaded.eos_ids, loaded.bos_id) == (eos, bos)


def test_end_token_of_the_tokenizer(hf, monkeypatch):
    fake = types.SimpleNamespace(vocab_size=40, eos_id=7)
    monkeypatch.setattr(tokenizers, "load_tokenizer", lambda _: fake)
    assert checkpoint.load(hf).eos_ids == (2,)
    hf_writer.write_json(hf / "config.json", LLAMA | {"eos_token_id": None})
    assert checkpoint.load(hf).eos_ids == (7,)
    fake.eos_id = None
    assert checkpoint.load(hf).eos_ids == ()


@pytest.mark.parametrize("value", ["</s>", -1, True, [2, "x"], 1.5])
def test_token_that_is_no_id(hf, value):
    hf_writer.write_json(hf / "config.json", LLAMA | {"eos_token_id": value})
    assert "eos_token_id=" in message(hf)


def test_our_folder_of_another_version(own):
    data = json.loads((own / "metadata.json").read_text())
    assert data["source"] == "hf" and data["dtype"] == data["source_dtype"] == "float32"
    hf_writer.write_json(own / "metadata.json", data | {"format_version": 99})
    assert "format_version=99, this mtad-jax reads 1" in message(own)
    del data["layout"]
    hf_writer.write_json(own / "metadata.json", data)
    assert "incomplete ('layout')" in message(own)


@pytest.mark.parametrize("data", [{"version": 1}, ["a list"]])
def test_another_tools_metadata_leaves_a_folder_hugging_faces(hf, data):
    hf_writer.write_json(hf / "metadata.json", data)
    same(checkpoint.load(hf).lm.params, random_params(LLAMA))


@pytest.mark.slow
def test_another_tools_metadata_does_not_stop_a_comparison(hf):
    hf_writer.write_json(hf / "metadata.json", {"version": 1})
    assert all(row.passes(1e-4) for row in compare.compare(hf, hf, max_tokens=2))


def test_our_folder_is_ours_by_its_weights_or_its_version(own):
    metadata = (own / "metadata.json").read_text()
    hf_writer.write_json(own / "metadata.json", {"dtype": "float32"})
    assert "format_version=None, this mtad-jax reads 1" in message(own)
    (own / "metadata.json").write_text(metadata)
    shutil.rmtree(own / "params")
    assert message(own).startswith(f"{own / 'params'}: ")


@pytest.fixture
def late_reads(monkeypatch):
    """Let reads that tensorstore ends after orbax has given up complain about the closed loop."""
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    yield
    time.sleep(0.5)  # until they have


@pytest.mark.slow
@pytest.mark.parametrize("name", ["_METADATA", "manifest.ocdbt", "d/*"])
def test_our_folder_damaged(own, name, late_reads):
    for file in own.glob(f"params/**/{name}"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:-9])
    text = message(own)
    assert text.startswith(f"{own / 'params'}: checkpoint is damaged (")


def test_our_folder_without_parts(own):
    (own / "config.json").rename(own / "x")
    assert message(own) == f"{own}: no config.json: give a whole checkpoint folder"
    hf_writer.write_json(own / "config.json", LLAMA | {"num_hidden_layers": 1})
    assert "num_hidden_layers=1, but it is 2 by " in message(own)
    hf_writer.write_json(own / "config.json", LLAMA | {"vocab_size": 39})
    assert "vocab_size=39, but it is 40 by " in message(own)
    (own / "x").rename(own / "config.json")
    (own / "params").rename(own / "x")
    assert message(own).startswith(f"{own / 'params'}: checkpoint is damaged")


@pytest.mark.parametrize("name", ["params", "params/d", "params/manifest.ocdbt", "params/x/y"])
def test_link_among_our_params_leading_out(own, tmp_path, name):
    link, outside = own / name, tmp_path / "outside"
    if name == "params/x/y":  # behind a link that stays inside
        (own / "more").mkdir()
        (own / "params" / "x").symlink_to("../more")
        assert checkpoint.load(own)
        outside.touch()
    else:
        link.rename(outside)
    link.symlink_to(outside)
    wanted = f"{link}: links to {outside}, outside of {own}: copy the file instead"
    assert message(own) == wanted
    with pytest.raises(ValueError, match="outside of"):
        engine.to_hf(own, tmp_path / "back")


@pytest.mark.parametrize(("value", "dtype"), [(np.nan, None), (np.inf, None), (1e5, np.float16)])
def test_our_weights_that_are_not_finite(own, value, dtype):
    params = random_params(LLAMA)
    params["layer_1"]["down"]["kernel"][5, 3] = value
    shutil.rmtree(own / "params")
    arrays.save(own / "params", jax.tree.map(from_array, params))
    with pytest.raises(ValueError) as caught:
        checkpoint.load(own, dtype=dtype)
    found = "nan" if np.isnan(value) else "inf"
    wanted = f"{own / 'params'}: layer_1/down/kernel: value {found} at [5, 3] in "
    assert str(caught.value).startswith(wanted) and "\n" not in str(caught.value)


def test_write_hf(tmp_path):
    params = jax.tree.map(jnp.asarray, random_params(LLAMA_TIED))
    config = LLAMA_TIED | {"torch_dtype": "float32"}
    hf_writer.write_hf(tmp_path / "a" / "b", params, config, jnp.bfloat16)
    loaded = checkpoint.load(tmp_path / "a" / "b", dtype=jnp.bfloat16)
    same(loaded.lm.params, jax.tree.map(lambda x: x.astype(jnp.bfloat16), params))
    assert loaded.config == config | {"torch_dtype": "bfloat16"}
    with pytest.raises(ValueError, match="unknown: .*missing: head/kernel"):
        hf_writer.write_hf(tmp_path / "c", params, LLAMA)
    assert not (tmp_path / "c").exists()


def test_safetensors_file_is_the_librarys(tmp_path):
    save_file = pytest.importorskip("safetensors.numpy").save_file
    tensors = random_tensors(LLAMA) | {"b": np.ones((2, 3), np.int8), "a": np.array(1.5)}
    write_folder(tmp_path, LLAMA, tensors)
    save_file(tensors, tmp_path / "library", metadata={"format": "pt"})
    assert (tmp_path / "library").read_bytes() == (tmp_path / "model.safetensors").read_bytes()
