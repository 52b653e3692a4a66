"""What the tests of verifiers by hand share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hand_drafts import log

from mtad_jax.decode import random
from mtad_jax.decode.state import Controls
from mtad_jax.decode.warp import Warp

CONTROLS = Controls(Warp(), Warp(), jnp.zeros((0,), jnp.int32))


@pytest.fixture
def judge(monkeypatch):
    """Return what judges a draft by p after every node: the leaf, and the normalised bonus."""

    def run(rule, draft, p, u=None, *, raw=None):
        def uniform(keys, shape):
            assert shape == np.shape(u), "the documented draws"
            return jnp.asarray([u], jnp.float32)

        monkeypatch.setattr(random, "uniform", uniform)
        logp, logits = log([p]), log([p if raw is None else raw])
        verdict = rule.verify(draft, logp, logits, jax.random.key(0)[None], CONTROLS)
        bonus = np.exp(np.asarray(verdict.bonus[0], float))
        assert np.isfinite(bonus).all() and bonus.sum() > 0
        return int(verdict.leaf[0]), (bonus / bonus.sum()).round(5).tolist()

    return run
