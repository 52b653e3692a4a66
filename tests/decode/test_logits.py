"""What the controls know of a text and make of logits, by hand."""

import jax.numpy as jnp
import numpy as np
from hand_drafts import draft_of

from mtad_jax.decode.logits import History, extend, history, law, node_history
from mtad_jax.decode.state import Controls
from mtad_jax.decode.warp import Warp

VOCAB = 5
CONTROLS = Controls(
    Warp(), Warp(), jnp.array([1, 3]), penalty=jnp.float32(2.0), min_length=jnp.array([5, 2])
)
PLAIN = Controls(Warp(), Warp(), jnp.array([1, 3]))


class State:
    """Texts (0, 2) and (4, 4, 1); what lies behind them is scratch."""

    tokens = jnp.array([[0, 2, 3, 3], [4, 4, 1, 0]])
    length = jnp.array([2, 3])


def seen_of(past, row, place):
    return np.flatnonzero(past.seen[row, place]).tolist()


def test_the_text_alone_was_seen():
    past = history(State(), CONTROLS, VOCAB)  # type: ignore[arg-type]
    assert [seen_of(past, row, 0) for row in (0, 1)] == [[0, 2], [1, 4]]
    assert past.missing.tolist() == [[3], [-1]]
    assert history(State(), PLAIN, VOCAB) == History(None, None)  # type: ignore[arg-type]


def test_a_token_more():
    past = history(State(), CONTROLS, VOCAB)  # type: ignore[arg-type]
    both = extend(past, jnp.zeros((2, 2), int), jnp.array([[1, 2], [0, 3]]))
    assert [[seen_of(both, row, w) for w in (0, 1)] for row in (0, 1)] == [
        [[0, 1, 2], [0, 2]], [[0, 1, 4], [1, 3, 4]],
    ]  # fmt: skip
    assert both.missing.tolist() == [[2, 2], [-2, -2]]
    text = jnp.array([[True, False], [True, True]])
    third = extend(both, jnp.array([[1, 0], [0, 0]]), jnp.array([[4, 3], [0, 0]]), text)
    assert [seen_of(third, 0, w) for w in (0, 1)] == [[0, 2, 4], [0, 1, 2]]
    assert third.missing.tolist() == [[1, 2], [-3, -3]]  # a filler is no text
    nothing = extend(History(None, None), jnp.zeros((1, 1), int), jnp.zeros((1, 1), int))
    assert nothing == History(None, None)


class One:
    tokens, length = State.tokens[:1], State.length[:1]


def test_every_node_of_a_chain_and_of_a_tree_has_its_own_path():
    one = Controls(PLAIN.warp, PLAIN.warp, PLAIN.eos_ids, None, CONTROLS.penalty, jnp.array([5]))
    chain = draft_of((1, 4), (1, 1)).replace(tokens=jnp.array([[2, 1, 4]]))
    past = node_history(chain, One(), one, VOCAB)  # type: ignore[arg-type]
    assert [seen_of(past, 0, n) for n in range(3)] == [[0, 2], [0, 1, 2], [0, 1, 2, 4]]
    assert past.missing.tolist() == [[3, 2, 1]]
    window = jnp.array([[[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 1, 1]]], bool)
    tree = draft_of((1, 4, 3), (1, 1, 1)).replace(
        tokens=jnp.array([[2, 1, 4, 3]]), window=window, depth=(0, 1, 1, 2)
    )
    past = node_history(tree, One(), one, VOCAB)  # type: ignore[arg-type]
    assert [seen_of(past, 0, n) for n in range(4)] == [[0, 2], [0, 1, 2], [0, 2, 4], [0, 2, 3, 4]]
    assert past.missing.tolist() == [[3, 2, 2, 1]]
    assert node_history(tree, One(), PLAIN, VOCAB) == History(None, None)  # type: ignore[arg-type]


def test_the_law_under_each_control():
    logits = jnp.array([[[2.0, -1.0, 0.0, 1.0, 3.0]]])

    def probabilities(past, controls):
        return np.exp(np.asarray(law(logits, past, controls, controls.warp))[0, 0])

    def softmax(values):
        weights = np.exp(np.array(values))
        return weights / weights.sum()

    nothing = History(None, None)
    np.testing.assert_allclose(probabilities(nothing, PLAIN), softmax(logits[0, 0]), rtol=1e-5)
    seen = jnp.array([[[True, True, True, False, False]]])
    past = History(seen, jnp.array([[0]]))  # enough text: ends may come
    want = softmax([1.0, -2.0, 0.0, 1.0, 3.0])
    np.testing.assert_allclose(probabilities(past, CONTROLS), want, rtol=1e-5)
    past = History(seen, jnp.array([[1]]))
    want = softmax([1.0, -np.inf, 0.0, -np.inf, 3.0])
    np.testing.assert_allclose(probabilities(past, CONTROLS), want, rtol=1e-5)
    banned = PLAIN.replace(banned=jnp.array([True, False, False, False, True]))
    want = softmax([-np.inf, -1.0, 0.0, 1.0, -np.inf])
    np.testing.assert_allclose(probabilities(nothing, banned), want, rtol=1e-5)


def test_which_tokens_are_ends():
    assert PLAIN.is_end(jnp.array([[0, 1], [3, 4]])).tolist() == [[False, True], [True, False]]
    never = PLAIN.replace(eos_ids=jnp.zeros((0,), jnp.int32))
    assert never.is_end(jnp.array([0, 1])).tolist() == [False, False]
