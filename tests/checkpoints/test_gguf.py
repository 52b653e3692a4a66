"""GGUF files: weights and settings against the models they were made of, and bad files."""

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

pytest.importorskip("gguf")

import gguf_files as files  # noqa: E402
from hf_folders import write_folder  # noqa: E402

from checkpoints_convert import engine  # noqa: E402
from mtad_jax.checkpoints import load as checkpoint  # noqa: E402
from mtad_jax.checkpoints.hf.configs import llama_config  # noqa: E402

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 24,
}
MODELS = {
    "gqa": {},
    "tied": {"tie_word_embeddings": True},
    "mha": {"num_key_value_heads": 4},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "head_dim": {"head_dim": 10},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    "llama3": {"rope_scaling": LLAMA3, "rope_theta": 10000.0},
}


def llama3_divisors(hf) -> np.ndarray:
    """What llama.cpp's converter writes: a pair's frequency over its stretched one."""
    rope, size = hf["rope_scaling"], hf["head_dim"]
    out = []
    for i in range(0, size, 2):
        wavelength = 2 * np.pi * hf["rope_theta"] ** (i / size)
        turns = rope["original_max_position_embeddings"] / wavelength
        smooth = (turns - rope["low_freq_factor"]) / (
            rope["high_freq_factor"] - rope["low_freq_factor"]
        )
        smooth = min(1.0, max(0.0, smooth))
        out.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(out, np.float32)


def make(path: Path, hf=None, kind="F32", tokenizer=None, weights=None, **changes) -> Path:
    """Write a file of a random model; `changes` are of its metadata, dots as double underscores."""
    hf = files.HF | (hf or {})
    metadata, rope = files.settings(hf), hf.get("rope_scaling") or {}
    found = files.tensors(hf, files.small_weights(hf) if weights is None else weights)
    if rope.get("rope_type") == "linear":
        metadata |= {"llama.rope.scaling.type": "linear"}
        metadata |= {"llama.rope.scaling.factor": rope["factor"]}
    if rope.get("rope_type") == "llama3":
        length = rope["original_max_position_embeddings"]
        metadata["llama.rope.scaling.original_context_length"] = length
        found["rope_freqs.weight"] = llama3_divisors(hf)
    metadata |= {key.replace("__", "."): value for key, value in changes.items()}
    return files.write(path, metadata | (tokenizer or {}), found, kind)


@pytest.mark.slow
@pytest.mark.parametrize("change", MODELS.values(), ids=MODELS)
def test_weights_and_settings_are_those_of_the_model_it_was_made_of(tmp_path, change):
    hf = files.HF | change
    done = engine.from_gguf(make(tmp_path / "a.gguf", change), tmp_path / "own")
    assert (done.source, done.source_dtype, done.dtype) == ("a.gguf", "F32", "float32")
    theirs = write_folder(tmp_path / "hf", hf, files.small_weights(hf))
    ours, wanted = checkpoint.load(tmp_path / "own"), checkpoint.load(theirs)
    got, meant = llama_config(ours.config), llama_config(hf)
    assert got.norm_eps == pytest.approx(meant.norm_eps)  # of float32 in the file
    assert ours.lm.model.config == got
    assert {**vars(got), "norm_eps": meant.norm_eps} == vars(meant)
    jax.tree.map(np.testing.assert_array_equal, ours.lm.params, wanted.lm.params)


@pytest.mark.slow
def test_defaults_of_what_a_file_may_leave_out(tmp_path):
    absent = dict.fromkeys(
        ("llama__attention__key_length", "llama__attention__value_length", "llama__vocab_size",
         "llama__rope__dimension_count", "llama__rope__freq_base",
         "llama__attention__head_count_kv")
    )  # fmt: skip
    source = make(tmp_path / "a.gguf", {"num_key_value_heads": 4}, **absent)
    engine.from_gguf(source, tmp_path / "own")
    config = checkpoint.load(tmp_path / "own").lm.model.config
    found = config.vocab_size, config.head_dim, config.num_kv_heads, config.rope_theta
    assert found == (40, 16, 4, 10000.0)


@pytest.mark.slow
def test_rounded_to_another_dtype_and_back_to_hugging_face(tmp_path):
    source = make(tmp_path / "a.gguf")
    engine.from_gguf(source, tmp_path / "own", dtype=engine.DTYPES["bfloat16"])
    engine.to_hf(tmp_path / "own", tmp_path / "hf")
    ours, theirs = (checkpoint.load(tmp_path / name) for name in ("own", "hf"))
    assert theirs.config["torch_dtype"] == ours.config["torch_dtype"] == "bfloat16"
    jax.tree.map(np.testing.assert_array_equal, ours.lm.params, theirs.lm.params)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q4_K", "Q6_K"])
def test_logits_are_those_of_transformers(tmp_path, kind):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    wide = {"hidden_size": 256, "intermediate_size": 256, "head_dim": 64}
    hf = wide if kind.endswith("_K") else {}  # whose blocks are of 256
    source = make(tmp_path / "a.gguf", hf, kind)
    engine.from_gguf(source, tmp_path / "own")
    loaded = checkpoint.load(tmp_path / "own")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="a.gguf", dtype=torch.float32, attn_implementation="eager"
    )
    tokens = np.random.default_rng(1).integers(0, 40, (2, 96))
    with torch.no_grad():
        theirs = model(torch.from_numpy(tokens)).logits.numpy()
    assert theirs.std() > 0.1
    ours = jax.jit(loaded.lm.model.train_logits)(loaded.lm.params, tokens)
    np.testing.assert_allclose(np.asarray(ours), theirs, atol=1e-4)


BAD = {
    "llama.expert_count=8 is not supported: only 0 is": {"llama__expert_count": 8},
    'llama.rope.scaling.type="yarn" must be one of none, linear': {
        "llama__rope__scaling__type": "yarn"
    },
    "llama.logit_scale=2.0 is not supported": {"llama__logit_scale": 2.0},
    "llama.rope.dimension_count=8 is not supported: only 16": {"llama__rope__dimension_count": 8},
    "llama.vocab_size=41, but it is 40 by": {"llama__vocab_size": 41},
    "setting 'llama.block_count' is missing": {"llama__block_count": None},
    "num_hidden_layers=3, but it is 2 by": {"llama__block_count": 3},
    "intermediate_size=97, but it is 96 by": {"llama__feed_forward_length": 97},
    "shape [32, 64], config.json wants [64, 64]": {"llama__attention__head_count_kv": 4},
    "one of 3 parts": {"split__count": 3},
    "general.type='adapter' is not supported": {"general__type": "adapter"},
    'tokenizer.ggml.model="bert" must be one of gpt2, llama': {"tokenizer__ggml__model": "bert"},
    "tokenizer.ggml.bos_token_id=40 must be a whole number from 0 to 39": {
        "tokenizer__ggml__bos_token_id": 40
    },
}


@pytest.mark.parametrize(("message", "change"), BAD.items(), ids=BAD)
def test_what_is_refused(tmp_path, message, change):
    check_refused(make(tmp_path / "a.gguf", **change), tmp_path, message)


def check_refused(source: Path, folder: Path, *messages: str) -> None:
    with pytest.raises((ValueError, OSError)) as error:
        engine.from_gguf(source, folder / "own")
    text = str(error.value)
    assert all(message in text for message in messages) and "\n" not in text
    assert str(source) in text and not list(folder.glob("*own*"))


def test_other_architectures_and_tensors_are_refused_by_name(tmp_path):
    weights = files.small_weights(files.HF)
    named = files.tensors(files.HF, weights)
    other = files.write(tmp_path / "g.gguf", files.settings(files.HF), named, architecture="gemma")
    check_refused(other, tmp_path, 'general.architecture="gemma" is not supported: only llama is')
    named["blk.0.attn_q_norm.weight"] = np.ones(16, np.float32)
    more = files.write(tmp_path / "m.gguf", files.settings(files.HF), named)
    check_refused(more, tmp_path, "tensor blk.0.attn_q_norm.weight is not supported")
    missing = {key: array for key, array in weights.items() if "layers.1.mlp.up" not in key}
    check_refused(
        make(tmp_path / "l.gguf", weights=missing),
        tmp_path,
        "missing parameters: layer_1/up/kernel",
    )
    weights["model.norm.weight"][5] = np.nan
    check_refused(
        make(tmp_path / "n.gguf", weights=weights), tmp_path, "output_norm.weight: value nan at [5]"
    )


def test_stretched_positions_that_are_not_llama_3s_are_refused(tmp_path):
    hf = files.HF | MODELS["llama3"]
    source = make(tmp_path / "a.gguf", hf, llama__rope__scaling__original_context_length=32)
    check_refused(source, tmp_path, "rope_freqs.weight: is not supported")
    both = make(tmp_path / "b.gguf", hf, llama__rope__scaling__factor=2.0)
    check_refused(both, tmp_path, "rope_freqs.weight: is not supported beside llama.rope")


def test_a_file_cut_anywhere_is_refused(tmp_path):
    whole = make(tmp_path / "whole.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    ends = np.unique(np.linspace(0, len(whole) - 33, 60).astype(int))  # the last 32 may be padding
    for end in ends:
        cut.write_bytes(whole[:end])
        check_refused(cut, tmp_path, "not a GGUF file" if end < 4 else "truncated or corrupt")


@pytest.mark.slow
def test_random_damage_of_the_head_never_ends_in_a_traceback(tmp_path):
    whole = make(tmp_path / "whole.gguf").read_bytes()
    head, rng = whole.index(b"output.weight"), np.random.default_rng(0)
    for seed in range(60):
        damaged = bytearray(whole)
        damaged[int(rng.integers(4, head))] ^= int(rng.integers(1, 256))
        path = tmp_path / f"{seed}.gguf"
        path.write_bytes(damaged)
        try:
            engine.from_gguf(path, tmp_path / "own", overwrite=True)
        except (ValueError, OSError) as error:
            assert "\n" not in str(error)


def test_what_is_no_gguf_file(tmp_path, monkeypatch):
    check_refused(tmp_path / "none.gguf", tmp_path, "No such file")
    (tmp_path / "folder").mkdir()
    check_refused(tmp_path / "folder", tmp_path, "is a folder: give the .gguf file")
    source = make(tmp_path / "a.gguf")
    with pytest.raises(ValueError, match="overlap"):
        engine.from_gguf(source, tmp_path, overwrite=True)
    monkeypatch.setitem(sys.modules, "gguf", None)
    check_refused(source, tmp_path, "gguf is needed to read it", "[gguf]")


@pytest.mark.heavy
def test_the_commands(tmp_path):
    source = make(tmp_path / "a.gguf", kind="Q8_0")
    own = tmp_path / "own"

    def run(name, *flags):
        command = [sys.executable, "-m", f"checkpoints_convert.{name}", *flags]
        return subprocess.run(command, capture_output=True, text=True)

    done = run("from_gguf", f"--source={source}", f"--output={own}")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{own}: a.gguf in float32 (from F32, Q8_0)\n"
    again = run("from_gguf", f"--source={source}", f"--output={own}")
    assert again.returncode == 1 and again.stderr.startswith(f"error: {own}: output exists")
    pytest.importorskip("transformers")
    checked = run("verify", f"--source={source}", f"--converted={own}")
    assert checked.returncode == 0 and checked.stdout.endswith("PASS\n"), checked.stderr
