"""One commit by hand, on the tree of test_draft, with a model that writes down what it keeps.

0 -+- 1 --- 3 --- 5 (filler)
   +- 2 --- 4 --- 6
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtad_jax.decode import random
from mtad_jax.decode.commit import commit, write_block
from mtad_jax.decode.draft import DraftTree
from mtad_jax.decode.protocols import Verdict
from mtad_jax.decode.state import DEPTH, END, LENGTH, REJECTED, Controls, DecodeState, Trace
from mtad_jax.decode.warp import Warp
from mtad_jax.models.protocol import BoundLM

SLOTS, VOCAB = 12, 6
BONUS = 4  # the one token that may follow
TREE = DraftTree(
    tokens=jnp.array([[9, 1, 2, 3, 0, 0, 1]]), parent=jnp.array([[0, 0, 0, 1, 2, 3, 4]]),
    valid=jnp.array([[False] + [True] * 6]), filler=jnp.array([[False] * 5 + [True, False]]),
    reference=-0.5 * jnp.arange(7.0)[None], length=jnp.array([3]), logq=None,
    window=jnp.ones((1, 7, 7), bool), slot=None, depth=(0, 1, 1, 2, 2, 3, 3), scratch=9,
)  # fmt: skip
CHAIN = DraftTree(
    tokens=jnp.array([[9, 1, 2, 3]]), parent=jnp.array([[0, 0, 1, 2]]),
    valid=jnp.array([[False, True, True, True]]), filler=jnp.zeros((1, 4), bool),
    reference=jnp.array([[0.0, -1.0, -3.0, -6.0]]), length=jnp.array([3]), logq=None,
    window=None, slot=None, depth=(0, 1, 2, 3), scratch=4,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Keeps:
    """Stands for a model: its cache is what `keep` was asked for."""

    vocab_size: int = VOCAB

    def keep(self, cache, source, dest, *, span):
        return source[0].tolist(), dest.tolist(), span


LM = BoundLM({}, Keeps())  # type: ignore[arg-type]


def state_of(length=3, limit=11, done=False, rounds=2):
    """One row of text 1, 2, ... in a buffer of sevens."""
    whole = jnp.full((1, SLOTS), 7, jnp.int32)
    real = jnp.full((1, SLOTS), 7.0)
    return DecodeState(
        tokens=jnp.where(jnp.arange(SLOTS) < length, 1 + jnp.arange(SLOTS), 7)[None],
        length=jnp.array([length]), limit=jnp.array([limit]), done=jnp.array([done]),
        key=random.row_keys(0, jnp.array([0])), rounds=jnp.int32(rounds),
        trace=Trace(real, real, whole, whole, whole, real, whole), target_cache="target's",
        draft_cache="draft's", extra=None, started=jnp.array(True),
    )  # fmt: skip


def commit_of(tree, leaf, *, ends=(), draft=LM, **state):
    """Commit a leaf; logits are their index, and the bonus is `BONUS`."""
    nodes = tree.tokens.shape[1]
    logits = jnp.arange(nodes * VOCAB, dtype=jnp.float32).reshape(1, nodes, VOCAB)
    logp = -logits
    bonus = jnp.where(jnp.arange(VOCAB) == BONUS, 0.0, -jnp.inf)[None]
    return commit(
        state_of(**state), tree, Verdict(jnp.array([leaf]), bonus), target=LM, draft=draft,
        target_cache="target's", draft_cache="draft's", logits=logits, logp=logp,
        controls=Controls(Warp(), Warp(), jnp.array(ends, jnp.int32)),
    )  # fmt: skip


def new_of(state, start=3):
    """The tokens that were committed, and all of the trace of the first of them."""
    n = int(state.length[0])
    return state.tokens[0, start:n].tolist()


@pytest.mark.parametrize(
    ("leaf", "tokens", "place"),
    [
        (0, [BONUS], [0]),
        (2, [2, BONUS], [1, 0]),
        (3, [1, 3, BONUS], [1, 2, 0]),
        (4, [2, 0, BONUS], [1, 2, 0]),
        (5, [1, 3, BONUS], [1, 2, 0]),  # a filler is no text
        (6, [2, 0, 1, BONUS], [1, 2, 3, 0]),
    ],
)
def test_the_path_and_the_bonus_are_the_text(leaf, tokens, place):
    state = commit_of(TREE, leaf)
    n = len(tokens)
    assert new_of(state) == tokens and state.length.tolist() == [3 + n]
    assert state.tokens[0, :3].tolist() == [1, 2, 3]
    assert state.trace.place[0, 3 : 3 + n].tolist() == place
    assert state.trace.round[0, 3 : 3 + n].tolist() == [2] * n
    assert not state.done.any() and state.rounds == 3
    for name in ("candidate", "log_ratio", "ending"):  # at the first token alone
        assert not np.asarray(getattr(state.trace, name))[0, 4 : 3 + n].any()
    for leaf_ in jax.tree.leaves(state.trace):  # before the block, and after it, as it was
        assert leaf_[0, :3].tolist() == [7] * 3 and leaf_[0, 7:].tolist() == [7] * 5


def test_log_probabilities_are_those_after_the_parent():
    """logp[n, v] = -(6 n + v): of 2 after 0, of 0 after 2, of 1 after 4, of the bonus after 6."""
    state = commit_of(TREE, 6)
    assert state.trace.logp[0, 3:7].tolist() == [-2, -12, -25, -40]
    lse = np.log(np.exp(np.arange(VOCAB)).sum())
    raw = np.array([2, 0, 1, BONUS]) - lse
    np.testing.assert_allclose(state.trace.logp_raw[0, 3:7], raw, atol=1e-5)
    # -2 - 12 - 25 less the reference of node 6
    assert state.trace.log_ratio[0, 3] == -39 + 3
    assert commit_of(TREE, 5).trace.log_ratio[0, 3] == -1 - 9 + 2.5  # the filler adds nothing
    assert commit_of(TREE, 0).trace.log_ratio[0, 3] == 0


def test_a_round_ends_for_the_first_reason_that_holds():
    def ending(tree, leaf, **more):
        return int(commit_of(tree, leaf, **more).trace.ending[0, 3])

    assert [ending(TREE, leaf) for leaf in (0, 1, 3, 5, 6)] == [REJECTED] * 3 + [DEPTH] * 2
    short = TREE.replace(valid=TREE.valid.at[0, 5:].set(False))  # nothing lies deeper than 2
    assert [ending(short, leaf) for leaf in (1, 3, 4)] == [REJECTED, DEPTH, DEPTH]
    assert ending(TREE, 1, limit=5) == LENGTH and ending(TREE, 1, limit=6) == REJECTED
    assert ending(TREE, 6, limit=7) == LENGTH and ending(TREE, 6, limit=8) == DEPTH
    assert ending(TREE, 1, limit=5, ends=[BONUS]) == END


@pytest.mark.parametrize(
    ("limit", "tokens", "candidate"),
    [(4, [2], 1), (5, [2, 0], 2), (6, [2, 0, 1], 3), (7, [2, 0, 1, BONUS], 3)],
)
def test_nothing_goes_past_the_limit(limit, tokens, candidate):
    state = commit_of(TREE, 6, limit=limit)
    assert new_of(state) == tokens and state.done.all()
    assert state.trace.candidate[0, 3] == candidate
    assert state.trace.log_ratio[0, 3] == -36  # of all that was accepted


def test_one_token_before_the_limit_is_not_at_it():
    state = commit_of(TREE, 6, limit=8)
    assert not state.done.any() and state.length.tolist() == [7]


def test_no_bonus_follows_an_end():
    state = commit_of(TREE, 4, ends=[0, 5])  # the path ends with token 0
    assert new_of(state) == [2, 0] and state.done.all()
    assert state.trace.ending[0, 3] == END
    state = commit_of(TREE, 3, ends=[0])  # node 4's token is an end, but not on the path
    assert new_of(state) == [1, 3, BONUS] and not state.done.any()
    state = commit_of(TREE, 5, ends=[3])  # a path that ended: its filler is no second end
    assert new_of(state) == [1, 3] and state.done.all()
    state = commit_of(TREE, 3, ends=[BONUS])
    assert new_of(state) == [1, 3, BONUS] and state.done.all()


def test_an_end_past_the_limit_ends_nothing():
    state = commit_of(TREE, 4, ends=[0], limit=4)
    assert new_of(state) == [2] and state.trace.ending[0, 3] == LENGTH


def test_a_row_that_is_done_gets_nothing():
    state = commit_of(TREE, 6, done=True)
    assert state.length.tolist() == [3] and state.done.all() and state.rounds == 3


def test_which_slots_are_kept():
    """Slot of node i is length - 1 + i, the text goes on at `length`."""
    state = commit_of(TREE, 6)
    assert state.target_cache == state.draft_cache[:2] + (7,) == ([4, 6, 8], [3], 7)
    assert state.draft_cache == ([4, 6, 8], [3], 9)  # of all scratch slots of the draft
    assert commit_of(TREE, 3).target_cache[0] == [3, 5, 2]  # past the leaf: node 0's
    moved = TREE.replace(slot=jnp.array([[0, 8, 7, 6, 5, 4, 3]]))
    state = commit_of(moved, 6)
    assert state.target_cache[0] == [4, 6, 8] and state.draft_cache[0] == [9, 7, 5]


def test_a_chain_lies_where_it_belongs():
    state = commit_of(CHAIN, 2)
    assert new_of(state) == [1, 2, BONUS]
    assert (state.target_cache, state.draft_cache) == ("target's", "draft's")
    beams = CHAIN.replace(slot=jnp.array([[0, 2, 4, 6]]), scratch=7)
    state = commit_of(beams, 2)
    assert state.target_cache == "target's" and state.draft_cache == ([4, 6, 2], [3], 7)
    assert commit_of(beams, 2, draft=None).draft_cache == "draft's"
    assert commit_of(TREE, 2, draft=None).draft_cache == "draft's"


def test_blocks_are_written_row_by_row_and_never_past_the_buffer():
    buffer, block = jnp.zeros((3, 5), jnp.int32), jnp.array([[1, 2, 3]] * 3)
    got = write_block(buffer, block, jnp.array([0, 2, 4]))
    assert got.tolist() == [[1, 2, 3, 0, 0], [0, 0, 1, 2, 3], [0, 0, 0, 0, 1]]
