"""A draft cut out of its target, trained on the target's own answers, from rows to export."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from tiny_pair import write_pair

from configs import train_smollm2_draft
from experiments import own_answers
from experiments.training import data as train_data
from experiments.training import student
from experiments.training.loop import Trainer
from mtad_jax import Pipeline, recipes
from mtad_jax.checkpoints import load as checkpoint
from mtad_jax.checkpoints.hf.families import model_of
from mtad_jax.checkpoints.hf.write import write_hf
from mtad_jax.devices.sharding import make_mesh

LAYERS = 4


def rows(count: int) -> list[dict]:
    """Rows as `experiments.generate` writes them, two answers a prompt, one of them cut short."""
    rng, out = np.random.default_rng(0), []
    for i in range(count):
        prompt = [1, 1, 3 + i % 300, 4]  # what is BOS elsewhere may come anywhere
        for sample in range(2):
            tokens = rng.integers(3, 9, 5 + sample).tolist() + [2] * (1 - sample)
            out.append({"prompt_ids": prompt, "tokens": tokens, "sample": sample, "text": ""})
    return out


def write_rows(path, found) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """A target of several layers, with a tokenizer."""
    folder = write_pair(tmp_path_factory.mktemp("pair"))[0]
    config = json.loads((folder / "config.json").read_text()) | {"num_hidden_layers": LAYERS}
    config |= {"tie_word_embeddings": True}
    write_hf(folder, model_of(config).init(jax.random.key(0)), config)
    return checkpoint.load(folder)


@pytest.fixture
def data(tmp_path):
    write_rows(tmp_path / "rows.jsonl", rows(60))
    train, held_out = own_answers.split(
        own_answers.read_answers(tmp_path / "rows.jsonl"), held_out=6, seed=0
    )
    for name, found in (("train", train), ("val_own", held_out)):
        train_data.save(tmp_path, name, own_answers.to_corpus(found))
    return tmp_path


def recipe(**changes):
    config = train_smollm2_draft.get_config()
    config.update({"init_layers": (0, 3), "log_every": 2, "save_every": 4} | changes)
    config.phases, config.rates = ((8, 4, 32),), ((0, 0.0), (2, 1e-2), (8, 1e-2))
    return config


def trainer(config, data, output, target, lines=None):
    log = (lines if lines is not None else []).append
    mesh = make_mesh("data:1", jax.devices()[:1])
    return Trainer(config, data, output, target and target.lm, log, mesh)


def test_documents_are_prompts_and_answers_and_no_prompt_is_in_both_parts(data):
    train, held_out = (train_data.load(data, name) for name in ("train", "val_own"))
    seen = []
    for corpus in (train, held_out):
        documents = [
            (corpus.tokens[a:b].tolist(), corpus.answers[a:b])
            for a, b in zip(corpus.starts[:-1], corpus.starts[1:], strict=True)
        ]
        assert all(tokens[:2] == [1, 1] and mask.tolist()[:5] == [False] * 4 + [True]
                   for tokens, mask in documents)  # fmt: skip
        seen.append({tuple(tokens[:4]) for tokens, _ in documents})
        assert len(documents) == 2 * len(seen[-1])
    assert [len(prompts) for prompts in seen] == [54, 6] and not seen[0] & seen[1]
    wanted = sorted(row["prompt_ids"] + row["tokens"] for row in rows(60))
    whole = [np.split(c.tokens, c.starts[1:-1]) for c in (train, held_out)]
    assert sorted(document.tolist() for part in whole for document in part) == wanted


@pytest.mark.slow
def test_a_draft_begins_with_layers_of_its_target(target):
    config = recipe()
    model = student.build_student(config, target.lm)
    params = student.first_params(config, model, target.lm)
    own, theirs = params, target.lm.params
    assert model.config.num_layers == 2 and model.vocab_size == target.lm.model.vocab_size
    pairs = [("embed", "embed"), ("final_norm", "final_norm"), ("layer_0", "layer_0"),
             ("layer_1", "layer_3")]  # fmt: skip
    assert sorted(own) == sorted(name for name, _ in pairs)
    for mine, other in pairs:
        jax.tree.map(np.testing.assert_array_equal, own[mine], theirs[other])
    whole = recipe(init_layers=tuple(range(LAYERS)))
    model = student.build_student(whole, target.lm)
    tokens = np.arange(3, 13)[None]
    np.testing.assert_array_equal(
        model.train_logits(student.first_params(whole, model, target.lm), tokens),
        target.lm.model.train_logits(target.lm.params, tokens),
    )


@pytest.mark.slow
def test_what_cannot_be_cut_or_frozen_is_refused(target, data, tmp_path):
    cases = [
        (
            {"init_layers": (0, 4)},
            target,
            r"init_layers: layers=\(0, 4\): the model has layers 0 to 3",
        ),
        ({"init_layers": (0, 1)}, None, "give --target=DIR"),
        ({"induction": True}, target, "config.induction means nothing beside"),
        ({"frozen": ("head",)}, target, "no 'head' among embed, final_norm, layer_0, layer_1"),
    ]
    for change, lm, message in cases:
        with pytest.raises(ValueError, match=message):
            trainer(recipe(**change), data, tmp_path / "out", lm)


@pytest.mark.slow
def test_it_learns_and_what_is_frozen_stays(target, data, tmp_path):
    lines = []
    run = trainer(recipe(), data, tmp_path / "out", target, lines)
    before = run.evaluate()["own"]
    run.train()
    after = run.evaluate()["own"]
    run.close()
    assert after["kl"] < before["kl"] and after["overlap"] > before["overlap"]
    params: dict = run.state.params
    np.testing.assert_array_equal(params["embed"]["table"], target.lm.params["embed"]["table"])
    mine, theirs = params["layer_1"]["q"]["kernel"], target.lm.params["layer_3"]["q"]["kernel"]
    moved = np.asarray(mine - theirs)
    assert np.abs(moved).max() > 1e-3
    assert sum("s a step" in line for line in lines) == 4


@pytest.mark.heavy
def test_the_commands_end_in_a_draft_that_loads_beside_its_target(target, tmp_path):
    def run(*arguments):
        done = subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    write_rows(tmp_path / "rows.jsonl", rows(60))
    data, out = tmp_path / "data", tmp_path / "run"
    said = run("experiments.own_answers", f"--rows={tmp_path / 'rows.jsonl'}", f"--output={data}")
    assert said.startswith("train: 56 answers, ")
    train = ["experiments.train", "--config=configs/train_smollm2_draft.py", "--mesh=data:1"]
    train += [f"--data_dir={data}", f"--target={target.folder}", f"--output={out}"]
    train += ["--config.init_layers=(0,3)", "--config.rates=((0,1e-3),(4,1e-3))"]
    run(*train, "--config.phases=((2,4,32),)")
    assert "resumed from step 2" in run(*train, "--config.phases=((4,4,32),)", "--resume")
    pipe = Pipeline.load(target.folder, out / "export")
    assert pipe.draft is not None and pipe.draft.config["num_hidden_layers"] == 2
    [row] = pipe([[1, 5, 6]], strategy=recipes.speculative(depth=2), max_new_tokens=8)
    assert row.tokens


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt_ids": [1]}', "line 1: no 'tokens' in it"),
        ('{"prompt_ids": [1], "tokens": [-1]}', "line 1: tokens must be token ids"),
        ('{"prompt_ids": "a", "tokens": [1]}', "is not of the expected kind"),
        ('{"prompt_ids": [1], "tokens": [1]}', "held_out=6 of 1 prompts leaves none"),
    ],
)
def test_bad_rows(tmp_path, line, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(ValueError, match=message):
        own_answers.split(own_answers.read_answers(path), held_out=6, seed=0)
