"""Early exit: a target's first layers as a model of their own, with the target's own arrays."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hf_folders import CONFIGS, GEMMA3, random_params, random_tensors, write_folder

from mtad_jax import BoundLM, Pipeline, generate, recipes
from mtad_jax.checkpoints.hf.families import model_of
from mtad_jax.decode.warp import Warp
from mtad_jax.models.early_exit import cut_layers, early_exit
from mtad_jax.testing import table_lm, tiny_pair

TOKENS = np.random.default_rng(0).integers(3, 40, (2, 9))
# Of OPT-350m the norms come after a layer: one that adds nothing still changes the stream.
PRE_NORM = sorted(CONFIGS.keys() - {"opt_350m"})


def model(name: str, layers: int = 3) -> BoundLM:
    config = CONFIGS[name] | {"num_hidden_layers": layers}
    params = jax.tree.map(lambda x: 0.3 * jnp.asarray(x), random_params(config))
    return BoundLM(params, model_of(config), 39)


def logits(lm: BoundLM):
    return lm.model.train_logits(lm.params, TOKENS)


@pytest.mark.slow
@pytest.mark.parametrize("name", PRE_NORM)
def test_it_is_the_target_whose_other_layers_add_nothing(name):
    lm = model(name)
    silent = dict(lm.params)
    for layer in ("layer_1", "layer_2"):
        outs = {part: jax.tree.map(jnp.zeros_like, silent[layer][part]) for part in ("o", "down")}
        silent[layer] = silent[layer] | outs
    want = logits(dataclasses.replace(lm, params=silent))
    np.testing.assert_allclose(logits(early_exit(lm, 1)), want, atol=1e-6)
    assert np.abs(logits(early_exit(lm, 1)) - logits(early_exit(lm, 2))).max() > 0.01


def test_it_is_a_small_model_of_the_family():
    lm = model("opt_350m")
    small = dataclasses.replace(early_exit(lm, 2), model=model("opt_350m", 2).model)
    np.testing.assert_array_equal(logits(early_exit(lm, 2)), logits(small))
    assert early_exit(lm, 2).model == small.model and early_exit(lm, 2).vocab_size == 39


@pytest.mark.parametrize("int8", ["", "weights,kv"])
def test_no_array_is_copied(int8):
    lm = model("llama").quantized(int8)
    small = early_exit(lm, 2)
    assert small.params.keys() == lm.params.keys() - {"layer_2"}
    assert small.model.int8 == lm.model.int8 and small.dtype == lm.dtype
    for name, tree in small.params.items():
        pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(lm.params[name]), strict=True)
        assert all(mine is theirs for mine, theirs in pairs)
    assert len(small.model.init_cache(1, 4, lm.dtype)) == 2


def test_layers_are_taken_in_any_order():
    lm = model("llama")
    small = cut_layers(lm, (2, 0))
    assert small.params["layer_0"] is lm.params["layer_2"]
    assert small.params["layer_1"] is lm.params["layer_0"] and small.model.config.num_layers == 2


@pytest.mark.slow
def test_a_draft_whose_target_adds_nothing_is_accepted_whole():
    target = tiny_pair()[0]
    outs = {part: jax.tree.map(jnp.zeros_like, target.params["layer_1"][part])
            for part in ("o", "down")}  # fmt: skip
    params = target.params | {"layer_1": target.params["layer_1"] | outs}
    target = dataclasses.replace(target, params=params)
    result = generate(
        target, [[1, 2], [3, 4]], [2, 2], strategy=recipes.speculative(3),
        draft=early_exit(target, 1), max_new_tokens=12, warp=Warp(1.0, 0.9, 8),
    )  # fmt: skip
    stats = result.stats()
    np.testing.assert_array_equal(stats.accepted, stats.drafted)
    assert stats.drafted.min() == 9


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda lm: early_exit(lm, 0), "early_exit=0: the model has 3 layers"),
        (lambda lm: early_exit(lm, 3), "early_exit=3: the model has 3 layers"),
        (lambda lm: cut_layers(lm, (0, 3)), r"layers=\(0, 3\): the model has layers 0 to 2"),
        (lambda lm: cut_layers(lm, (-1,)), r"layers=\(-1,\): the model has layers 0 to 2"),
        (lambda lm: early_exit(table_lm(np.zeros((3, 4))), 1), "not of a TableLM: give a draft"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call(model("llama"))
    assert "\n" not in str(error.value)


def test_folders_are_opened_once(tmp_path):
    """The draft's `config.json` says what it is, lists of layers included."""
    config = GEMMA3 | {"num_hidden_layers": 3}
    config |= {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
    folder = write_folder(tmp_path / "x", config, random_tensors(config))
    pipe = Pipeline.load(folder, "early_exit:2", target_int8="kv")
    assert pipe.draft is not None
    assert pipe.draft.lm.params["embed"] is pipe.target.lm.params["embed"]
    assert pipe.draft.config["num_hidden_layers"] == 2 == len(pipe.draft.config["layer_types"])
    assert pipe.draft.lm.model.int8 == {"kv"}
    assert model_of(pipe.draft.config).param_shapes() == jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), pipe.draft.lm.params
    )
    for how, message in (
        ({"draft": "early_exit:3"}, "early_exit=3: the model has 3 layers"),
        ({"draft": "early_exit:"}, "draft=early_exit:: write a number of layers"),
        ({"draft": "early_exit:1", "draft_int8": "kv"}, "draft_int8='kv' means nothing to draft="),
        ({"draft": "early_exit:1", "shard_draft": True}, "shard_draft=True means nothing to"),
    ):
        with pytest.raises(ValueError, match=message):
            Pipeline.load(folder, **how)


def test_the_shipped_target_drafts_for_itself():
    pipe = Pipeline.shipped(draft="early_exit:2")
    assert pipe.draft is not None and pipe.draft.lm.model.config.num_layers == 2
    assert pipe.draft.lm.params["layer_1"] is pipe.target.lm.params["layer_1"]
    with pytest.raises(ValueError, match="draft=there must be early_exit:N"):
        Pipeline.shipped(draft="there")
