"""A few steps of every loss on a tiny pair."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from configs import train_draft
from experiments.training import step as train_step
from experiments.training.blocks import Blocks
from experiments.training.data import Corpus, Phase, Schedule
from experiments.training.export import build_model
from experiments.training.losses import DRAFTED, LOSSES
from experiments.training.objective import Objective
from mtad_jax.models.protocol import BoundLM

pytestmark = pytest.mark.slow

MODEL = {
    "vocab_size": 30, "embed_dim": 16, "mlp_dim": 32, "num_layers": 1, "num_heads": 2,
    "num_kv_heads": 2, "head_dim": 8, "max_positions": 64,
}  # fmt: skip
BLOCK = {"depth": 3, "width": 2, "anchors": 4}
BLOCKS = Blocks(**BLOCK, draw="search", tau=0.5, softness=0.5)


def shape():
    config = train_draft.get_config()
    config.model.update(MODEL)
    return config


@pytest.fixture(scope="module")
def corpus():
    """Random documents of a few tokens each."""
    rng = np.random.default_rng(0)
    texts = [[1, *rng.integers(3, 30, rng.integers(4, 12)), 2] for _ in range(300)]
    tokens = np.concatenate(texts)
    return Corpus(tokens, np.ones(len(tokens), bool))


@pytest.fixture(scope="module")
def target():
    """A model with some preferences."""
    model = build_model(shape().model)
    params = model.init(jax.random.key(0))
    return BoundLM(jax.tree.map(lambda x: 8 * x if x.ndim > 1 else x, params), model)


@pytest.fixture(scope="module")
def aim(target):
    """All losses, so that one program measures them and minimizes any."""
    return Objective(dict.fromkeys(LOSSES, 1.0), BLOCKS, target, 30, (2,))


@pytest.fixture(scope="module")
def measured(aim, corpus):
    """All losses of a model on one batch."""
    rows, length = Schedule(corpus, (Phase(1, 16, 24),), 9).at(0)
    evaluate = train_step.make_eval(build_model(shape().model), aim)
    batch = corpus.batch(rows, length, 1.0)
    return lambda params: {name: float(x) for name, x in evaluate(params, batch).items()}


@pytest.fixture(scope="module")
def descend(aim):
    """One step of AdamW on the losses whose share is not 0."""
    config, model = shape(), build_model(shape().model)
    config.rates = ((0, 1e-2), (60, 1e-2))
    optimizer = train_step.make_optimizer(config)

    @jax.jit
    def step(params, state, shares, batch, key):
        chosen = dataclasses.replace(aim, weights=shares)

        def loss(params):
            return chosen.total(aim.measure(model, params, aim.target.params, batch, key))

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    return optimizer, step


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "cross_entropy"])
def test_every_loss_falls_and_acceptance_rises(name, corpus, measured, descend):
    """On documents that it has not seen; a loss of blocks is measured by what MTAD takes."""
    optimizer, step = descend
    params = build_model(shape().model).init(jax.random.key(1))
    params = jax.tree.map(lambda x: 3 * x if x.ndim > 1 else x, params)
    before, state = measured(params), optimizer.init(params)
    shares = {other: float(other == name) for other in LOSSES}
    schedule = Schedule(corpus, (Phase(60, 8, 24),), 0)
    for number in range(40):
        rows, length = schedule.at(number)
        batch = corpus.batch(rows, length, 1.0)
        params, state = step(params, state, shares, batch, jax.random.key(number))
    after = measured(params)
    assert after[name] < 0.9 * before[name]
    sign = "accepted" if LOSSES[name].where == DRAFTED else "overlap"
    assert after[sign] > before[sign]
