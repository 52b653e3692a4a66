"""Folders as people have them: opened as transformers opens them, or refused with the cure."""

import json
import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from hf_folders import LLAMA, LLAMA_TIED, OPT, random_tensors, write_folder
from tiny_tokenizers import byte_level_folder

from checkpoints_convert import engine
from mtad_jax.checkpoints import load as checkpoint
from mtad_jax.checkpoints.hf.write import write_json
from mtad_jax.checkpoints.save import save

INDEX = "model.safetensors.index.json"
TOKENS = np.random.default_rng(1).integers(0, 40, (1, 40))


def message(folder, call=checkpoint.load) -> str:
    with pytest.raises(ValueError) as caught:
        call(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def check_like_transformers(folder) -> None:
    """Check that the logits are those of transformers on the same folder."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        theirs = model(torch.from_numpy(TOKENS)).logits.numpy()
    lm = checkpoint.load(folder, dtype="float32").lm
    ours = lm.model.train_logits(lm.params, jnp.asarray(TOKENS))
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())


def other(tensors):
    return {key: array[::-1].copy() for key, array in tensors.items()}


@pytest.mark.parametrize("shards_left", [True, False])
def test_index_left_beside_a_newer_file(tmp_path, shards_left):
    tensors = random_tensors(LLAMA)
    folder = write_folder(tmp_path, LLAMA, tensors, shard_bytes=4000)
    if not shards_left:
        for shard in folder.glob("model-*"):
            shard.unlink()
    write_folder(folder, LLAMA, other(tensors))
    assert (folder / INDEX).exists()
    check_like_transformers(folder)
    table = checkpoint.load(folder).lm.params["embed"]["table"]
    np.testing.assert_array_equal(table, tensors["model.embed_tokens.weight"][::-1])


def test_shards_without_an_index_come_after_a_torch_file(tmp_path):
    torch = pytest.importorskip("torch")
    tensors = random_tensors(LLAMA)
    folder = write_folder(tmp_path, LLAMA, other(tensors), shard_bytes=4000)
    (folder / INDEX).unlink()
    state = {key: torch.from_numpy(array) for key, array in tensors.items()}
    torch.save(state, folder / "pytorch_model.bin")
    check_like_transformers(folder)


@pytest.mark.slow
def test_names_that_are_no_weights(tmp_path):
    """In shards, in several of them, in the index alone, and a tied head in the index alone."""
    tensors = random_tensors(LLAMA_TIED)
    buffers = {"model.rotary_emb.inv_freq": np.ones(3, np.float32)}
    for name in ("inv_freq", "cos_cached", "sin_cached"):
        buffers |= {
            f"model.layers.{i}.self_attn.rotary_emb.{name}": np.ones((1, 1, 8, 6), np.float32)
            for i in range(2)
        }
    folder = write_folder(tmp_path / "hf", LLAMA_TIED, tensors | buffers, shard_bytes=4000)
    twice = dict(list(buffers.items())[:2])
    write_folder(tmp_path / "twice", LLAMA_TIED, twice)
    (tmp_path / "twice" / "model.safetensors").rename(folder / "model-again.safetensors")
    index = json.loads((folder / INDEX).read_text())
    ghosts = ["lm_head.weight", "model.rotary_emb.cos_cached"]
    index["weight_map"] |= dict.fromkeys(ghosts, "model-again.safetensors")
    write_json(folder / INDEX, index)
    check_like_transformers(folder)
    engine.from_hf(folder, tmp_path / "own")
    engine.to_hf(tmp_path / "own", tmp_path / "back")
    check_like_transformers(tmp_path / "back")


def test_an_untied_head_in_the_index_alone_is_missed(tmp_path):
    tensors = random_tensors(LLAMA)
    del tensors["lm_head.weight"]
    folder = write_folder(tmp_path, LLAMA, tensors, shard_bytes=4000)
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["lm_head.weight"] = min(index["weight_map"].values())
    write_json(folder / INDEX, index)
    assert "missing parameters: head/kernel (lm_head.weight)" in message(folder)


def test_model_in_a_subfolder_of_the_hub_cache(tmp_path):
    hub = tmp_path / "models--a--b"
    (hub / "blobs").mkdir(parents=True)
    folder = write_folder(hub / "snapshots" / "123" / "sub", LLAMA, random_tensors(LLAMA))
    for i, file in enumerate(list(folder.iterdir())):
        file.rename(hub / "blobs" / str(i))
        file.symlink_to(f"../../../blobs/{i}")
    check_like_transformers(folder)
    (tmp_path / "models--a--c").write_text("{}")  # a neighbour is outside
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("../../../../models--a--c")
    assert f"outside of {hub}" in message(folder)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "tokenizer.model", "model-00002-of"]
)
def test_git_lfs_pointer(tmp_path, name):
    shard_bytes = 10_000 if name.startswith("model-") else 1 << 30
    folder = write_folder(tmp_path, LLAMA, random_tensors(LLAMA), shard_bytes=shard_bytes)
    file = next(folder.glob(name + "*"), folder / name)
    file.write_bytes(POINTER)
    wanted = f"{file}: is a Git LFS pointer, not the file itself: run `git lfs pull`"
    assert message(folder).startswith(wanted)


def test_git_lfs_pointer_among_our_own_parameters(tmp_path):
    source = write_folder(tmp_path / "hf", LLAMA, random_tensors(LLAMA))
    engine.from_hf(source, tmp_path / "own")
    file = next(f for f in sorted((tmp_path / "own" / "params").rglob("*")) if f.is_file())
    file.write_bytes(POINTER)
    assert message(tmp_path / "own").startswith(f"{file}: is a Git LFS pointer")


def test_adapter(tmp_path):
    folder = write_folder(tmp_path / "hf", LLAMA, random_tensors(LLAMA))
    adapter = folder / "adapter_config.json"
    adapter.write_text(json.dumps({"base_model_name_or_path": "a/base", "peft_type": "LORA"}))
    for call in (checkpoint.load, lambda path: engine.from_hf(path, tmp_path / "own")):
        text = message(folder, call)
        assert text.startswith(f"{adapter}: an adapter (of a/base) is not supported")
        assert "merge_and_unload()" in text
    (folder / "config.json").unlink()  # an adapter alone
    assert message(folder).startswith(f"{adapter}: an adapter (of a/base)")


@pytest.mark.parametrize(
    ("start", "named", "wrapper"),
    [
        ("module.", "module", "DataParallel"),
        ("_orig_mod.", "_orig_mod", "torch.compile"),
        ("module._orig_mod.", "module", "DataParallel"),
        ("model._orig_mod.", "_orig_mod", "torch.compile"),  # of the inner model alone
    ],
)
def test_prefix_of_a_wrapper(tmp_path, start, named, wrapper):
    tensors = random_tensors(LLAMA)
    inner = start.startswith("model.")
    tensors = {start + (k.removeprefix("model.") if inner else k): x for k, x in tensors.items()}
    text = message(write_folder(tmp_path, LLAMA, tensors))
    assert f"{named!r} in the key is of" in text and wrapper in text
    assert f"model.{named}.save_pretrained" in text and f"take '{named}.' out of all keys" in text


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a[1]", "[", "v2]", "g*x?", "b%20c"])
def test_conversion_into_an_odd_path_opens(tmp_path, name):
    source = write_folder(tmp_path / "hf", LLAMA, random_tensors(LLAMA))
    for output in (tmp_path / name, tmp_path / f"in {name}" / "own"):
        engine.from_hf(source, output)
        loaded = checkpoint.load(output)
        np.testing.assert_array_equal(
            loaded.lm.params["embed"]["table"], random_tensors(LLAMA)["model.embed_tokens.weight"]
        )


def test_path_with_a_backslash_is_refused_before_any_work(tmp_path):
    source = write_folder(tmp_path / "hf", LLAMA, random_tensors(LLAMA))
    text = message(source, lambda path: engine.from_hf(path, tmp_path / "a\\b"))
    assert "cannot open paths with a backslash: use another folder name" in text
    engine.from_hf(source, tmp_path / "own")
    (tmp_path / "own").rename(tmp_path / "a\\b")
    assert "cannot open paths with a backslash" in message(tmp_path / "a\\b")


@pytest.mark.slow
def test_home_folder(tmp_path, monkeypatch):
    """`--output=~/x`: no shell expands that."""
    monkeypatch.chdir(tmp_path)
    source = write_folder(tmp_path / "home" / "hf", LLAMA, random_tensors(LLAMA))
    env = os.environ | {"HOME": str(source.parent)}
    done = subprocess.run(
        [sys.executable, "-m", "checkpoints_convert.from_hf", "--source=~/hf", "--output=~/own"],
        env=env | {"PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{source.parent / 'own'}: hf in float32")
    monkeypatch.setenv("HOME", str(source.parent))
    loaded = checkpoint.load("~/own")
    save(loaded, "~/copy")
    assert (source.parent / "copy" / "params").is_dir() and not (tmp_path / "~").exists()


LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
OLD = "original_max_position_embeddings"


def rope_folder(folder, **change):
    return write_folder(folder, LLAMA | change, random_tensors(LLAMA))


@pytest.mark.parametrize(
    "change",
    [
        {"rope_scaling": LLAMA3},  # no length: that of the config
        {"rope_scaling": LLAMA3 | {OLD: 16}, OLD: 16},
        {"rope_scaling": LLAMA3, OLD: 32},
        {"rope_scaling": {"rope_type": "linear", "factor": 2}, OLD: 32},
        {OLD: 32},
        {"rope_scaling": {}, "rope_parameters": {"rope_type": "linear", "factor": 2.0}},
        {"rope_scaling": None, "rope_parameters": LLAMA3 | {"rope_theta": 300.0}},
        {"rope_scaling": LLAMA3 | {OLD: 16}, "rope_theta": 300.0},
        {"rope_scaling": LLAMA3, "rope_parameters": LLAMA3},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 300.0}, "rope_theta": 300},
        {"rope_scaling": {"type": "dynamic", "rope_type": "linear", "factor": 2.0}},
        {"rope_scaling": {"type": "linear", "factor": 2.0}, "partial_rotary_factor": None},
    ],
    ids=lambda change: " ".join(change),
)
def test_rotary_settings_as_transformers_takes_them(tmp_path, change):
    check_like_transformers(rope_folder(tmp_path, **change))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            {"rope_scaling": LLAMA3 | {OLD: 16}, "rope_parameters": {"rope_theta": 500000.0}},
            ["rope_scaling={", "rope_parameters={", "disagree: keep the one that is meant"],
        ),
        (
            {"rope_parameters": {"rope_theta": 500000.0}, "rope_theta": 7},
            ["rope_theta=7 and rope_parameters.rope_theta=500000.0 disagree"],
        ),
        (
            {"rope_scaling": LLAMA3 | {OLD: 16}, OLD: 32},
            [f"{OLD}=32 and rope_scaling.{OLD}=16 disagree"],
        ),
        (
            {"rope_parameters": {"full_attention": LLAMA3}, "layer_types": ["full_attention"] * 2},
            ["rope_parameters=", "must be an object of plain values"],
        ),
    ],
)
def test_rotary_settings_that_disagree_are_both_named(tmp_path, change, named):
    text = message(rope_folder(tmp_path, **change))
    assert text.startswith(f"{tmp_path}: config.json: ") and all(part in text for part in named)


@pytest.mark.parametrize(
    ("config", "change", "wanted"),
    [
        (LLAMA, {"max_position_embeddings": None}, "must be a whole number from 1 to 2147483647"),
        (LLAMA, {"max_position_embeddings": "64"}, 'max_position_embeddings="64" must be a whole'),
        (LLAMA, {"vocab_size": 0}, "vocab_size=0 must be a whole number from 1 to"),
        (LLAMA, {"vocab_size": 41}, "vocab_size=41, but it is 40 by "),
        (LLAMA, {"hidden_size": 24}, "hidden_size=24, but it is 16 by "),
        (LLAMA, {"intermediate_size": 25}, "intermediate_size=25, but it is 24 by "),
        (LLAMA, {"mlp_bias": [1]}, "mlp_bias=[1] must be true or false"),
        (LLAMA, {"rms_norm_eps": 2147483648}, "rms_norm_eps=2147483648 must be a number from 0 to"),
        (LLAMA, {"num_hidden_layers": 2**63}, "num_hidden_layers=9223372036854775808 must be"),
        (LLAMA, {"num_hidden_layers": 4096}, "num_hidden_layers=4096, but it is 2 by "),
        (LLAMA, {"head_dim": 2**31}, "head_dim=2147483648 must be a whole number from 2 to"),
        (LLAMA, {"head_dim": 5}, "head_dim=5 must be even"),
        (LLAMA, {"num_key_value_heads": 3}, "num_key_value_heads=3 must divide num_attention_head"),
        (LLAMA, {"eos_token_id": 40}, "eos_token_id=40 must be below vocab_size=40"),
        (LLAMA, {"eos_token_id": "2"}, 'eos_token_id="2" must be a token id or a list of them'),
        (OPT, {"max_position_embeddings": 63}, "max_position_embeddings=63, but it is 64 by "),
        (OPT, {"ffn_dim": 23}, "ffn_dim=23, but it is 24 by "),
        (OPT, {"num_attention_heads": 3}, "num_attention_heads=3 must divide hidden_size=16"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) and len(value) == 1 else "",
)
@pytest.mark.parametrize("ours", [False, True], ids=["theirs", "ours"])
def test_settings_that_cannot_be_right(tmp_path, config, change, wanted, ours):
    folder = write_folder(tmp_path / "hf", config, random_tensors(config))
    if ours:
        engine.from_hf(folder, tmp_path / "own")
        folder = tmp_path / "own"
    write_json(folder / "config.json", config | change)
    text = message(folder)
    assert str(folder) in text and wanted in text, text


@pytest.mark.parametrize("generation", [None, {"eos_token_id": [3, 4]}, {"eos_token_id": []}])
@pytest.mark.parametrize("config", [2, [5, 6]])
def test_end_tokens_as_transformers_takes_them(tmp_path, config, generation):
    """`generation_config.json` before `config.json`, whatever the tokenizer says."""
    transformers = pytest.importorskip("transformers")
    folder = byte_level_folder(tmp_path / "hf", eos_token="<s>")
    config = LLAMA | {"vocab_size": 400, "eos_token_id": config}
    write_folder(folder, config, random_tensors(config))
    if generation is not None:
        write_json(folder / "generation_config.json", generation)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).generation_config
    ends = theirs.eos_token_id
    ours = checkpoint.load(folder)
    assert list(ours.eos_ids) == (ends if isinstance(ends, list) else [ends])
    assert ours.tokenizer is not None and ours.tokenizer.eos_id == 0  # its own files' word


@pytest.mark.parametrize("null", [False, True])
def test_end_token_of_the_tokenizer_where_the_model_names_none(tmp_path, null):
    folder = byte_level_folder(tmp_path / "hf", eos_token="<s>")
    config = LLAMA | {"vocab_size": 400, "eos_token_id": None}
    write_folder(folder, config, random_tensors(config))
    if null:
        write_json(folder / "generation_config.json", {"eos_token_id": None})
    assert checkpoint.load(folder).eos_ids == (0,)
