"""By hand, on the tree

0 -+- 1 --- 3 --- 5 (filler)
   +- 2 --- 4 --- 6
"""

import jax.numpy as jnp
import numpy as np

from mtad_jax.decode.draft import DraftTree, node_logp, path_sum, path_to, take

PARENT = [0, 0, 0, 1, 2, 3, 4]
DEPTH = (0, 1, 1, 2, 2, 3, 3)
TOKENS = [9, 1, 2, 3, 0, 0, 1]


def lattice(batch=1):
    def rows(values):
        return jnp.asarray([values] * batch)

    filler = rows([False] * 5 + [True, False])
    return DraftTree(
        tokens=rows(TOKENS), parent=rows(PARENT), valid=rows([False] + [True] * 6),
        filler=filler, reference=rows([0.0] * 7), length=rows(3), logq=None,
        window=jnp.ones((batch, 7, 7), bool), slot=None, depth=DEPTH, scratch=7,
    )  # fmt: skip


def test_take():
    values = jnp.arange(12).reshape(2, 3, 2)
    assert take(values, jnp.array([2, 0])).tolist() == [[4, 5], [6, 7]]
    assert take(values, jnp.array([[1, 1], [2, 0]])).tolist() == [
        [[2, 3], [2, 3]],
        [[10, 11], [6, 7]],
    ]
    assert take(values[..., 0], jnp.array([1, 2])).tolist() == [2, 10]


def test_path_to():
    draft = lattice(batch=5)
    paths = path_to(draft, jnp.array([0, 2, 3, 5, 6]))
    assert paths.tolist() == [[0, 0, 0], [2, 0, 0], [1, 3, 0], [1, 3, 5], [2, 4, 6]]


def test_path_in_the_tree_that_is_node_0_alone():
    only = lattice().replace(depth=(0,))
    assert path_to(only, jnp.array([0])).shape == (1, 0)
    assert (only.max_depth, lattice().max_depth) == (0, 3)
    assert lattice().replace(window=None).is_chain and not lattice().is_chain


def test_node_logp_reads_the_parents_row_and_skips_fillers():
    logp = -jnp.arange(7 * 4, dtype=jnp.float32).reshape(1, 7, 4)  # -(4 node + token)
    got = node_logp(lattice(), logp)
    assert got.tolist() == [[0, -1, -2, -7, -8, 0, -17]]


def test_path_sum_adds_from_the_root():
    value = jnp.array([[7.0, 1.0, 2.0, 10.0, 20.0, 0.0, -jnp.inf]])
    got = path_sum(lattice(), value)
    assert got.tolist() == [[0, 1, 2, 11, 22, 11, -np.inf]]
