"""Beam search against all texts there are, and the text that it writes at the end, by hand."""

import itertools
import types

import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref

from mtad_jax import recipes
from mtad_jax.decode.beams import Beams
from mtad_jax.decode.engine import generate, prepare
from mtad_jax.decode.logits import History
from mtad_jax.decode.state import END, LENGTH, Trace
from mtad_jax.decode.target_beams import beam_search
from mtad_jax.decode.target_beams.beam_search import BeamSearch, Search
from mtad_jax.decode.target_beams.live import LiveBeams
from mtad_jax.decode.target_beams.speculative_beam import SpeculativeBeam
from mtad_jax.testing import table_lm

VOCAB, NEW, WIDE = 3, 3, 3


def best_text(law, prompt, ends):
    """The text with the largest log p / tokens."""
    found = {}
    for tokens in itertools.product(range(VOCAB), repeat=NEW):
        stop = next((i + 1 for i, t in enumerate(tokens) if t in ends), NEW)
        logp = [float(law(prompt + tokens[:i])[tokens[i]]) for i in range(stop)]
        found[tokens[:stop]] = sum(logp) / stop
    return max(found, key=found.__getitem__)


def test_enough_beams_find_the_likeliest_text_per_token():
    table = np.random.default_rng(1).normal(scale=1.5, size=(31, VOCAB)).astype(np.float32)
    table[:, 2] += 1.0
    prompts = np.array(list(itertools.product(range(VOCAB), repeat=2)))
    lengths, ends = np.array([2, 1, 2] * 3), frozenset({2})
    result = generate(
        table_lm(table), prompts, lengths, strategy=BeamSearch(WIDE, "search"), max_new_tokens=NEW,
        eos_id=[2],
    )  # fmt: skip
    drawn = generate(
        table_lm(table), prompts, lengths, strategy=BeamSearch(3, "sample"), max_new_tokens=NEW,
        eos_id=[2],
    )  # fmt: skip
    law, checked, short = ref.law(ref.TableModel(table.astype(float))), 0, 0
    for row, n in enumerate(lengths):
        prompt = tuple(prompts[row, :n].tolist())
        text = best_text(law, prompt, ends)
        m = int(result.length[row])
        got = np.asarray(result.tokens)[row, :m].tolist()
        by_hand = sum(float(law(prompt + tuple(got[:i]))[t]) for i, t in enumerate(got))
        for trace in (result.trace.logp, result.trace.logp_raw):
            np.testing.assert_allclose(np.asarray(trace)[row, :m].sum(), by_hand, atol=1e-5)
        assert result.trace.ending[row, 0] == (END if got[-1] in ends else LENGTH)
        assert not np.asarray(result.trace.ending)[row, 1:].any()
        checked += tuple(got) == text
        short += m < NEW
        its = np.asarray(drawn.tokens)[row, : int(drawn.length[row])].tolist()
        assert not set(its[:-1]) & ends and (len(its) == NEW or its[-1] in ends)
    assert checked >= 8 and short and result.done.all()


def test_a_row_is_done_once_all_its_beams_have_ended():
    """Only the end may come: one beam ends in the first round, and there are no others."""
    table = np.where(np.arange(VOCAB) == 2, 0.0, -np.inf) + np.zeros((31, 1))
    result = generate(
        table_lm(table), [[0, 1]] * 9, [2] * 9, strategy=BeamSearch(WIDE, "search"),
        max_new_tokens=NEW, eos_id=[2],
    )  # fmt: skip
    assert result.tokens.tolist() == [[2, 0, 0]] * 9
    assert result.stats().rounds.tolist() == [1] * 9


def state_of(done=(True,), rounds=3):
    """A row of text length 2 after three rounds of two beams."""
    whole = jnp.zeros((1, 8), jnp.int32)
    real = whole.astype(jnp.float32)

    def history(*rows):
        return jnp.zeros((1, 8, 2), jnp.int32).at[0, : len(rows)].set(jnp.array(rows))

    beams = Beams(
        jnp.array([[0, 5]]), jnp.array([[0, 1]]), jnp.array([[-3.0, -3.2]]),
        jnp.array([[True, True]]), jnp.array([[True, False]]), jnp.array([[True, False]]),
    )  # fmt: skip
    token = history([1, 2], [3, 4], [0, 5])
    live = LiveBeams(
        beams, jnp.zeros((1, 2, 8), bool), token, history([0, 0], [1, 0], [0, 1]),
        -token.astype(jnp.float32), -2.0 * token, History(None, None), jnp.array([[2, 3]]),
        jnp.array([rounds]),
    )  # fmt: skip
    extra = Search(live, jnp.array([rounds]))
    state = types.SimpleNamespace(
        tokens=jnp.full((1, 8), 9), length=jnp.array([2]), done=jnp.array(done), extra=extra,
        trace=Trace(real, real, whole, whole, whole, real, whole),
    )  # fmt: skip
    return state


@pytest.fixture(autouse=True)
def any_state(monkeypatch):
    """Lets `finish` take a stand-in for a state."""
    replace = beam_search.dataclasses.replace

    def either(state, **change):
        if isinstance(state, types.SimpleNamespace):
            return types.SimpleNamespace(**vars(state) | change)
        return replace(state, **change)

    monkeypatch.setattr(beam_search.dataclasses, "replace", either)


def test_the_best_path_per_token_is_written():
    """Place 1 has -3.2 / 3, place 0 -3 / 2; place 1 came from place 1, which came from 0."""
    rule = BeamSearch(2, "search")
    out = rule.finish(state_of())  # type: ignore[arg-type]
    assert out.length.tolist() == [5] and out.tokens[0].tolist() == [9, 9, 1, 4, 5, 9, 9, 9]
    assert out.trace.logp[0].tolist() == [0, 0, -1, -4, -5, 0, 0, 0]
    assert out.trace.logp_raw[0].tolist() == [0, 0, -2, -8, -10, 0, 0, 0]
    assert out.trace.round[0].tolist() == [0, 0, 2, 2, 2, 0, 0, 0]
    assert out.trace.ending[0].tolist() == [0, 0, LENGTH, 0, 0, 0, 0, 0]
    state = state_of()
    live = state.extra.live
    beams = live.beams.replace(valid=jnp.array([[True, False]]))
    state.extra = state.extra.replace(live=live.replace(beams=beams))
    out = rule.finish(state)  # type: ignore[arg-type]
    assert out.tokens[0].tolist() == [9, 9, 2, 3, 9, 9, 9, 9] and out.length.tolist() == [4]
    assert out.trace.ending[0, 2] == END


def test_a_row_that_goes_on_has_no_text_yet():
    out = BeamSearch(2, "search").finish(state_of(done=(False,)))  # type: ignore[arg-type]
    assert out.length.tolist() == [2] and out.tokens[0].tolist() == [9] * 8


def test_what_the_rules_of_the_targets_own_beams_say_of_themselves():
    for rule in (BeamSearch(3, "search"), SpeculativeBeam(3, "search", 2, 4), recipes.mtjd(2, 3)):
        assert not rule.lossless and rule.bound is None and rule.depth == 0
    assert BeamSearch(3, "search").scratch(7) == 21
    assert SpeculativeBeam(3, "search", 2, 4).scratch(7) == 3 * 8 + 2 * 4


def test_rounds_are_counted_as_they_run():
    call = prepare(
        table_lm(np.zeros((7, VOCAB))), [[0, 1]], [2], strategy=BeamSearch(WIDE, "search"),
        max_new_tokens=4,
    )  # fmt: skip
    state = call.advance(call.state, 3)
    assert state.rounds == 3 and not state.done[0]
    state = call.advance(state, 2**31)
    assert state.rounds == 4 and state.done[0]
