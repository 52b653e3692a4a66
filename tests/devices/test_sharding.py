"""Meshes, rules, and models laid out on them; what does not fit is refused in one line."""

import dataclasses
import re

import jax
import numpy as np
import pytest
import sharded
from jax.sharding import PartitionSpec as P

from mtad_jax import generate, recipes, stream
from mtad_jax.decode.checks import check_rows
from mtad_jax.devices.sharding import Rules, make_mesh, parse_mesh

pytestmark = pytest.mark.slow


def refused(message: str):
    return pytest.raises(ValueError, match=re.escape(message))


def test_a_mesh_is_read_from_text():
    assert parse_mesh("data:2,model:4") == {"data": 2, "fsdp": 1, "model": 4}
    assert parse_mesh(" model:8 ") == {"data": 1, "fsdp": 1, "model": 8}
    mesh = make_mesh("data:2,model:4")
    assert dict(mesh.shape) == {"data": 2, "fsdp": 1, "model": 4}
    assert mesh.devices.ravel().tolist() == jax.devices(), "model is innermost"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model", "'model' is no axis:size: write e.g. data:1,model:4"),
        ("model:4,", "'' is no axis:size"),
        ("model:-4", "'model:-4' is no axis:size"),
        ("model:2,model:4", "axis model comes twice"),
        ("tensor:4", "mesh axis 'tensor' is unknown: use data, fsdp, model"),
        ("model:0", "mesh axis model:0 must be >= 1"),
        (
            "model:4",
            "mesh=model:4 is for 4 devices, but there are 8: give sizes whose",
        ),
        ("data:4,model:4", "mesh=data:4,model:4 is for 16 devices, but there are 8"),
    ],
)
def test_a_wrong_mesh_is_refused(text, message):
    with refused(message):
        make_mesh(text)


def test_rules_never_split_two_dimensions_over_one_axis():
    rules = Rules((("heads", ("model",)), ("mlp", ("model",)), ("embed", ("fsdp",))))
    assert rules.spec(("embed", "heads")) == P(("fsdp",), ("model",))
    assert rules.spec((None, "slots")) == P(None, None)
    with refused("two of the axes ('heads', 'mlp') on one mesh axis"):
        rules.spec(("heads", "mlp"))


@pytest.mark.parametrize(
    ("shape", "changes", "message"),
    [
        (
            "model:8",
            {"num_heads": 6, "num_kv_heads": 6},
            "model:8 does not divide num_heads=6:",
        ),
        (
            "model:8",
            {"mlp_dim": 100},
            "divide mlp_dim=100: use one of model:1,2,4",
        ),
        ("fsdp:8", {"embed_dim": 60}, "mesh axis fsdp:8 does not divide embed_dim=60"),
        (
            "model:8",
            {"num_heads": 24, "num_kv_heads": 3},
            "model:8 and num_kv_heads=3: one must divide the other: use model:3",
        ),
    ],
)
def test_dimensions_that_do_not_divide_are_refused(shape, changes, message):
    model = sharded.pair()[0].model
    config = dataclasses.replace(model.config, **changes)
    model = dataclasses.replace(model, module=model.module.clone(config=config))
    with refused(message):
        model.on(make_mesh(shape))
    model.on(make_mesh(shape), replicated=True)  # is never split


def test_a_model_is_laid_out_once_on_a_mesh_of_ours():
    model = sharded.pair()[0].model
    with refused("the model is on a mesh already"):
        model.on(make_mesh("model:8")).on(make_mesh("model:8"))
    with refused("the model is on no mesh: call on(make_mesh(...)) first"):
        model.param_shardings()
    foreign = jax.make_mesh((8,), ("x",))
    with refused("mesh axes ('x',) are not ('data', 'fsdp', 'model'): make it by"):
        model.on(foreign)
    with refused("mesh axes ('x',) are not"):
        check_rows(8, foreign)


def test_every_parameter_is_split_as_the_axes_say():
    target, draft = sharded.pair()
    laid_out = sharded.on_mesh(target, "fsdp:2,model:4")
    config = target.model.config
    q = laid_out.params["layer_0"]["q"]["kernel"]
    down = laid_out.params["layer_0"]["down"]["kernel"]
    assert q.addressable_shards[0].data.shape == (config.embed_dim // 2, config.num_heads * 8 // 4)
    assert down.addressable_shards[0].data.shape == (config.mlp_dim // 4, config.embed_dim // 2)
    held = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(laid_out.params))
    total = sum(x.nbytes for x in jax.tree.leaves(target.params))
    assert held < total / 7, "nearly all is split over all eight"
    whole = sharded.on_mesh(draft, "fsdp:2,model:4", replicated=True)
    assert all(x.is_fully_replicated for x in jax.tree.leaves(whole.params))


def test_a_vocabulary_that_does_not_divide_stays_whole():
    model = sharded.pair()[0].model
    config = dataclasses.replace(model.config, vocab_size=65)
    model = dataclasses.replace(model, module=model.module.clone(config=config))
    shardings = model.on(make_mesh("model:8")).param_shardings()
    assert shardings["embed"]["table"].spec == P(None, ("fsdp",))
    assert shardings["layer_0"]["up"]["kernel"].spec == P(("fsdp",), ("model",))


def test_rows_that_do_not_divide_and_models_apart_are_refused():
    target, draft = sharded.pair()
    ids, length = np.ones((3, 2), int), np.array([2, 1, 2])
    on_two = sharded.on_mesh(target, "data:2,model:4")
    with refused("batch of 3 rows on mesh axis data:2: give a multiple of 2 rows"):
        generate(on_two, ids, length, strategy=recipes.sample(), max_new_tokens=4)
    with refused("the draft lies on no mesh, the target on mesh {'data': 2"):
        generate(
            on_two, ids[:2], length[:2], strategy=recipes.mtad(2, 2), draft=draft, max_new_tokens=4
        )


def test_a_split_draft_decodes_the_same():
    target, draft = sharded.pair()
    ids, length = np.arange(8).reshape(2, 4), np.array([4, 2])
    settings = {"strategy": recipes.mmtad(2, 2), "max_new_tokens": 8}
    want = generate(target, ids, length, draft=draft, **settings)
    shape = "fsdp:2,model:4"
    split = generate(
        sharded.on_mesh(target, shape), ids, length, draft=sharded.on_mesh(draft, shape), **settings
    )
    np.testing.assert_array_equal(split.tokens, want.tokens)


@pytest.mark.parametrize(
    ("shape", "strategy"), [("data:2,model:4", recipes.sample()), ("model:1", recipes.beam(2))]
)
def test_a_stream_on_a_mesh_compiles_once(shape, strategy, caplog):
    laid_out = sharded.on_mesh(sharded.pair()[0], shape)
    ids, length = np.arange(8).reshape(2, 4), np.array([4, 2])
    with jax.log_compiles():
        steps = list(stream(laid_out, ids, length, strategy=strategy, max_new_tokens=5))
    assert len(steps) >= 5
    programs = [text for text in caplog.messages if text.startswith("Compiling jit(run_rounds)")]
    assert len(programs) == 1
