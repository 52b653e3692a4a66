"""How often each of a verifier's tests of chance passes, measured, and all that follows from them.

Once the draft is given, whether a test passes depends on its own uniform alone: it is asked along
one path only (a node's test after its ancestors passed and its elder siblings failed, a chain's
prefix always), and so at one ratio h. How often it passes is therefore one number. It is found by
bisection on the test's uniform, in two surroundings: the first and the last pattern of the other
tests in which it matters. They must agree. All patterns of passes are then enumerated.
"""

import dataclasses
import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jitted import jit_of_rule

from mtad_jax.decode import random
from mtad_jax.decode.draft import DraftTree
from mtad_jax.decode.state import Controls
from mtad_jax.decode.warp import Warp

SURE = np.float32(1 - 2**-24)  # the largest uniform


class Judge:
    """The verdicts on all drafts under all outcomes of the tests."""

    def __init__(self, verifier, draft: DraftTree, logp, logits, controls: Controls):
        # Verifiers do not warp; without the warps' static parts there are fewer programs.
        controls = dataclasses.replace(controls, warp=Warp(), draft_warp=Warp())
        self._given = verifier, draft, logp, logits, controls
        self.rows, self.nodes = draft.tokens.shape
        self.tests = _count_tests(*self._given)
        # Bit s of a pattern: test s passes.
        self.bits = np.arange(2**self.tests)[:, None] >> np.arange(self.tests) & 1 == 1
        rows = np.repeat(np.arange(self.rows), len(self.bits))
        leaf, law = self(rows, np.where(np.tile(self.bits, (self.rows, 1)), 0, SURE))
        self.leaf = leaf.reshape(self.rows, -1)
        self.law = law.reshape(self.rows, len(self.bits), -1)

    def __call__(self, rows: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Leaf and normalised bonus law of some rows under some uniforms [rows, tests]."""
        leaf, bonus = _verdicts(*self._given, rows, u.astype(np.float32))
        leaf, bonus = np.asarray(leaf), np.asarray(bonus, float)
        top = bonus.max(axis=1, keepdims=True)
        assert np.isfinite(top).all(), "a bonus without mass"
        law = np.exp(bonus - top)
        return leaf, law / law.sum(axis=1, keepdims=True)

    def mass(self, weight: np.ndarray) -> np.ndarray:
        """Probability of each draft, leaf and bonus, [B, N, V]."""
        chances = self.chances(weight > 0)[:, None]
        outcome = np.where(self.bits, chances, 1 - chances).prod(axis=2) * weight[:, None]
        total = np.zeros((self.rows, self.nodes, self.law.shape[2]))
        rows = np.broadcast_to(np.arange(self.rows)[:, None], self.leaf.shape)
        np.add.at(total, (rows, self.leaf), outcome[:, :, None] * self.law)
        return total

    def chances(self, counts: np.ndarray) -> np.ndarray:
        """The chance of each test to pass, [B, tests]; any where it never matters."""
        if not self.tests:
            return np.ones((self.rows, 0))
        off = np.stack([np.flatnonzero(~self.bits[:, s]) for s in range(self.tests)])
        on = off + 2 ** np.arange(self.tests)[:, None]  # --> [tests, half]
        matters = self._differ(on, off)  # --> [B, tests, half]
        first = matters.argmax(axis=2)
        last = matters.shape[2] - 1 - matters[:, :, ::-1].argmax(axis=2)
        where = np.stack([first, last])  # --> [2, B, tests]
        chance = self._bisect(*(np.take_along_axis(x[None, None], where[..., None], 3)[..., 0]
                                for x in (off, on)))  # fmt: skip
        used = matters.any(axis=2) & counts[:, None]
        gap = np.abs(chance[0] - chance[1])[used]
        assert gap.size == 0 or gap.max() < 1e-6, "a test whose ratio depends on other tests"
        return np.where(used, chance[0], 0.5)

    def _differ(self, on: np.ndarray, off: np.ndarray) -> np.ndarray:
        """Whether two patterns have different verdicts, [B, *on.shape]."""
        law = np.abs(self.law[:, on] - self.law[:, off]).max(axis=-1)
        return (self.leaf[:, on] != self.leaf[:, off]) | (law > 1e-9)

    def _bisect(self, off: np.ndarray, on: np.ndarray) -> np.ndarray:
        """The largest uniform with which each test gives `on`'s verdict instead of `off`'s."""
        shape, own = off.shape, np.arange(self.tests)
        rows = np.broadcast_to(np.arange(self.rows)[:, None], shape).reshape(-1)
        slot = np.broadcast_to(own, shape).reshape(-1)
        off, on = off.reshape(-1), on.reshape(-1)
        u = np.where(self.bits[off], 0, SURE)
        low, high = np.zeros(len(rows)), np.ones(len(rows))
        for _ in range(24):  # a uniform has 24 bits
            u[np.arange(len(rows)), slot] = middle = (low + high) / 2
            leaf, law = self(rows, u)
            gaps = [
                (leaf != self.leaf[rows, p]) + np.abs(law - self.law[rows, p]).max(axis=1)
                for p in (on, off)
            ]
            passes = gaps[0] < gaps[1]
            low, high = np.where(passes, middle, low), np.where(passes, high, middle)
        return ((low + high) / 2).reshape(shape)


def _verify(verifier, draft, logp, logits, controls, rows, uniform):
    """Verify some rows with `uniform` in place of the tests' draws."""
    draft, logp, logits = jax.tree.map(lambda x: x[rows], (draft, logp, logits))
    with mock.patch.object(random, "uniform", uniform):
        return verifier.verify(draft, logp, logits, random.row_keys(0, rows), controls)


def _count_tests(*given) -> int:
    """How many uniforms a row's verdict takes."""
    leaves, structure = jax.tree.flatten(given)
    return _tests_of(structure, tuple((np.shape(x), jnp.result_type(x)) for x in leaves))


@functools.cache
def _tests_of(structure, kinds: tuple) -> int:
    taken = []

    def uniform(keys, shape):
        taken.append(int(np.prod(shape)))
        return jnp.zeros((len(keys), *shape))

    leaves = [jax.ShapeDtypeStruct(*kind) for kind in kinds]
    given, row = jax.tree.unflatten(structure, leaves), np.zeros(1, np.int32)
    jax.eval_shape(lambda given: _verify(*given, row, uniform), given)
    return sum(taken)


@jit_of_rule
def _verdicts(verifier, draft, logp, logits, controls, rows, u):
    """Leaf and bonus log-weights of rows under uniforms u [rows, tests]."""
    taken = 0

    def uniform(keys, shape):
        nonlocal taken
        first, taken = taken, taken + int(np.prod(shape))
        return u[:, first:taken].reshape(len(u), *shape)

    verdict = _verify(verifier, draft, logp, logits, controls, rows, uniform)
    return verdict.leaf, verdict.bonus
