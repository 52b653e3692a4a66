"""Presets against Hugging Face's own config and model classes."""

import math

import pytest

from configs import models
from mtad_jax.checkpoints.hf import families
from mtad_jax.checkpoints.hf import params as hf_params

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

CLASSES = {
    "llama": transformers.LlamaConfig,
    "qwen2": transformers.Qwen2Config,
    "qwen3": transformers.Qwen3Config,
    "mistral": transformers.MistralConfig,
    "smollm3": transformers.SmolLM3Config,
    "gemma2": transformers.Gemma2Config,
    "gemma3_text": transformers.Gemma3TextConfig,
    "opt": transformers.OPTConfig,
}
# Spellings that transformers 5 still reads, though it writes others.
OLD = {"rope_theta", "rope_scaling", "rope_local_base_freq", "sliding_window_pattern"}
PARAMETERS = {
    "llama2-7b": 6_738_415_616,
    "llama2-13b": 13_015_864_320,
    "llama2-70b": 68_976_648_192,
    "llama3.1-8b": 8_030_261_248,
    "llama3.1-70b": 70_553_706_496,
    "llama3.3-70b": 70_553_706_496,
    "llama3.2-1b": 1_235_814_400,
    "llama3.2-3b": 3_212_749_824,
    "llama-68m": 68_030_208,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-32b": 32_763_876_352,
    "qwen2.5-72b": 72_706_203_648,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-8b": 8_190_735_360,
    "qwen3-32b": 32_762_123_264,
    "mistral-7b-v0.1": 7_241_732_096,
    "mistral-7b-v0.3": 7_248_023_552,
    "mistral-small-24b": 23_572_403_200,
    "gemma2-2b": 2_614_341_888,
    "gemma2-9b": 9_241_705_984,
    "gemma2-27b": 27_227_128_320,
    "gemma3-270m": 268_098_176,
    "gemma3-1b": 999_885_952,
    "gemma3-4b": 3_880_263_168,
    "gemma3-12b": 11_766_034_176,
    "gemma3-27b": 27_009_346_304,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
    "smollm3-3b": 3_075_098_624,
    "opt-125m": 125_239_296,
    "opt-350m": 331_196_416,
    "opt-1.3b": 1_315_758_080,
    "opt-6.7b": 6_658_473_984,
    "opt-13b": 12_853_473_280,
    "opt-30b": 29_974_540_288,
    "opt-66b": 65_719_701_504,
}


def quick_and_slow():
    """Every preset; making many layers takes transformers a second each."""
    return [
        pytest.param(name, marks=pytest.mark.slow if count > 3e9 else ())
        for name, count in PARAMETERS.items()
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", quick_and_slow())
def test_shapes_are_those_of_transformers(name):
    config = models.read(name)
    model = families.model_of(config)
    shapes = families.shapes_of(model)
    ours = {
        rule.key: shapes[path].shape[::-1] if rule.transpose else shapes[path].shape
        for path, rule in hf_params.key_rules(config, model).items()
    }
    theirs = CLASSES[config["model_type"]].from_dict(models.read(name))
    with torch.device("meta"):  # shapes without weights
        reference = transformers.AutoModelForCausalLM.from_config(theirs)
    parameters = dict(reference.named_parameters())  # a tied head is named once
    assert ours == {key: tuple(parameter.shape) for key, parameter in parameters.items()}
    assert sum(math.prod(shape) for shape in ours.values()) == PARAMETERS[name]
    # What the class knows beside shapes (norms, rope, positions) reads the same way back.
    assert families.model_of(theirs.to_dict()) == model


def test_every_preset_is_here():
    assert set(models.NAMES) == PARAMETERS.keys()


@pytest.mark.parametrize("name", PARAMETERS)
def test_transformers_knows_every_setting(name):
    """A misspelt setting would be kept as an extra one and change nothing."""
    config = models.read(name)
    known = CLASSES[config["model_type"]]().to_dict()
    assert not config.keys() - known.keys() - OLD


@pytest.mark.parametrize(
    ("name", "near"),
    [("llama2-70B", "did you mean llama2-70b? "), ("opt66b", "did you mean opt-66b? "), ("?", "")],
)
def test_unknown_name(name, near):
    with pytest.raises(ValueError) as caught:
        models.read(name)
    text = f"no preset {name!r}: {near}use one of llama2-7b, llama2-13b, llama2-70b, llama3.1-8b, "
    assert str(caught.value).startswith(text)


def test_a_preset_cannot_be_changed_through_what_is_read():
    models.read("llama3.1-8b")["rope_scaling"]["factor"] = 1.0
    assert models.read("llama3.1-8b")["rope_scaling"]["factor"] == 8.0
