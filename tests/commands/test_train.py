import dataclasses
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from tiny_tokenizers import sentencepiece_folder

from configs import train_draft, train_target
from experiments import train
from experiments.training import data as train_data
from experiments.training import export as train_export
from experiments.training import step as train_step
from experiments.training.data import Corpus, Phase
from experiments.training.induction import check_room, with_induction
from experiments.training.loop import Trainer
from experiments.training.objective import read_objective
from mtad_jax import cli
from mtad_jax.checkpoints import load as checkpoint
from mtad_jax.checkpoints.hf.configs import llama_config
from mtad_jax.devices.sharding import make_mesh, parse_mesh
from mtad_jax.models.protocol import BoundLM

pytestmark = pytest.mark.slow

HELD_OUT = train_target.get_config().held_out
VOCAB = 400  # sentencepiece_folder's
MODEL = {
    "vocab_size": VOCAB,
    "embed_dim": 16,
    "mlp_dim": 32,
    "num_layers": 1,
    "num_heads": 2,
    "num_kv_heads": 1,
    "head_dim": 8,
    "max_positions": 64,
}
RATES = ((0, 0.0), (2, 3e-2), (20, 3e-2), (24, 1e-3))
SETTINGS = {"induction": False, "rates": RATES, "log_every": 4, "save_every": 4}


def recipe(module=train_target, phases=((24, 4, 16),), **changes):
    config = module.get_config()
    config.model.update(MODEL)
    config.update(SETTINGS | changes)
    config.phases = phases
    return config


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A corpus that repeats a few random phrases, so that there is something to learn."""
    folder = sentencepiece_folder(tmp_path_factory.mktemp("data") / "tiny")
    rng = np.random.default_rng(0)
    phrases = rng.integers(3, VOCAB, (4, 12))
    for name, count in {"train": 200, "val_stories": 20, "val_sql": 20}.items():
        tokens = phrases[rng.integers(0, 4, count)].ravel().astype(np.uint16)
        np.save(folder / f"{name}.npy", tokens)
    return folder


def trained(config, data, output, target=None, mesh="data:1"):
    lines, count = [], math.prod(parse_mesh(mesh).values())
    mesh = make_mesh(mesh, jax.devices()[:count])
    trainer = Trainer(config, data, output, target, lines.append, mesh)
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    trainer.close()
    return trainer, before, after, lines


def documents_of(lengths):
    """A corpus of documents of these lengths, each after BOS a number of its own."""
    texts = [[train_export.BOS, *[10 + i] * (n - 1)] for i, n in enumerate(lengths)]
    tokens = np.concatenate(texts)
    return Corpus(tokens, tokens % 2 == 1)


def test_every_document_is_in_one_row_a_pass():
    lengths = [int(n) for n in np.random.default_rng(0).integers(2, 17, 100)] + [40]
    corpus = documents_of(lengths)
    rows = corpus.rows(17, np.random.default_rng(1))
    assert all(np.diff(pieces).sum() <= 17 for pieces in rows)
    pieces = np.concatenate(rows)
    order = np.argsort(pieces[:, 0])
    np.testing.assert_array_equal(
        pieces[order][1:, 0], pieces[order][:-1, 1]
    )  # none lost, none twice
    assert set(corpus.starts[:-1]) <= set(pieces[:, 0])  # cut only where one is too long
    assert len(pieces) - len(lengths) in (2, 3)
    assert len(rows) < 1.15 * len(corpus) / 17


def test_a_batch_depends_on_the_seed_and_the_step_alone():
    corpus = documents_of([9] * 100)
    phases = (Phase(3, 2, 8), Phase(100, 4, 18))
    schedule = train_data.Schedule(corpus, phases, 0)
    batches = [schedule.at(step) for step in range(40)]
    assert [length for _, length in batches[2:4]] == [9, 19]
    for step in (30, 5):
        again = train_data.Schedule(corpus, phases, 0).at(step)[0]
        np.testing.assert_array_equal(again, batches[step][0])
    other = train_data.Schedule(corpus, phases, 1).at(5)[0]
    assert not np.array_equal(other, batches[5][0])
    one_pass = np.concatenate([row for rows, _ in batches[3 : 3 + 11] for row in rows])
    assert len(set(one_pass[:, 0])) == len(one_pass) == 88


def test_documents_of_a_row_do_not_see_each_other():
    """The logits of each are those that it has alone."""
    corpus = documents_of([5, 7, 3])
    model = train_export.build_model(recipe().model)
    params = model.init(jax.random.key(0))
    rows = [np.array([[0, 5], [5, 12]]), np.array([[12, 15]])]
    batch = corpus.batch(rows, 14, 0.5)
    got = model.train_logits(params, batch.tokens, batch.documents)
    for row, at, start, stop in ((0, 0, 0, 5), (0, 5, 5, 12), (1, 0, 12, 15)):
        alone = model.train_logits(params, jnp.asarray(corpus.tokens[None, start:stop]))[0]
        np.testing.assert_allclose(got[row, at : at + stop - start], alone, atol=1e-5)
    weight = np.asarray(batch.weight)
    assert weight[0, 4] == 0 and not weight[0, 11:].any() and not weight[1, 2:].any()
    assert set(weight[0, :4]) == {0.5} and set(weight[0, 5:11]) == {1.0}


def test_induction_heads_copy_from_the_first_step(tmp_path):
    """Of random tokens that come twice, the first parameters foretell the second time."""
    config = train_draft.get_config()
    config.model.update(embed_dim=128, num_kv_heads=2)  # the wider, the surer
    model = train_export.build_model(config.model)
    plain = model.init(jax.random.key(0))
    tokens = np.random.default_rng(0).integers(3, 2048, (8, 30))
    tokens = np.concatenate([tokens, tokens], axis=1)
    found = {}
    for name, params in {
        "plain": plain,
        "induction": with_induction(plain, model.module.config, 0),
    }.items():
        best = np.asarray(model.train_logits(params, tokens)).argmax(-1)
        found[name] = (best[:, 30:-1] == tokens[:, 31:]).mean()
    assert found["plain"] < 0.02 and found["induction"] > 0.3
    shape = model.module.config
    for change, message in (
        ({"tied_head": False}, "config.model.tied_head=True"),
        ({"rope_theta": 10.0}, "config.model.rope_theta=10 leaves none"),
        ({"num_heads": 2}, "config.model.num_heads >= 3, not 2"),
    ):
        with pytest.raises(ValueError, match=message):
            check_room(dataclasses.replace(shape, **change))
    config = recipe(induction=True)
    with pytest.raises(ValueError, match="config.model.num_layers >= 2, not 1: enlarge"):
        Trainer(config, tmp_path, tmp_path / "out", None, print)


def test_a_shape_that_cannot_be_written_is_refused_before_training():
    with pytest.raises(ValueError, match="num_attention_heads=3 must divide hidden_size=32"):
        train_export.build_model({**recipe().model, "embed_dim": 32, "num_heads": 3})


def test_only_answers_count_where_questions_weigh_nothing(data):
    """The metrics of a step are means of the answers' tokens alone."""
    config = recipe()
    model = train_export.build_model(config.model)
    params = model.init(jax.random.key(0))
    corpus = train_data.load(data, "train")
    assert corpus.answers.all()  # no file says otherwise
    answers = np.arange(len(corpus)) % 5 > 2
    rows = train_data.Schedule(corpus, (Phase(1, 4, 16),), 0).at(0)[0]
    batch = Corpus(corpus.tokens, answers).batch(rows, 17, 0.0)
    objective = read_objective(config, model.vocab_size, None, ())
    got = train_step.make_eval(model, objective)(params, batch)["cross_entropy"]
    logp = np.asarray(jax.nn.log_softmax(model.train_logits(params, batch.tokens[:, :-1])))
    counted = np.asarray(batch.weight) > 0
    picked = np.take_along_axis(logp, np.asarray(batch.tokens)[:, 1:, None], axis=-1)[..., 0]
    assert 0 < counted.sum() < 0.5 * counted.size
    assert got == pytest.approx(-picked[counted].mean(), rel=1e-5)
    half = Corpus(corpus.tokens, answers).batch(rows, 17, 0.25)
    np.testing.assert_array_equal(half.weight == 1.0, counted)
    assert set(half.weight.ravel().tolist()) <= {0.0, 0.25, 1.0}


def test_a_mask_of_another_length_is_refused(data, tmp_path):
    for file in data.glob("*.npy"):
        np.save(tmp_path / file.name, np.load(file))
    np.save(tmp_path / "train_answers.npy", np.ones(3, bool))
    with pytest.raises(
        ValueError, match="train_answers.npy: 3 tokens, .*train.npy has 2400: build"
    ):
        train_data.load(tmp_path, "train")


def test_loss_falls(data, tmp_path):
    _, before, after, lines = trained(recipe(), data, tmp_path)
    for name in HELD_OUT:
        assert after[name]["cross_entropy"] < 0.7 * before[name]["cross_entropy"]
    assert lines[2].startswith("step 4/24 cross_entropy ")


def test_a_mesh_changes_only_where_things_lie(data, tmp_path):
    runs = {}
    for mesh in ("data:1", "data:2,fsdp:2,model:2"):
        config = recipe(phases=((3, 4, 16),))
        config.model.num_kv_heads = 2
        trainer, *_, after, _ = trained(config, data, tmp_path / mesh[-1] / "run", mesh=mesh)
        runs[mesh] = trainer.state, after
    (one, losses), (many, split_losses) = runs.values()
    for name in HELD_OUT:
        assert losses[name] == pytest.approx(split_losses[name], rel=1e-4)
    split = 0
    for tree in (many.params, many.opt_state):
        for leaf in jax.tree.leaves(tree):
            split += leaf.ndim == 2 and leaf.addressable_shards[0].data.size * 4 == leaf.size
    assert split == 3 * sum(leaf.ndim == 2 for leaf in jax.tree.leaves(one.params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), one.params, many.params)


def test_distillation_brings_the_draft_to_the_target(data, tmp_path):
    teacher, *_ = trained(recipe(), data, tmp_path / "target")
    target = BoundLM(teacher.state.params, teacher.model)
    config = recipe(train_draft, seed=1)
    _, before, after, _ = trained(config, data, tmp_path / "draft", target)
    for name in HELD_OUT:
        assert after[name]["kl"] < 0.5 * before[name]["kl"]
        assert after[name]["overlap"] > before[name]["overlap"]


def test_export_is_the_model_in_bfloat16(data, tmp_path):
    model = train_export.build_model(recipe().model)
    config = model.module.config
    hf = train_export.hf_config(config)
    assert llama_config(hf) == config
    params = model.init(jax.random.key(0))
    train_export.export(tmp_path, params, hf, data)
    loaded = checkpoint.load(tmp_path, dtype=jnp.bfloat16)
    assert (loaded.lm.model, loaded.bos_id, loaded.eos_ids) == (model, 1, (2,))
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    jax.tree.map(np.testing.assert_array_equal, loaded.lm.params, rounded)


def command(data, output, *more):
    tiny = [f"--config.model.{name}={value}" for name, value in MODEL.items()]
    tiny += [f"--config.{name}={value}" for name, value in SETTINGS.items()]
    phases = "--config.phases=((20,4,16),(4,2,32))"
    where = ["--config=configs/train_target.py", f"--data_dir={data}", f"--output={output}"]
    return [*where, phases, *tiny, *more]


KILLED = """
import os, signal
from experiments import train
from experiments.training import data as train_data
from mtad_jax import cli

at = train_data.Schedule.at

def killing(schedule, step):
    if step == 14:
        os.kill(os.getpid(), signal.SIGKILL)
    return at(schedule, step)

train_data.Schedule.at = killing
cli.run(train.main)
"""


def program(*arguments):
    root = Path(train.__file__).parents[1]
    return subprocess.run(
        [sys.executable, *arguments], cwd=root, env=os.environ, capture_output=True, text=True
    )


@pytest.mark.heavy
def test_a_killed_run_resumes_bit_for_bit(data, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    done = program("-m", "experiments.train", *command(data, whole))
    assert done.returncode == 0, done.stderr
    killed = program("-c", KILLED, *command(data, cut))
    assert killed.returncode == -signal.SIGKILL
    assert not (cut / "export").exists()
    resumed = program("-m", "experiments.train", *command(data, cut, "--resume"))
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed from step" in resumed.stdout
    assert final_state(cut, data) == final_state(whole, data)
    for name in ("export/model.safetensors", "metrics.json", "recipe.json"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()


def final_state(output, data):
    """The last checkpoint's f32 parameters and optimizer state, as bytes."""
    config = recipe(phases=((20, 4, 16), (4, 2, 32)))
    mesh = make_mesh("data:1", jax.devices()[:1])
    trainer = Trainer(config, data, output, None, lambda line: None, mesh)
    trainer.train()
    trainer.close()
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(trainer.state)]


def fails(capsys, monkeypatch, arguments):
    monkeypatch.setattr(sys, "argv", ["train", *arguments])  # config_flags looks for itself there
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as stop:
        cli.run(train.main)
    flags.FLAGS.unparse_flags()
    assert stop.value.code == 1
    return capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # ml_collections 1.1
def test_wrong_input_is_one_line(capsys, monkeypatch, data, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.json").write_text(recipe().to_json())
    taught, fresh = shutil.copytree(run, tmp_path / "taught"), tmp_path / "fresh"
    (taught / "target.json").write_text('{"digest": "abc"}')
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").touch()
    draft = "--config=configs/train_draft.py"
    cases = {
        "--data_dir is missing": ["--config=configs/train_target.py"],
        "build it with python -m experiments.corpus": command(tmp_path, tmp_path / "x"),
        "give --resume": command(data, run),
        "of digest abc, and --target's is None: give the same --target": command(
            data, taught, "--resume"
        ),
        "config.log_every=0 must be >= 1": command(data, fresh, "--config.log_every=0"),
        "config.eval_every=0 must be >= 1": command(data, fresh, "--config.eval_every=0"),
        "config.phases: rows=0 of (1, 0, 16) must be >= 1": command(
            data, fresh, "--config.phases=((1,0,16),)"
        ),
        "other settings of seed": command(data, run, "--resume", "--config.seed=9"),
        "holds no run": command(data, other),
        "there is no loss 'kll': use cross_entropy, kl,": command(
            data, tmp_path / "x", "--config.losses=(('kll',1.0),)"
        ),
        "--target goes with": [draft, *command(data, tmp_path / "x")[1:]],
        "fewer than a batch": command(
            data, tmp_path / "x", "--config.phases=((1,4000,16),)", "--mesh=fsdp:8"
        ),
        "do not split over the mesh's data:8": command(data, tmp_path / "x"),
        "for 4 devices, but there are 8": command(data, tmp_path / "x", "--mesh=data:4"),
        "training repeats no heads": command(data, tmp_path / "x", "--mesh=data:4,model:2"),
    }
    for message, arguments in cases.items():
        error = fails(capsys, monkeypatch, arguments)
        assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert not fresh.exists()


def test_a_run_goes_on_with_the_target_that_it_began_with(tmp_path):
    """Whatever folder it lies in now; runs of before do not say theirs."""
    config = recipe()
    (tmp_path / "recipe.json").write_text(config.to_json())
    train.check_output(tmp_path, config, True, "abc")
    (tmp_path / "target.json").write_text('{"digest": "abc"}')
    train.check_output(tmp_path, config, True, "abc")
    with pytest.raises(ValueError, match="target of digest abc, and --target's is def: give the"):
        train.check_output(tmp_path, config, True, "def")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"save_every": 0}, "config.save_every=0 must be >= 1"),
        ({"eval_rows": -1}, "config.eval_rows=-1 must be >= 1"),
        ({"phases": ()}, "config.phases is empty"),
        ({"phases": ((1, 4, 16), (1, 4, 0))}, r"length=0 of \(1, 4, 0\) must be >= 1"),
    ],
)
def test_counts_of_a_recipe_that_cannot_be(data, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        Trainer(recipe(**change), data, tmp_path / "run", None, print)
    assert not (tmp_path / "run").exists()
