"""Logits against Hugging Face transformers, in f32, up to the last position."""

import jax.numpy as jnp
import pytest
from hf_reference import (
    LONGEST,
    check_prefill_then_single_steps,
    check_whole_sequence,
    make_pair,
    reference,
    torch,
    transformers,
)

from mtad_jax.checkpoints import load as checkpoint
from mtad_jax.checkpoints.hf import write as hf_writer

pytestmark = pytest.mark.slow

_LLAMA = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": LONGEST,
    "rms_norm_eps": 1e-5,
}
_OPT = {
    "vocab_size": 50,
    "hidden_size": 32,
    "word_embed_proj_dim": 32,
    "ffn_dim": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": LONGEST,
}
_LINEAR = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
# 24 original positions: of the 4 or 5 wavelengths some lie on each side of the ramp and on it.
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 24,
    "rope_theta": 5000.0,
}
_DYNAMIC = {"rope_type": "dynamic", "factor": 3.0, "rope_theta": 500.0}
_TIED = {"tie_word_embeddings": True}
_BIASES = {"attention_bias": True, "mlp_bias": True}
_NO_AFFINE = {"enable_bias": False, "layer_norm_elementwise_affine": False}
_MODELS = {
    "llama": ("llama", _LLAMA),
    "llama_gqa_head_dim": ("llama", _LLAMA | {"head_dim": 10, "num_key_value_heads": 2}),
    "llama_mqa_linear": ("llama", _LLAMA | {"num_key_value_heads": 1, "rope_parameters": _LINEAR}),
    "llama_llama3_tied_biases": ("llama", _LLAMA | _TIED | _BIASES | {"rope_parameters": _LLAMA3}),
    "llama_dynamic": ("llama", _LLAMA | {"rope_parameters": _DYNAMIC}),
    "opt": ("opt", _OPT),
    "opt_350m": ("opt", _OPT | {"do_layer_norm_before": False, "word_embed_proj_dim": 20}),
    "opt_gelu_no_affine": ("opt", _OPT | _NO_AFFINE | {"activation_function": "gelu"}),
    "opt_no_final_norm": ("opt", _OPT | {"_remove_final_layer_norm": True}),
}


@pytest.fixture(scope="module", params=_MODELS.values(), ids=_MODELS)
def pair(request, tmp_path_factory):
    """Return (our loaded model, tokens [2, LONGEST], transformers' logits)."""
    return make_pair(*request.param, tmp_path_factory.mktemp("hf"))


def test_whole_sequence(pair):
    check_whole_sequence(*pair)


def test_prefill_then_single_steps(pair):
    check_prefill_then_single_steps(*pair)


@pytest.mark.parametrize("name", ["llama_llama3_tied_biases", "opt_350m"])
def test_transformers_opens_what_we_write(name, tmp_path):
    theirs = reference(*_MODELS[name])
    theirs.save_pretrained(tmp_path / "in")
    loaded = checkpoint.load(tmp_path / "in")
    hf_writer.write_hf(tmp_path / "out", loaded.lm.params, loaded.config, jnp.bfloat16)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert again.dtype == torch.bfloat16
    for key, value in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[key], value.to(torch.bfloat16)), key


def test_old_spelling_of_rope_scaling(tmp_path):
    """`rope_theta` and `rope_scaling`, as transformers 4 wrote them."""
    kind, config = _MODELS["llama_llama3_tied_biases"]
    theirs = reference(kind, config)
    theirs.save_pretrained(tmp_path)
    loaded = checkpoint.load(tmp_path)
    old = {name: value for name, value in loaded.config.items() if name != "rope_parameters"}
    scaling = {name: value for name, value in _LLAMA3.items() if name != "rope_theta"}
    old |= {"rope_theta": 5000.0, "rope_scaling": scaling}
    hf_writer.write_json(tmp_path / "config.json", old)
    assert checkpoint.load(tmp_path).lm.model == loaded.lm.model
