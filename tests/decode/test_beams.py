"""Beam steps and lattices by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hand_drafts import log

from mtad_jax.decode.beams import (
    Beams,
    Lattice,
    ancestors,
    beam_step,
    first_beam,
    first_window,
    lattice_window,
    truncated,
)
from mtad_jax.decode.drafters.beam import Beam, _best_path, lattice_draft
from mtad_jax.decode.drafters.pairs import PairDraws
from mtad_jax.decode.drafters.stochastic import StochasticBeams
from mtad_jax.decode.state import Controls
from mtad_jax.decode.warp import Warp

NONE = Controls(Warp(), Warp(), jnp.zeros((0,), jnp.int32))
ENDS = Controls(Warp(), Warp(), jnp.array([1]))
INF = float("inf")


def beams(weights, *, valid=None, ended=None, token=None, parent=None, filler=None):
    """One row of places."""
    n = len(weights)
    no = [False] * n
    return Beams(
        jnp.array([token or [0] * n]), jnp.array([parent or [0] * n]), jnp.array([weights]),
        jnp.array([valid or [True] * n]), jnp.array([ended or no]), jnp.array([filler or no]),
    )  # fmt: skip


def test_the_empty_path():
    first = first_beam(2)
    assert first.valid.tolist() == [[True]] * 2 and first.logq.tolist() == [[0.0]] * 2
    assert not first.ended.any() and not first.filler.any()
    assert first_window(2, 3).tolist() == [[[True, False, False]]] * 2


def test_the_largest_pairs_stay():
    old = beams([-1.0, -2.0])
    logq = jnp.array([[[-3.0, -1.0, -9.0], [-0.5, -4.0, -0.25]]])
    got = beam_step(old, logq, 4, None, NONE)
    assert got.logq.tolist() == [[-2.0, -2.25, -2.5, -4.0]]
    assert got.parent.tolist() == [[0, 1, 1, 0]] and got.token.tolist() == [[1, 2, 0, 0]]
    assert got.valid.all() and not got.ended.any()


def test_ties_go_to_the_lowest_beam_and_token():
    got = beam_step(beams([0.0, 0.0]), jnp.zeros((1, 2, 3)), 4, None, NONE)
    assert got.parent.tolist() == [[0, 0, 0, 1]] and got.token.tolist() == [[0, 1, 2, 0]]


@pytest.mark.parametrize("noise", [None, 0.0])
def test_an_ended_beam_offers_itself_and_an_invalid_one_nothing(noise):
    old = beams([-1.0, -0.5, 0.0], ended=[False, True, False], valid=[True, True, False])
    logq = log([[[0.5, 0.5, 0], [0.1, 0.8, 0.1], [0, 1, 0]]])
    noise = None if noise is None else jnp.zeros((1, 3, 3))
    got = beam_step(old, logq, 4, noise, ENDS)
    assert got.valid.tolist() == [[True, True, True, False]]
    assert got.parent[0, :3].tolist() == [1, 0, 0] and got.token[0, :3].tolist() == [0, 0, 1]
    half = float(np.log(np.float32(0.5)))
    np.testing.assert_allclose(got.logq[0], [-0.5, half - 1, half - 1, -INF], rtol=1e-6)
    assert got.filler.tolist() == [[True, False, False, False]]
    assert got.ended.tolist() == [[True, False, True, False]]  # token 1 ends


def test_an_invalid_place_has_not_ended():
    """Even where its meaningless token is an end, or its parent's text had ended."""
    controls = Controls(Warp(), Warp(), jnp.array([0, 1]))
    got = beam_step(beams([0.0], ended=[True]), jnp.zeros((1, 1, 3)), 3, None, controls)
    assert got.valid.tolist() == [[True, False, False]] == got.filler.tolist()
    assert got.ended.tolist() == [[True, False, False]]


def test_noise_decides_who_stays_and_not_their_weights():
    old, logq = beams([-1.0, -2.0]), jnp.array([[[-1.0, -2.0], [-3.0, -4.0]]])
    noise = jnp.array([[[0.0, 9.0], [0.0, 8.0]]])
    got = beam_step(old, logq, 2, noise, NONE)  # scores -2, 6 | -5, 2
    assert got.parent.tolist() == [[0, 1]] and got.token.tolist() == [[1, 1]]
    assert got.logq.tolist() == [[-3.0, -6.0]]
    # Draws of their own: the same pair twice.
    twice = jnp.stack([noise[0], noise[0], jnp.array([[9.0, 0.0], [0.0, 0.0]])])[None]
    got = beam_step(old, logq, 3, twice, NONE)
    assert got.token.tolist() == [[1, 1, 0]] and got.logq.tolist() == [[-3.0, -3.0, -2.0]]
    assert got.parent.tolist() == [[0, 0, 0]] and got.valid.all()


def test_truncated_noise_gives_each_beams_best_pair_the_beams_score():
    """By the definition, in f64; what is not on offer has no noise, and nothing is NaN."""
    random = np.random.default_rng(0)
    pairs = log(random.dirichlet(np.ones(5), (1, 3))).at[0, 0, 2].set(-INF).at[0, 2].set(-INF)
    noise, score = random.gumbel(size=(1, 3, 5)), np.array([[-0.5, -5.0, -INF]])
    got = np.asarray(truncated(pairs, jnp.asarray(noise, jnp.float32), jnp.asarray(score)), float)
    assert np.isfinite(got).all()
    assert not got[0, 2].any() and got[0, 0, 2] == 0
    for beam, among in [(0, [0, 1, 3, 4]), (1, [0, 1, 2, 3, 4])]:
        sums = (np.asarray(pairs, float) + noise)[0, beam, among]
        new = -np.log(np.exp(-score[0, beam]) - np.exp(-sums.max()) + np.exp(-sums))
        moved = (np.asarray(pairs, float) + got)[0, beam, among]
        np.testing.assert_allclose(moved, new, rtol=2e-6)
        assert moved.max() == pytest.approx(score[0, beam], rel=1e-6)
        assert (np.argsort(moved) == np.argsort(sums)).all()


def test_truncated_noise_of_pairs_far_below_the_best():
    """Where one exponential is lost beside another."""
    pairs = jnp.array([[[0.0, -200.0, -0.5]]])
    got = truncated(pairs, jnp.array([[[90.0, 0.0, 90.4]]]), jnp.array([[-3.0]]))
    want = [-3.0, -200.0, -3.0 - np.log1p(np.expm1(0.1) * np.exp(-93.0))]
    np.testing.assert_allclose(np.asarray(pairs + got)[0, 0], want, rtol=1e-5)


def test_a_place_sees_its_parents_path_and_itself():
    window = lattice_window(first_window(1, 5), jnp.array([[0, 0]]), 1)
    assert window[0].astype(int).tolist() == [[1, 1, 0, 0, 0], [1, 0, 1, 0, 0]]
    window = lattice_window(window, jnp.array([[1, 0]]), 3)
    assert window[0].astype(int).tolist() == [[1, 0, 1, 1, 0], [1, 1, 0, 0, 1]]


# Depth 1: places a, b. Depth 2: of b, of a, of b. Depth 3: the filler of place 0, of place 1, no.
LEVELS = [
    beams([-1.0, -2.0], token=[4, 5]),
    beams([-2.5, -3.0, -2.75], token=[1, 2, 3], parent=[1, 0, 1], ended=[True, False, False]),
    beams([-2.5, -2.0, 0.0], token=[0, 2, 9], parent=[0, 1, 2], valid=[True, True, False],
          ended=[True, False, False], filler=[True, False, False]),
]  # fmt: skip
LATTICE = Lattice(LEVELS, [jnp.ones((1, w, 9), bool) for w in (1, 2, 3, 3)], [], [])


def state_of(length=3):
    """The little of a state that a draft reads."""

    class State:
        tokens = jnp.array([[7, 8, 6, 0]])

    State.length = jnp.array([length])
    return State()


def test_the_likeliest_beam_of_the_last_depth_and_its_ancestors():
    assert [int(p[0]) for p in LATTICE.best] == [0, 1, 1]
    assert [int(p[0]) for p in ancestors(LEVELS, jnp.array([0]))] == [1, 0, 0]
    assert LATTICE.nodes_of(LATTICE.best).tolist() == [[1, 4, 7]]
    assert LATTICE.nodes_of(LATTICE.best[:2]).tolist() == [[1, 4]]


def test_the_candidate_as_a_chain():
    tree = _best_path(state_of(), LATTICE)
    assert tree.tokens.tolist() == [[6, 4, 2, 2]] and tree.is_chain
    assert tree.reference.tolist() == [[0.0, -1.0, -3.0, -2.0]]
    assert tree.slot.tolist() == [[0, 1, 4, 7]] and tree.scratch == 9
    assert tree.valid.tolist() == [[False, True, True, True]] and tree.length.tolist() == [3]
    ended = LATTICE.replace(levels=[*LEVELS[:2], LEVELS[2].replace(logq=jnp.array([[0.0, -5, 1]]))])
    tree = _best_path(state_of(), ended)
    assert tree.tokens[0, :3].tolist() == [6, 5, 1] and tree.length.tolist() == [2]
    assert tree.valid.tolist() == [[False, True, True, False]]
    assert tree.filler.tolist() == [[False, False, False, True]]


def test_the_whole_lattice_as_a_tree():
    """All levels are as wide as the first."""
    levels = [jax.tree.map(lambda x: x[:, :2], level) for level in LEVELS]
    windows = [jnp.ones((1, w, 7), bool) for w in (1, 2, 2, 2)]
    lattice = LATTICE.replace(levels=levels, windows=windows)
    tree = lattice_draft(state_of(), lattice)
    assert tree.tokens.tolist() == [[6, 4, 5, 1, 2, 0, 2]]
    assert tree.parent.tolist() == [[0, 0, 0, 2, 1, 3, 4]]
    assert tree.valid.tolist() == [[False] + [True] * 6]
    assert tree.filler.tolist() == [[False] * 5 + [True, False]]
    assert tree.reference.tolist() == [[0, -1, -1, -3, -3, -2, -2]]
    assert tree.depth == (0, 1, 1, 2, 2, 3, 3) and tree.scratch == 7
    assert tree.length.tolist() == [3] and tree.window.shape == (1, 7, 7)


def test_what_a_draft_of_beams_says_of_itself():
    best, tree = Beam(3, 2, "search", "best"), Beam(3, 2, "search", "tree")
    assert (best.nodes, best.chain, tree.chain) == (7, True, False)
    assert PairDraws(3, 2).nodes == 7 == StochasticBeams(3, 2).nodes
    for drafter in (best, tree, PairDraws(3, 2), StochasticBeams(3, 2)):
        assert drafter.needs_draft and not drafter.drawn
    assert best.candidate and not PairDraws(3, 2).candidate and not PairDraws(3, 2).chain
