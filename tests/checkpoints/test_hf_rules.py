"""Rule tables, and their application to whole sets of tensors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from hf_folders import CONFIGS, LLAMA, LLAMA_TIED, OPT, random_params, random_tensors

from mtad_jax.checkpoints.hf import families
from mtad_jax.checkpoints.hf import params as hf_params
from mtad_jax.checkpoints.lazy import from_array

each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def lazy(tensors):
    return {key: from_array(array, f"x.safetensors: {key}") for key, array in tensors.items()}


def message(call, *args) -> str:
    with pytest.raises(ValueError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("family", families.FAMILIES.values(), ids=families.FAMILIES)
def test_table_names_everything_once(family):
    for names in ([r.key for r in family.rules], [r.path for r in family.rules]):
        assert len(names) == len(set(names))
    keys = {rule.key for rule in family.rules}
    assert all(key in keys and same in keys for key, same in family.tied.items())


@each_config
def test_every_parameter_has_its_own_key(config):
    model = families.model_of(config)
    rules = hf_params.key_rules(config, model)
    assert rules.keys() == flatten_dict(model.param_shapes(), sep="/").keys()
    assert len({rule.key for rule in rules.values()}) == len(rules)


@each_config
@pytest.mark.parametrize("dtype", [np.float32, np.float16, jnp.bfloat16])
def test_way_there_and_back_is_exact(config, dtype):
    params = random_params(config, dtype)
    tensors = hf_params.to_tensors(
        config, jax.tree.map(from_array, params), hf_params.KeyLayout(), {}
    )
    _, again, layout = hf_params.to_params(config, tensors)
    assert layout == hf_params.KeyLayout()
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b.read()), params, again)


def test_kernels_are_transposed_and_tables_are_not():
    tensors = random_tensors(LLAMA)
    _, params, _ = hf_params.to_params(LLAMA, lazy(tensors))
    gate = tensors["model.layers.1.mlp.gate_proj.weight"]
    assert gate.shape == (24, 16)
    np.testing.assert_array_equal(params["layer_1"]["gate"]["kernel"].read(), gate.T)
    table = tensors["model.embed_tokens.weight"]
    np.testing.assert_array_equal(params["embed"]["table"].read(), table)


@pytest.mark.parametrize("config", [LLAMA_TIED, OPT], ids=["llama", "opt"])
def test_bare_export_with_tied_head(config):
    tensors = {key.removeprefix("model."): x for key, x in random_tensors(config).items()}
    table = next(key for key in tensors if "embed_tokens" in key)
    tensors["lm_head.weight"] = tensors[table]
    _, params, layout = hf_params.to_params(config, lazy(tensors))
    assert layout == hf_params.KeyLayout(bare=True, tied=("lm_head.weight",))
    again = hf_params.to_tensors(config, params, layout, {})
    assert again.keys() == tensors.keys()
    for key, tensor in again.items():
        np.testing.assert_array_equal(tensor.read(), tensors[key])


def test_tied_head_with_other_values():
    tensors = random_tensors(OPT)
    tensors["lm_head.weight"] = tensors["model.decoder.embed_tokens.weight"].copy()
    tensors["lm_head.weight"][3, 5] += 1
    text = message(hf_params.to_params, OPT, lazy(tensors))
    assert text.startswith("x.safetensors: lm_head.weight: differs from x.safetensors: model.dec")
    assert "tie_word_embeddings=false" in text


@pytest.mark.parametrize("bare", [False, True])
def test_rotary_buffers_are_set_aside(bare):
    tensors = random_tensors(LLAMA_TIED)
    for i in range(2):
        tensors[f"model.layers.{i}.self_attn.rotary_emb.inv_freq"] = np.ones(3, np.float64)
    if bare:
        tensors = {key.removeprefix("model."): x for key, x in tensors.items()}
    opened = lazy(tensors)
    _, params, layout = hf_params.to_params(LLAMA_TIED, opened)
    assert layout.ignored == tuple(sorted(key for key in tensors if "inv_freq" in key))
    ignored = {key: opened[key] for key in layout.ignored}
    again = hf_params.to_tensors(LLAMA_TIED, params, layout, ignored)
    assert again.keys() == tensors.keys()


def test_left_over_and_missing_keys_are_both_listed():
    tensors = random_tensors(LLAMA)
    tensors["model.layers.0.mlp.gate_proj.scales"] = np.ones(3, np.float32)
    tensors |= {f"extra.{i}": np.ones(1, np.float32) for i in range(20)}
    del tensors["model.norm.weight"]
    text = message(hf_params.to_params, LLAMA, lazy(tensors))
    assert "unused keys: extra.0, extra.1" in text and "and 15 more" in text
    assert "missing parameters: final_norm/scale (model.norm.weight)" in text


def test_head_is_missing_when_untied():
    tensors = random_tensors(LLAMA)
    del tensors["lm_head.weight"]
    text = message(hf_params.to_params, LLAMA, lazy(tensors))
    assert text.endswith("unused keys: none; missing parameters: head/kernel (lm_head.weight)")


def test_wrong_shape_and_dtype():
    key = "model.layers.1.self_attn.k_proj.weight"
    tensors = random_tensors(LLAMA)
    tensors[key] = np.zeros((16, 8), np.float32)
    text = message(hf_params.to_params, LLAMA, lazy(tensors))
    assert text == f"x.safetensors: {key}: shape [16, 8], config.json wants [8, 16]"
    tensors[key] = np.zeros((8, 16), np.int8)
    text = message(hf_params.to_params, LLAMA, lazy(tensors))
    assert text == (
        f"x.safetensors: {key}: dtype int8 is not one of ['bfloat16', 'float16', 'float32']"
    )


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (
            {"model_type": "gpt2"},
            "model_type=\"gpt2\" is not supported: use one of ['gemma2', 'gemma3', 'gemma3_te",
        ),
        ({"model_type": None}, "model_type=null is not supported"),
        ({"model_type": ["llama"]}, 'model_type=["llama"] is not supported'),
        ({"rope_scaling": {"rope_type": "su", "factor": 2.0}}, 'rope type "su" is not supported: '),
        ({"rope_scaling": "linear"}, 'rope_scaling="linear" must be an object'),
        ({"rope_parameters": [1]}, "rope_parameters=[1] must be an object"),
        ({"hidden_act": "gelu"}, 'hidden_act="gelu" must be one of silu, swish'),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5 is not supported: only 1.0 is"),
        ({"quantization_config": {"bits": 4}}, 'quantization_config={"bits": 4} is not supported'),
        ({"hidden_size": "wide"}, "config.json: "),
        ({"num_attention_heads": 0, "num_key_value_heads": 0}, "config.json: "),
    ],
)
def test_unsupported_config(change, wanted):
    text = message(families.model_of, LLAMA | change)
    assert text.startswith("config.json: ") and wanted in text


def test_missing_setting():
    config = {name: value for name, value in LLAMA.items() if name != "hidden_size"}
    assert message(families.model_of, config) == (
        "config.json: setting 'hidden_size' is missing: it must be a whole number from 1 to 1048576"
    )


def test_params_of_another_model():
    params = jax.tree.map(from_array, random_params(LLAMA))
    text = message(hf_params.to_tensors, LLAMA_TIED, params, hf_params.KeyLayout(), {})
    assert "unknown: head/kernel; missing: layer_0/down/bias" in text and "more" in text
    wider = LLAMA | {"intermediate_size": 32}
    text = message(hf_params.to_tensors, wider, params, hf_params.KeyLayout(), {})
    assert text == "parameter layer_0/down/kernel: shape [24, 16], config.json wants [32, 16]"
