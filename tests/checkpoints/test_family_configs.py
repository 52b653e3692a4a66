"""Configs of the families built as Llama is: defaults are transformers', the rest is refused."""

import copy
import re
from pathlib import Path

import pytest

from configs import models
from mtad_jax.checkpoints.hf.families import FAMILIES, model_of

transformers = pytest.importorskip("transformers")

SIZES = {
    "vocab_size": 40,
    "hidden_size": 64,
    "intermediate_size": 24,
    "num_hidden_layers": 7,
    "num_attention_heads": 32,
}
CLASSES = {
    "llama": transformers.LlamaConfig,
    "qwen2": transformers.Qwen2Config,
    "qwen3": transformers.Qwen3Config,
    "mistral": transformers.MistralConfig,
    "smollm3": transformers.SmolLM3Config,
    "gemma2": transformers.Gemma2Config,
    "gemma3_text": transformers.Gemma3TextConfig,
}
LOCAL, FULL = "sliding_attention", "full_attention"
WINDOWS = {"use_sliding_window": True, "sliding_window": 9}
LINEAR = {"rope_type": "linear", "factor": 2.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}


def config_of(kind: str, **changes) -> dict:
    return copy.deepcopy(SIZES | {"model_type": kind} | changes)  # transformers changes it


def refusal(kind: str, **changes) -> str:
    with pytest.raises(ValueError) as caught:
        model_of(config_of(kind, **changes))
    assert "\n" not in str(caught.value) and str(caught.value).startswith("config.json: ")
    return str(caught.value)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        *((kind, {}) for kind in CLASSES),
        ("qwen2", WINDOWS),
        ("qwen2", WINDOWS | {"max_window_layers": 3}),
        ("qwen2", {"sliding_window": 9}),
        ("qwen3", WINDOWS | {"max_window_layers": 0}),
        ("qwen3", WINDOWS | {"layer_types": [LOCAL, *[FULL] * 5, LOCAL]}),
        ("mistral", {"sliding_window": None}),
        ("mistral", {"head_dim": 6, "rope_theta": 1e6}),
        ("smollm3", WINDOWS),
        ("smollm3", {"no_rope_layer_interval": 2, "rope_scaling": LINEAR}),
        ("smollm3", {"no_rope_layers": [0, 1, 1, 0, 1, 0, 1, 1, 1]}),
        ("gemma2", {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
        ("gemma2", {"query_pre_attn_scalar": 144, "rope_scaling": YARN}),
        ("gemma3_text", {"sliding_window_pattern": 3, "rope_local_base_freq": 300.0}),
        ("gemma3_text", {"rope_theta": 500.0, "rope_scaling": LINEAR}),
        ("gemma3_text", {"rope_parameters": {LOCAL: LINEAR, FULL: YARN | {"rope_theta": 9.0}}}),
        ("gemma3_text", {"rope_parameters": {FULL: LINEAR}, "layer_types": [FULL] * 7}),
    ],
)
def test_what_transformers_makes_of_it(kind, changes):
    """Defaults and derived settings: the same model by its config, and by what it makes of that."""
    theirs = CLASSES[kind].from_dict(config_of(kind, **changes)).to_dict()
    assert model_of(theirs) == model_of(config_of(kind, **changes))


@pytest.mark.parametrize(
    ("kind", "changes", "wanted"),
    [
        ("qwen2", {"attention_bias": False}, "attention_bias=false is not supported: only true is"),
        ("qwen2", {"use_mrope": True}, "use_mrope=true is not supported"),
        ("qwen3", {"mlp_bias": True}, "mlp_bias=true is not supported"),
        ("qwen3", {"head_dim": 7}, "head_dim=7 must be even"),
        ("qwen3", {"layer_types": [LOCAL] * 7}, "need a sliding_window, which is null or not in u"),
        ("qwen3", WINDOWS | {"layer_types": [LOCAL]}, "layer_types has 1 items, not one for each"),
        (
            "qwen3",
            {"layer_types": ["chunked_attention"] * 7},
            "must be a list of full_attention an",
        ),
        ("qwen2", {"max_window_layers": -1}, "max_window_layers=-1 must be a whole number from 0"),
        ("qwen2", {"sliding_window": 0}, "sliding_window=0 must be a whole number from 1"),
        ("mistral", {"attention_bias": True}, "attention_bias=true is not supported"),
        ("mistral", {"layer_types": [FULL] * 7}, "disagree: all layers of a Mistral are alike"),
        ("smollm3", {"no_rope_layers": [1, 0]}, "no_rope_layers has 2 items, fewer than num_hid"),
        ("smollm3", {"no_rope_layers": [2] * 7}, "must be a list of 0 (no position encoding) and"),
        ("smollm3", {"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5 is not supported"),
        ("smollm3", {"sliding_window": 9, "layer_types": [LOCAL] * 7}, "need a sliding_window, wh"),
        ("gemma2", {"hidden_activation": "gelu"}, 'hidden_activation="gelu" must be one of gelu_p'),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention=true is no"),
        ("gemma2", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar=0 must be a number"),
        ("gemma2", {"sliding_window": None}, "layers of sliding_attention need a sliding_window"),
        ("gemma2", {"hidden_size": 65}, "num_attention_heads=32 must divide hidden_size=65"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping=50.0 is not sup"),
        ("gemma3_text", {"rope_parameters": LINEAR}, "must hold an object for full_attention and "),
        ("gemma3_text", {"rope_scaling": {"a": {}}}, 'rope_scaling={"a": {}} must be an object of'),
        (
            "gemma3_text",
            {"rope_scaling": LINEAR, "rope_parameters": {FULL: YARN}},
            "disagree: keep the one that is meant",
        ),
        (
            "gemma3_text",
            {"rope_local_base_freq": 3.0, "rope_parameters": {LOCAL: {"rope_theta": 4.0}}},
            "rope_local_base_freq=3.0 and rope_parameters.sliding_attention.rope_theta=4.0 dis",
        ),
        (
            "gemma3_text",
            {"rope_parameters": {FULL: YARN | {"truncate": False}}},
            "rope_parameters.full_attention.truncate=false is not supported",
        ),
        (
            "gemma3_text",
            {"rope_parameters": {FULL: {"partial_rotary_factor": 0.5}}},
            "partial_rotary_factor=0.5 is not supported",
        ),
        ("gemma3", {}, "text_config=null must be the language model's settings"),
        ("gemma3", {"text_config": {"model_type": "gemma2"}}, 'text_config.model_type="gemma2" is'),
        ("gemma3", {"text_config": {"head_dim": 7}}, "head_dim=7 must be even"),
        ("gemma3", {"text_config": {}, "quantization_config": {}}, "quantization_config={} is not"),
        (
            "llama",
            {"rope_scaling": YARN | {"rope_type": "longrope"}},
            '"longrope" is not supported',
        ),
        (
            "llama",
            {"rope_scaling": YARN | {"beta_fast": 1, "beta_slow": 2}},
            "beta_fast=1 must not",
        ),
        ("llama", {"rope_scaling": YARN, "rope_theta": 1.0}, "rope_theta=1.0 must be above 1 for "),
        ("llama", {"rope_scaling": {"rope_type": "dynamic"}}, "setting 'factor' is missing"),
        ("llama", {"rope_interleaved": True}, "rope_interleaved=true is not supported"),
        ("llama", {"hidden_size": 62}, "num_attention_heads=32 must divide hidden_size=62"),
    ],
)
def test_what_is_not_honoured_is_refused_by_name(kind, changes, wanted):
    assert wanted in refusal(kind, **changes)


@pytest.mark.parametrize(
    ("scaling", "positions"),
    [
        (None, 512),
        ({"rope_type": "dynamic", "factor": 4.0}, 512),  # as transformers' up to there alone
        (YARN, 2048),
        (YARN | {"factor": 1.0}, 512),
        ({"rope_type": "yarn", "factor": 3.0}, 1536),
        (YARN | {"original_max_position_embeddings": 16}, 512),
        (YARN | {"factor": 1e6, "original_max_position_embeddings": 2**31 - 1}, 2**31 - 1),
    ],
)
def test_how_long_a_text_may_be(scaling, positions):
    config = config_of("qwen2", max_position_embeddings=512, rope_scaling=scaling)
    assert model_of(config).max_positions == positions


def test_the_documents_have_every_family():
    text = (Path(__file__).resolve().parents[2] / "docs" / "checkpoints.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ", text, flags=re.MULTILINE)
    assert set(rows) - {"model_type"} == FAMILIES.keys()


def test_windows_of_the_presets():
    """Which layers have one, as the models' papers say."""
    kinds = {
        name: model_of(models.read(name)).config.windows for name in ("gemma2-9b", "gemma3-1b")
    }
    assert kinds["gemma2-9b"] == (4096, None) * 21
    assert kinds["gemma3-1b"] == ((512,) * 5 + (None,)) * 4 + (512,) * 2
    rotary = model_of(models.read("smollm3-3b")).config.rotary
    assert rotary == (True, True, True, False) * 9
