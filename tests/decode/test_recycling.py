"""Token recycling by hand: the shape of the tree, what the table gives and learns, the verdict."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
from hand_drafts import draft_of, log
from jitted import jit_of_rule

from mtad_jax import recipes
from mtad_jax.decode.draft_verify import DraftVerify
from mtad_jax.decode.drafters import recycling
from mtad_jax.decode.drafters.beam import Beam
from mtad_jax.decode.drafters.chain import Chain
from mtad_jax.decode.drafters.lookup import Lookup
from mtad_jax.decode.drafters.recycling import Recycling, count_nodes, product_tree
from mtad_jax.decode.engine import generate, prepare
from mtad_jax.decode.protocols import Learner
from mtad_jax.decode.request import Request
from mtad_jax.decode.verifiers.lossless.points import PointRejection
from mtad_jax.decode.warp import Warp
from mtad_jax.testing import table_lm

_propose = jit_of_rule(lambda drafter, lm, state, controls: drafter.propose(lm, state, controls)[0])


def test_the_tree_has_the_paths_whose_ranks_multiply_to_its_width():
    parent, rank, level = product_tree(2, 4)
    assert parent == (0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 4)
    assert rank == (1, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 1, 1)
    assert level == (0,) + 4 * (1,) + 8 * (2,)
    assert product_tree(3, 1) == ((0, 0, 1, 2), (1, 1, 1, 1), (0, 1, 2, 3))
    assert Recycling(2, 4).nodes == 13 and Recycling(2, 4).depth == 2


def test_nodes_are_counted_without_building_the_tree():
    for depth in range(1, 5):
        for width in range(1, 9):
            assert count_nodes(depth, width) == len(product_tree(depth, width)[0])
    assert count_nodes(512, 10**5) == 1 + 10**5  # and at once
    assert count_nodes(2, 10**9) == 1 + 10**9


def first_draft(table, ids, lengths, *, depth=2, width=2, **settings):
    """The first round's draft, its memory that of a call."""
    lm, strategy = table_lm(np.zeros((3, len(table)))), recipes.recycle(depth, width, table)
    call = prepare(
        lm, ids, lengths, strategy=strategy, max_new_tokens=4, slots=32, **settings
    )  # fmt: skip
    return jax.tree.map(np.asarray, _propose(strategy.drafter, lm, call.state, call.controls))


def test_the_table_fills_the_tree_breadth_first():
    table = np.array([[1, 2], [3, 0], [2, -1], [-1, -1], [-1, 1]])
    ids = np.array([[0, 4, 0], [2, 2, 4], [1, 3, 1], [4, 0, 0]])
    draft = first_draft(table, ids, np.array([3, 2, 2, 1]), eos_id=3)
    # Nodes 1 and 2 below node 0; 3 and 4 below 1; 5, the first entry alone, below 2.
    assert draft.depth == (0, 1, 1, 2, 2, 2) and draft.scratch == 6
    assert draft.parent.tolist() == [[0, 0, 0, 1, 1, 2]] * 4
    assert draft.valid.tolist() == [
        [False, True, True, True, True, True],  # after 0: 1 2, 3 0 after 1, 2 after 2
        [False, True, False, True, False, False],  # after 2: 2 alone, and 2 after it
        [False, False, False, False, False, False],  # after 3: nothing
        [False, False, True, False, False, True],  # after 4: its second entry, 1; 3 after it
    ]
    assert draft.tokens.tolist() == [
        [0, 1, 2, 3, 0, 2], [2, 2, 0, 2, 0, 0], [3, 0, 0, 0, 0, 0], [4, 0, 1, 0, 0, 3],
    ]  # fmt: skip
    assert draft.length.tolist() == [2, 2, 0, 0]
    sees = np.eye(6, dtype=bool)
    for node, seen in {1: [0], 2: [0], 3: [0, 1], 4: [0, 1], 5: [0, 2]}.items():
        sees[node, seen] = True
    assert (draft.window == sees).all()
    assert not draft.filler.any() and not draft.reference.any() and draft.logq is None


def test_nothing_is_drafted_below_an_end():
    table = np.array([[1, 2], [0, 2], [0, 1]])
    draft = first_draft(table, np.array([[0]]), np.array([1]), eos_id=1)
    assert draft.valid.tolist() == [[False, True, True, False, False, True]]
    assert draft.length.tolist() == [1]


def test_all_that_was_drafted_teaches_and_the_first_node_counts():
    memory = jnp.asarray([[[9, 9]] * 4])
    logits = np.arange(20.0).reshape(5, 4) * [1, -1, 1, 1]
    logits[3] = [0, 5, 5, 1]
    tree = draft_of((2, 0, 1, 2), (2, 1), valid=(1, 1, 1, 1))  # node 0 holds 0
    got = Recycling(2, 2).learn(memory, tree, jnp.asarray(logits[None]))[0]
    assert got.tolist() == [[3, 2], [1, 2], [3, 2], [9, 9]]  # ties: the lowest id
    logits[1], logits[0] = [8, 7, 0, 0], [0, 0, 7, 8]
    got = Recycling(2, 2).learn(memory, tree, jnp.asarray(logits[None]))[0]
    assert got[2].tolist() == [0, 1] and got[0].tolist() == [3, 2]  # not nodes 4 and 2
    tree = draft_of((2, 0, 1, 2), (2, 1), valid=(0, 1, 0, 1))
    got = Recycling(2, 2).learn(memory, tree, jnp.asarray(logits[None]))[0]
    assert got.tolist()[1] == [9, 9]  # node 3 was not drafted
    assert got[2].tolist() == np.argsort(-logits[4])[:2].tolist()  # nor node 1: node 4 counts


def test_rows_have_tables_of_their_own():
    drafter, tree = Recycling(1, 2), draft_of((2, 0), (2,), valid=(0, 0))
    both = jax.tree.map(lambda x: jnp.concatenate([x, x]), tree)
    both = both.replace(tokens=jnp.asarray([[1, 2, 0], [2, 2, 0]]))
    logits = jnp.asarray([[[0.0, 1, 2]] * 3, [[2.0, 1, 0]] * 3])
    memory = drafter.learn(drafter.start(2, 3), both, logits)
    assert memory.tolist() == [[[-1, -1], [2, 1], [-1, -1]], [[-1, -1], [-1, -1], [0, 1]]]
    assert memory.dtype == jnp.int32 == Recycling(1, 2, np.zeros((3, 2), int)).start(2, 3).dtype


def test_a_text_that_goes_in_circles_is_drafted_from_its_second_turn_on():
    """The table has one row a token that decides the next one: greedy text is a circle."""
    lm = table_lm(np.random.default_rng(0).normal(scale=3.0, size=(3, 12)))
    call = {"max_new_tokens": 40, "warp": Warp(temperature=0.0)}
    got = generate(lm, [[1, 2]], [2], strategy=recipes.recycle(3, 3), **call)
    want = generate(lm, [[1, 2]], [2], strategy=recipes.greedy(), **call)
    assert got.tokens.tolist() == want.tokens.tolist()
    assert got.stats().accepted[0] > 10


@pytest.fixture
def judged(judge):
    """Return what judges a draft by p after every node: the leaf, and the normalised bonus."""
    return functools.partial(judge, PointRejection())


P0, P1, P2 = [0.5, 0.25, 0.25], [0.2, 0.4, 0.4], [0.1, 0.2, 0.7]


@pytest.mark.parametrize(
    ("u", "leaf", "bonus"),
    [
        ((0.24, 0.0, 0.0), 3, P2),  # token 1, then token 2 after it
        ((0.24, 0.9, 0.41), 1, [1 / 3, 2 / 3, 0]),  # without token 2
        ((0.26, 0.66, 0.9), 2, P2),  # token 0 has 0.5 of the 0.75 that are left
        ((0.26, 0.67, 0.0), 0, [0, 0, 1]),  # node 3 is not below node 0
        ((0.0, 0.0, 0.9), 1, [1 / 3, 2 / 3, 0]),  # the elder one goes before
    ],
)
def test_a_child_is_reached_as_often_as_a_draw_gives_it(judged, u, leaf, bonus):
    draft = draft_of((1, 0, 2, 1), (2, 1), valid=(1, 1, 1, 0))
    got = judged(draft, [P0, P1, P2, P2, P2], (*u, 0.0))
    assert (got[0], got[1]) == (leaf, np.round(bonus, 5).tolist())


def test_an_equal_sibling_is_tried_once(judged):
    draft = draft_of((1, 1, 0), (3,))
    assert judged(draft, [P0, P1, P1, P1], (0.3, 0.0, 0.66)) == (3, P1)
    assert judged(draft, [P0, P1, P1, P1], (0.3, 0.0, 0.67)) == (0, [0, 0, 1])
    # One that was not drafted is no elder sibling.
    draft = draft_of((1, 1, 0), (3,), valid=(0, 1, 1))
    assert judged(draft, [P0, P1, P1, P1], (0.0, 0.24, 0.9)) == (2, P1)


def test_what_cannot_be_is_not_accepted(judged):
    p = [[0.0, 1.0, 0.0]] * 3
    assert judged(draft_of((0, 1), (2,)), p, (0.0, 0.9999)) == (2, p[0])
    assert judged(draft_of((1, 0), (2,)), p, (0.9999, 0.0)) == (1, p[0])
    assert judged(draft_of((0, 2), (2,)), p, (0.0, 0.0)) == (0, p[0])
    # Rounding: all that can be was tried, and failed; something must follow.
    p = [[0.75, 0.25, 0.0]] * 4
    assert judged(draft_of((0, 1, 2), (3,)), p, (0.9, 1.1, 0.0)) == (0, p[0])


def test_a_chain_of_points_is_judged_as_by_rejection(judged):
    assert judged(draft_of((0, 2), (1, 1)), [P0, P1, P2], (0.4, 0.3)) == (2, P2)
    assert judged(draft_of((0, 2), (1, 1)), [P0, P1, P2], (0.51, 0.0)) == (0, [0, 0.5, 0.5])


def test_a_uniform_of_p_itself_is_not_below_it(judged):
    p = np.asarray(jnp.exp(log(0.25)))  # as the rule has it
    draft, laws = draft_of((1,), (1,)), [P0, P1]
    assert judged(draft, laws, (np.nextafter(p, 0, dtype="f"),))[0] == 1
    assert judged(draft, laws, (p,))[0] == judged(draft, laws, (np.nextafter(p, 1, dtype="f"),))[0]
    assert judged(draft, laws, (p,))[0] == 0


def test_a_filler_is_no_candidate(judged):
    draft = draft_of((0, 1), (1, 1), filler=(False, True))
    assert judged(draft, [P0, P1, P2], (0.0, 0.0)) == (1, P1)


def test_who_learns():
    assert isinstance(Recycling(2, 2), Learner) and not isinstance(Lookup(2, 1), Learner)
    assert DraftVerify(Recycling(2, 2), PointRejection()).lossless
    PointRejection().check(Beam(2, 2, "search", "tree"), Request())


ODD = np.zeros((5, 2), int)
BAD = {
    "depth": (Recycling(0, 2), Request(), r"depth=0 must be >= 1"),
    "width": (Recycling(2, 0), Request(), r"width=0 must be between 1 and"),
    "wide": (Recycling(2, 9), Request(vocab=8), r"width=9 must be between 1 and vocabulary=8"),
    "no number": (Recycling(2, 2.0), Request(), r"width=2\.0 must be a whole number"),
    "nodes": (Recycling(4, 40), Request(), r"depth=4 with width=40 has \d+ nodes > 1024: lower"),
    "chains only": (Recycling(2, 2), Request(trees=False), r"a model runs chains only"),
    "memory": (
        Recycling(2, 8),
        Request(vocab=2**17, rows=1025),
        r"width=8: a table of 4194304 bytes .* for each of 1025 rows is more than 4294967296",
    ),
    "vocabulary": (Recycling(2, 2, ODD), Request(vocab=6), r"table has shape \(5, 2\) and dtype"),
    "entries": (Recycling(2, 3, ODD), Request(), r"table has shape .* \[vocabulary, width=3\]"),
    "reals": (Recycling(2, 2, ODD + 0.5), Request(), r"table has .* dtype float64: give integers"),
    "flat": (Recycling(2, 2, ODD[0]), Request(), r"table has shape \(2,\)"),
    "large": (Recycling(2, 2, ODD + [0, 5]), Request(), r"table holds id 5, outside \[-1, 4\]"),
    "small": (Recycling(2, 2, ODD - 2), Request(vocab=5), r"table holds id -2, outside \[-1, 4\]"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_setting_is_named(name):
    drafter, request, message = BAD[name]
    with pytest.raises(ValueError, match=message) as error:
        drafter.check(request)
    assert "\n" not in str(error.value)


def test_one_row_counts_where_none_was_told(monkeypatch):
    monkeypatch.setattr(recycling, "MOST_BYTES", 4 * 5 * 2 - 1)
    with pytest.raises(ValueError, match="a table of 40 bytes .* for each of 1 rows"):
        Recycling(2, 2).check(Request(vocab=5))


def test_what_is_in_range_passes(monkeypatch):
    Recycling(2, 8).check(Request(vocab=2**17, rows=1024))
    Recycling(2, 3, ODD[:, [0, 0, 0]] - 1).check(Request(vocab=5))
    Recycling(2, 2, ODD + 4).check(Request())
    Recycling(1, 1023).check(Request())  # 1024 nodes
    monkeypatch.setattr(recycling, "MOST_BYTES", 8)
    Recycling(1, 1).check(Request())  # a vocabulary that is not known refuses nothing
    with pytest.raises(ValueError, match="for each of 3 rows"):
        lm = table_lm(np.zeros((3, 1)))
        call = {"strategy": recipes.recycle(1, 1), "max_new_tokens": 2}
        generate(lm, [[0]], [1], samples=3, **call)


def test_drawn_candidates_are_refused():
    with pytest.raises(ValueError, match="drafter=Chain: point rejection judges candidates"):
        PointRejection().check(Chain(2), Request())


def test_the_references_tree_is_the_engines():
    """Both shapes, written apart."""
    table = {token: tuple(range(6)) for token in range(6)}
    for depth, width in ((2, 4), (3, 2), (1, 5)):
        paths, likeliest = ref.recycled_paths(0, table, depth, width)
        parent, rank, level = product_tree(depth, width)
        assert tuple(paths.above) == parent and likeliest == depth == paths.deepest
        assert [path[-1] for path in paths.paths[1:]] == [r - 1 for r in rank[1:]]
        assert [len(path) for path in paths.paths] == list(level)


def test_a_table_comes_from_a_file(tmp_path):
    np.save(tmp_path / "table.npy", ODD)
    strategy = recipes.recycle(2, 2, str(tmp_path / "table.npy"))
    np.testing.assert_array_equal(strategy.drafter.table, ODD)
