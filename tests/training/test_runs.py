"""Runs with losses of drafted blocks stop and go on, lie on a mesh, and go on from other models."""

import json
import math
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_pair import write_llama
from tiny_tokenizers import sentencepiece_folder

from configs import train_draft
from experiments import own_answers, train
from experiments.training import data as train_data
from experiments.training.export import build_model
from experiments.training.loop import Trainer
from mtad_jax import Pipeline, recipes
from mtad_jax.checkpoints import load as checkpoint
from mtad_jax.devices.sharding import make_mesh, parse_mesh
from mtad_jax.models.protocol import BoundLM

pytestmark = pytest.mark.slow

VOCAB, ROWS = 400, 416  # of the tokenizer, and of the target's table
MODEL = {
    "vocab_size": VOCAB, "embed_dim": 16, "mlp_dim": 32, "num_layers": 1, "num_heads": 2,
    "num_kv_heads": 2, "head_dim": 8, "max_positions": 64,
}  # fmt: skip
BLOCK = {"depth": 2, "width": 2, "anchors": 3}
LOSSES = (("kl", 0.5), ("block", 0.5), ("drafted_reverse_kl", 0.25))
SETTINGS = {
    "induction": False, "rates": ((0, 0.0), (2, 1e-2), (6, 1e-3)), "log_every": 3, "save_every": 3,
    "losses": LOSSES, "held_out": ("own",),
}  # fmt: skip


def recipe(steps, **changes):
    config = train_draft.get_config()
    config.model.update(MODEL)
    config.block.update(BLOCK)
    config.update(SETTINGS | changes)
    config.phases = ((steps, 4, 24),)
    return config


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Prompts and answers of random tokens."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for name, count in (("train", 80), ("val_own", 10)):
        answers = [
            own_answers.Answer([1, 5 + i], [*rng.integers(3, VOCAB, 3 + i % 7).tolist(), 2])
            for i in range(count)
        ]
        train_data.save(folder, name, own_answers.to_corpus(answers))
    return folder


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """A Hugging Face Llama whose table has more rows than its tokenizer has tokens."""
    folder = tmp_path_factory.mktemp("hf")
    tokenizer = sentencepiece_folder(folder / "tokenizer")
    return checkpoint.load(write_llama(folder / "target", 0, ROWS, tokenizer=tokenizer))


def trained(config, data, output, target, mesh="data:1", first=None):
    count = math.prod(parse_mesh(mesh).values())
    mesh = make_mesh(mesh, jax.devices()[:count])
    trainer = Trainer(config, data, output, target.lm, lambda line: None, mesh, first=first)
    trainer.train()
    found = trainer.evaluate()["own"]
    trainer.close()
    return trainer.state, found


def test_a_run_that_was_stopped_ends_as_one_that_was_not(data, target, tmp_path):
    """Blocks are drawn by the step, so that each is drafted after the same places again."""
    whole, found = trained(recipe(6), data, tmp_path / "whole", target)
    trained(recipe(3), data, tmp_path / "cut", target)
    resumed, again = trained(recipe(6), data, tmp_path / "cut", target)
    assert found == again and found["accepted"] >= 0
    jax.tree.map(np.testing.assert_array_equal, resumed.params, whole.params)
    jax.tree.map(np.testing.assert_array_equal, resumed.opt_state, whole.opt_state)


def test_a_mesh_changes_only_where_things_lie(data, target, tmp_path):
    one, found = trained(recipe(3), data, tmp_path / "one", target)
    many, split = trained(recipe(3), data, tmp_path / "many", target, "data:2,fsdp:2,model:2")
    for name, number in found.items():
        assert split[name] == pytest.approx(number, rel=2e-3), name
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), one.params, many.params)


def test_it_goes_on_from_another_model(data, target, tmp_path):
    model = build_model(recipe(1).model)
    first = BoundLM(model.init(jax.random.key(7)), model)
    state, _ = trained(recipe(0, init_from="there"), data, tmp_path / "a", target, first=first)
    jax.tree.map(np.testing.assert_array_equal, state.params, first.params)
    cases = [
        ({"init_layers": (0,)}, r"config.init_layers means nothing beside .*: set .* to \(\)"),
        ({"induction": True}, "config.induction means nothing beside .*: set .* to False"),
    ]
    for change, message in cases:
        config = recipe(1, init_from="there", **change)
        with pytest.raises(ValueError, match=message):
            Trainer(config, data, tmp_path / "b", target.lm, print, first=first)
    config = recipe(1, init_from="there")
    config.model.mlp_dim = 48
    with pytest.raises(ValueError, match="config.init_from=there has another shape"):
        Trainer(config, data, tmp_path / "b", target.lm, print, first=first)


def command(data, output, loss, *more):
    tiny = [f"--config.model.{name}={value}" for name, value in MODEL.items()]
    tiny += [f"--config.block.{name}={value}" for name, value in BLOCK.items()]
    settings = SETTINGS | {"phases": ((2, 4, 24),), "losses": ((loss, 1.0),)}
    tiny += [f"--config.{name}={value}" for name, value in settings.items()]
    where = [f"--data_dir={data}", f"--output={output}", "--mesh=data:1"]
    return ["--config=configs/train_draft.py", *where, *tiny, *more]


def run(*arguments):
    root = Path(train.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.train", *arguments], cwd=root,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.heavy
def test_any_hugging_face_target_teaches_a_draft_of_any_shape(data, target, tmp_path):
    """Without a tokenizer in the data, and with a padded table; then another loss goes on."""
    teacher, kl, tv = f"--target={target.folder}", tmp_path / "kl", tmp_path / "tv"
    run(*command(data, kl, "kl", teacher))
    config = json.loads((kl / "export/config.json").read_text())
    assert (config["vocab_size"], config["eos_token_id"]) == (VOCAB, 2)
    run(*command(data, tv, "tv", teacher, f"--config.init_from={kl / 'export'}"))
    pipe = Pipeline.load(target.folder, tv / "export")
    [row] = pipe([[1, 5, 6]], strategy=recipes.mtad(depth=2, width=2), max_new_tokens=8)
    assert row.tokens


def test_data_of_another_tokenizer_is_refused(data, target, tmp_path):
    other = sentencepiece_folder(tmp_path / "other")
    (other / "tokenizer.model").write_bytes(b"another")
    with pytest.raises(ValueError, match="is another tokenizer than the target's: build the data"):
        train.check_tokenizer(other, target)
    train.check_tokenizer(data, target)
    train.check_tokenizer(other, None)
