"""What the shipped pair says of the rules: lossless ones write as plain sampling does."""

import math
import statistics

import jax
import numpy as np
import pytest

import mtad_jax
from experiments.tasks.shipped import OPENINGS
from mtad_jax import recipes
from mtad_jax.decode.warp import Warp

pytestmark = pytest.mark.heavy  # test_exact_law.py proves it on tables

SAMPLES, NEW = 8, 32
WARP = Warp(temperature=1.0, top_p=0.9, top_k=10)
LOSSLESS = {
    "speculative": recipes.speculative(3),
    "block": recipes.block(3),
    "specinfer": recipes.specinfer((3, 2)),
    "mcsd": recipes.mcsd((3, 2)),
    "traversal": recipes.traversal((3, 2)),
    "rsd_s": recipes.rsd_s(3, 3),
    "spectr": recipes.spectr(2, 3),
    "lookup": recipes.lookup(3, 2),
    "recycle": recipes.recycle(3, 3),
}


@pytest.fixture(scope="module")
def write():
    """Return the mean -log p_raw of each opening's texts, by a rule."""
    pipe = mtad_jax.Pipeline.shipped()
    prompts, length = pipe.padded(OPENINGS)
    assert pipe.draft is not None
    draft = pipe.draft.lm

    def nats(strategy, seed):
        result = mtad_jax.generate(
            pipe.target.lm, prompts, length, strategy=strategy, draft=draft, warp=WARP,
            max_new_tokens=NEW, samples=SAMPLES, seed=seed,
        )  # fmt: skip
        trace, count = jax.tree.map(np.asarray, (result.trace.logp_raw, result.length))
        return (-trace.sum(axis=1) / count).reshape(len(prompts), SAMPLES).mean(axis=1)

    return nats


@pytest.fixture(scope="module")
def plain(write):
    return write(recipes.sample(), 0)


def distance(nats, plain) -> float:
    """The mean difference in its standard errors, openings paired."""
    change = (nats - plain).tolist()
    return abs(statistics.fmean(change)) / (statistics.stdev(change) / math.sqrt(len(change)))


@pytest.mark.parametrize("name", LOSSLESS)
def test_the_perplexity_of_a_lossless_rule_is_samplings(name, write, plain):
    assert distance(write(LOSSLESS[name], 1), plain) < 3.5


def test_the_measure_sees_a_rule_that_sharpens(write, plain):
    assert distance(write(recipes.mtad(3, 3), 1), plain) > 5
