"""Counters, blocks, cuts and certificates of a result that is written by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtad_jax.decode.certificate import certificate
from mtad_jax.decode.result import DecodeResult
from mtad_jax.decode.state import DEPTH, END, REJECTED, Trace

# Row 0: (a1, bonus), (bonus), (a1, a2, a3, bonus); row 1: (a1, end); row 2: nothing yet.
ROUND = [[0, 0, 1, 2, 2, 2, 2], [0, 0, 0, 0, 0, 0, 0], [0] * 7]
PLACE = [[1, 0, 0, 1, 2, 3, 0], [1, 2, 0, 0, 0, 0, 0], [0] * 7]
CANDIDATE = [[2, 0, 3, 3, 0, 0, 0], [2, 0, 0, 0, 0, 0, 0], [0] * 7]
RATIO = [[0.5, 0, 0, -0.25, 0, 0, 0], [-0.5, 0, 0, 0, 0, 0, 0], [0] * 7]
ENDING = [[REJECTED, 0, REJECTED, DEPTH, 0, 0, 0], [END, 0, 0, 0, 0, 0, 0], [0] * 7]
LOGP = [[-1, -2, -3, -1, -2, -3, -2], [-1, -0.5, 0, 0, 0, 0, 0], [0] * 7]


def result_of(bound=-1.0):
    trace = Trace(*map(np.array, (LOGP, LOGP, ROUND, PLACE, CANDIDATE, RATIO, ENDING)))
    length = np.array([7, 2, 0])
    bound = None if bound is None else np.float32(bound)
    return DecodeResult(np.ones((3, 7), int), length, length > 0, trace, bound, 3)


def shown(blocks):
    return [(b.start, b.tokens, b.accepted, b.candidate, b.log_ratio, b.ending) for b in blocks]


def test_it_is_shown_on_one_line():
    whole = result_of()
    assert repr(whole) == "DecodeResult(3 rows, 9 tokens, 2 done)"
    assert repr(jax.tree.map(jnp.asarray, whole)) == repr(whole)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), whole)
    assert repr(shapes) == "DecodeResult(3x7 tokens)"


def test_the_counters():
    stats = result_of().stats()
    assert stats.rounds.tolist() == [3, 1, 0]
    assert stats.accepted.tolist() == [4, 2, 0] and stats.drafted.tolist() == [8, 2, 0]
    assert stats.accepted_at.tolist() == [[2, 1, 1], [1, 1, 0], [0, 0, 0]]
    assert stats.endings.tolist() == [[2, 1, 0, 0], [0, 0, 1, 0], [0] * 4]
    np.testing.assert_allclose(stats.block_efficiency, [7 / 3, 3, 1])
    np.testing.assert_allclose(stats.acceptance_by_position[0], [2 / 3, 1 / 3, 1 / 3])
    assert stats.acceptance_by_position[2].tolist() == [0, 0, 0]


def test_the_blocks():
    rows = result_of().blocks()
    assert shown(rows[0]) == [
        (0, 2, 1, 2, 0.5, "rejected"), (2, 1, 0, 3, 0.0, "rejected"), (3, 4, 3, 3, -0.25, "depth"),
    ]  # fmt: skip
    assert shown(rows[1]) == [(0, 2, 2, 2, -0.5, "end")] and rows[2] == []


@pytest.mark.parametrize(
    ("cut", "last", "rounds", "drafted"),
    [
        (1, (0, 1, 1, 1, 0.5, "length"), 1, 1),  # through a round
        (2, (0, 2, 1, 2, 0.5, "rejected"), 1, 2),  # at its end
        (3, (2, 1, 0, 3, 0.0, "rejected"), 2, 5),
        (4, (3, 1, 1, 1, -0.25, "length"), 3, 6),
        (6, (3, 3, 3, 3, -0.25, "length"), 3, 8),
        (7, (3, 4, 3, 3, -0.25, "depth"), 3, 8),
        (9, (3, 4, 3, 3, -0.25, "depth"), 3, 8),
    ],
)
def test_a_cut(cut, last, rounds, drafted):
    result, length = result_of(), np.array([cut, 9, 9])
    rows, stats = result.blocks(length), result.stats(length)
    assert shown(rows[0])[-1] == last and len(rows[0]) == rounds == stats.rounds[0]
    assert stats.drafted.tolist() == [drafted, 2, 0]
    assert stats.accepted[0] == sum(b.accepted for b in rows[0])
    assert stats.endings.sum(axis=1).tolist() == [rounds, 1, 0]
    assert shown(rows[1]) == [(0, 2, 2, 2, -0.5, "end")]


def test_a_cut_to_nothing():
    result, length = result_of(), np.array([0, 1, 0])
    assert result.stats(length).rounds.tolist() == [0, 1, 0] and result.blocks(length)[0] == []
    assert shown(result.blocks(length)[1]) == [(0, 1, 1, 1, -0.5, "length")]


def test_perplexity_is_the_mean_of_the_rows_means():
    result = result_of()
    assert result.perplexity() == pytest.approx(math.exp((2 + 0.75 + 0) / 3))


def test_a_certificate_looks_at_blocks_with_an_accepted_token():
    found = certificate(result_of(-1.0))
    assert [(b.row, b.start, b.accepted) for b in found.blocks] == [(0, 0, 1), (0, 3, 3), (1, 0, 2)]
    assert found.holds and found.margin == 0.5 and found.rounds == 4
    broken = certificate(result_of(-0.5))
    assert not broken.holds and [b.holds for b in broken.blocks] == [True, True, False]
    assert broken.margin == 0.0
    with pytest.raises(ValueError, match="bound=None"):
        certificate(result_of(None))
