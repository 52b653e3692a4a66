"""Drafts against plain NumPy: prompt lookup, trees drawn from q, and chains that stop unsure."""

import dataclasses
import math

import jax
import numpy as np
import pytest
import reference as ref
import replay
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jitted import jit_of_rule

from mtad_jax.decode import random
from mtad_jax.decode.draft_verify import DraftVerify
from mtad_jax.decode.drafters.chain import Chain
from mtad_jax.decode.drafters.confident import ConfidentChain
from mtad_jax.decode.drafters.lookup import Lookup
from mtad_jax.decode.drafters.stochastic import StochasticBeams
from mtad_jax.decode.drafters.tree import Tree
from mtad_jax.decode.engine import generate, prepare
from mtad_jax.decode.request import Request
from mtad_jax.decode.verifiers.lossless.rejection import Rejection
from mtad_jax.decode.verifiers.plain import Ancestral
from mtad_jax.decode.warp import Warp
from mtad_jax.testing import TableLM, table_lm

SETTINGS = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
ROWS, BATCH, LENGTHS = 31, 5, np.array([1, 6, 3, 9, 4])
BRANCHING = (3, 2, 1)


def tables(seed=0, vocab=6):
    rng_ = np.random.default_rng(seed)
    return rng_.normal(scale=1.5, size=(2, ROWS, vocab)).astype(np.float32)


def prompts(seed, vocab=6):
    return np.random.default_rng(seed).integers(0, vocab, (BATCH, 9))


_propose = jit_of_rule(lambda drafter, lm, state, controls: drafter.propose(lm, state, controls)[0])


def propose(drafter, lm, ids, lengths=LENGTHS, **settings_):
    """Return the first round's draft as NumPy arrays; `lm` is target and draft."""
    # One strategy for all prefills: one program.
    call = prepare(
        lm, ids, lengths, strategy=DraftVerify(Chain(1), Ancestral()), draft=lm, max_new_tokens=4,
        slots=64, **settings_,
    )  # fmt: skip
    state = call.advance(call.state, np.int32(0))
    return jax.tree.map(np.asarray, _propose(drafter, lm, state, call.controls))


def noise(seed, shape):
    """Gumbel noise of the first round's first draft step and the next two, [3, B, *shape(step)]."""
    keys = random.row_keys(seed, np.arange(BATCH, dtype=np.int32))
    steps = (random.round_keys(keys, LENGTHS, random.DRAFT, step) for step in range(3))
    return [np.asarray(random.gumbel(k, shape(step))) for step, k in enumerate(steps)]


def looked_up(text, ends, depth, ngram):
    """Prompt lookup by plain loops."""
    for n in range(ngram, 0, -1):
        for start in range(len(text) - 1 - n, -1, -1):
            if text[start : start + n] == text[len(text) - n :]:
                return ref.cut_at_end(text[start + n : start + n + depth], frozenset(ends))
    return ()


@SETTINGS
@given(seed=st.integers(0, 2**31 - 1), vocab=st.integers(1, 4), ends=st.lists(
    st.integers(0, 3), min_size=2, max_size=2))  # fmt: skip
def test_lookup_takes_what_followed_the_last_occurrence(seed, vocab, ends):
    random = np.random.default_rng(seed)
    ids, lengths = random.integers(0, vocab, (BATCH, 14)), random.integers(3, 15, BATCH)
    draft = propose(Lookup(4, 3), table_lm(tables(vocab=4)[0]), ids, lengths, eos_id=ends)
    for row, n in enumerate(lengths):
        want = looked_up(tuple(ids[row, :n].tolist()), ends, 4, 3)
        e = len(want)
        assert draft.tokens[row, 1 : 1 + e].tolist() == list(want)
        assert draft.valid[row].tolist() == [0 < i <= e for i in range(5)]
        assert draft.length[row] == e and not draft.reference[row].any()
        one_hot = np.where(np.arange(4) == draft.tokens[row, 1:, None], 0.0, -np.inf)
        np.testing.assert_array_equal(draft.logq[row], one_hot)


def test_lookup_finds_something_in_a_text_that_repeats_itself():
    # The last token decides most of the next one.
    lm = table_lm(np.random.default_rng(0).normal(scale=3.0, size=(3, 12)))
    strategy = DraftVerify(Lookup(3, 1), Rejection())
    result = generate(lm, [[1, 2, 1, 2]], [4], strategy=strategy, max_new_tokens=40)
    assert result.stats().accepted[0] > 0


@pytest.mark.parametrize("replace", [True, False])
def test_trees_are_drawn_from_q_at_each_parent(replace):
    """Replays every draw of all nodes; no end token is among them, so all parents have children."""
    vocab, ends, seed, checked = 6, (4, 5), 7, 0
    warp = Warp(1.0, 1.0, 4)
    table = tables(1)[0]
    ids = prompts(3)
    tree = Tree(BRANCHING, replace)
    draft = propose(tree, table_lm(table), ids, eos_id=list(ends), warp=warp, seed=seed)
    shapes = [(n, b, vocab) if replace else (n, vocab) for n, b in ((1, 3), (3, 2), (6, 1))]
    drawn = noise(seed, lambda step: shapes[step])
    first = np.cumsum((0, *tree.sizes))
    assert draft.depth == (0, 1, 1, 1, *[2] * 6, *[3] * 6) and tree.nodes == 16 == draft.scratch
    for row, n in enumerate(LENGTHS):
        law = replay.WatchedLaw(ref.ControlledLaw(ref.TableModel(table.astype(float)), 1.0, 4))
        text, alive = {0: tuple(ids[row, :n].tolist())}, {0: True}
        total = {0: 0.0}
        for node in range(1, tree.nodes):
            level = draft.depth[node]
            place = node - first[level]
            parent = first[level - 1] + place // BRANCHING[level - 1]
            logq, child = law(text[parent]), place % BRANCHING[level - 1]
            its_noise = drawn[level - 1][row][parent - first[level - 1]]
            score = logq + (its_noise[child] if replace else its_noise)
            order = sorted(range(vocab), key=lambda i, score=score: -score[i])
            token = order[0 if replace else child]
            valid = alive[parent] and score[token] > -np.inf
            assert draft.parent[row, node] == parent and draft.valid[row, node] == valid
            text[node], alive[node] = (*text[parent], token), valid and token not in ends
            total[node] = total[parent] + (logq[token] if valid else 0.0)
            np.testing.assert_allclose(draft.reference[row, node], total[node], atol=1e-5)
            if valid:
                checked += 1
                assert draft.tokens[row, node] == token
                np.testing.assert_allclose(draft.logq[row, parent], logq, atol=1e-5)
            sees = {node} | set(np.flatnonzero(draft.window[row, parent]))
            assert set(np.flatnonzero(draft.window[row, node])) == sees
        chain = [draft.valid[row, first[level]] for level in (1, 2, 3)]
        assert draft.length[row] == sum(chain) and not draft.filler.any()
        assert law.gap > 1e-4
    assert 30 < checked < BATCH * (tree.nodes - 1)  # some texts ended


@pytest.mark.parametrize("replace", [True, False])
def test_a_tree_without_forks_is_the_chain(replace):
    lm, ids = table_lm(tables()[0]), prompts(0)
    tree, chain = (propose(d, lm, ids, eos_id=5) for d in (Tree((1, 1, 1), replace), Chain(3)))
    for name in ("valid", "reference", "length"):
        np.testing.assert_array_equal(getattr(tree, name), getattr(chain, name))
    np.testing.assert_array_equal(tree.tokens[chain.valid], chain.tokens[chain.valid])
    drawn = chain.valid[:, 1:]
    np.testing.assert_array_equal(tree.logq[drawn], chain.logq[drawn])


def test_siblings_without_replacement_differ_and_end_with_the_support():
    lm = table_lm(tables()[0])
    draft = propose(Tree((4, 1), False), lm, prompts(0), warp=Warp(1.0, 0.5))
    for row in range(BATCH):
        support = int((draft.logq[row, 0] > -np.inf).sum())
        valid = draft.valid[row, 1:5]
        assert valid.tolist() == [i < support for i in range(4)]
        assert len(set(draft.tokens[row, 1:5][valid].tolist())) == valid.sum()
    assert not draft.valid[:, 1:5].all()


def test_stochastic_beams_are_those_of_the_definition():
    """Every place of every depth, and what a rule is told of it; some paths end."""
    table, ids, ends, seed, shape = tables(1)[0], prompts(3), (4, 5), 7, (3, 3)
    draft = propose(StochasticBeams(*shape), table_lm(table), ids, eos_id=list(ends), seed=seed)
    drawn = noise(seed, lambda step: (1 if step == 0 else 3, 6))
    law, filled = ref.ControlledLaw(ref.TableModel(table.astype(float)), 1.0), 0
    assert draft.depth == (0, *[1] * 3, *[2] * 3, *[3] * 3) and draft.scratch == 10
    for row, n in enumerate(LENGTHS):
        text = tuple(ids[row, :n].tolist())
        steps = [step[row] for step in drawn]
        levels, gap = ref.perturbed_beams(law, text, *shape, frozenset(ends), steps)
        assert gap > 1e-4
        paths = {0: ()}
        for node in range(1, 10):
            step, place = divmod(node - 1, 3)
            path = levels[step][place]
            assert draft.valid[row, node] == (len(path) == step + 1)
            if not draft.valid[row, node]:
                assert draft.reference[row, node] == 0
                continue
            filled, parent = filled + 1, draft.parent[row, node]
            paths[node] = (*paths[parent], int(draft.tokens[row, node]))
            assert paths[node] == path
            log_q = sum(law(text + path[:i])[token] for i, token in enumerate(path))
            np.testing.assert_allclose(draft.reference[row, node], log_q, atol=1e-5)
            np.testing.assert_allclose(draft.logq[row, parent], law(text + path[:-1]), atol=1e-5)
            sees = {node} | set(np.flatnonzero(draft.window[row, parent]))
            assert set(np.flatnonzero(draft.window[row, node])) == sees
        assert draft.length[row] == len(levels[-1][0]) and not draft.filler.any()
    assert 9 < filled < 9 * BATCH


def test_one_stochastic_beam_is_the_chain_and_one_depth_the_tree():
    lm, ids = table_lm(tables()[0]), prompts(0)
    warp = Warp(1.0, 0.8)
    for beams, other in [
        (StochasticBeams(3, 1), Chain(3)),
        (StochasticBeams(1, 4), Tree((4,), False)),
    ]:
        got, want = (propose(d, lm, ids, eos_id=5, warp=warp) for d in (beams, other))
        np.testing.assert_array_equal(got.valid, want.valid)
        np.testing.assert_array_equal(got.length, want.length)
        np.testing.assert_allclose(got.reference[want.valid], want.reference[want.valid], atol=1e-6)
        np.testing.assert_array_equal(got.tokens[want.valid], want.tokens[want.valid])


def test_a_chain_that_is_never_unsure_is_the_chain():
    lm, ids = table_lm(tables()[0]), prompts(0)
    got, want = (propose(d, lm, ids, eos_id=5) for d in (ConfidentChain(3, 0.0), Chain(3)))
    for name in ("valid", "reference", "length", "filler"):
        np.testing.assert_array_equal(getattr(got, name), getattr(want, name))
    np.testing.assert_array_equal(got.tokens[want.valid], want.tokens[want.valid])
    drawn = want.valid[:, 1:]
    np.testing.assert_array_equal(got.logq[drawn], want.logq[drawn])


def test_an_unsure_chain_stops_before_the_token():
    """The raw law decides, whatever the warp; the tokens are those of the whole chain."""
    table, ids, warp = tables(4)[0], prompts(1), Warp(0.4, 0.9)
    lm = table_lm(table)
    whole = propose(Chain(3), lm, ids, warp=warp)
    fallback, seen = 0.45, set()
    draft = propose(ConfidentChain(3, fallback), lm, ids, warp=warp)
    for row, n in enumerate(LENGTHS):
        text = tuple(ids[row, :n].tolist())
        length = 0
        while length < 3:
            raw = np.exp(ref.warp(ref.TableModel(table.astype(float)).logits(text)))
            assert abs(raw.max() - fallback) > 1e-4
            if raw.max() < fallback:
                break
            text += (int(whole.tokens[row, 1 + length]),)
            length += 1
        assert draft.length[row] == length == draft.valid[row].sum()
        assert draft.tokens[row, 1 : 1 + length].tolist() == list(text[n:])
        alone = propose(
            ConfidentChain(3, fallback), lm, ids[row : row + 1], LENGTHS[row : row + 1],
            warp=warp, row_ids=[row],
        )  # fmt: skip
        mine = jax.tree.map(lambda x, row=row: x[row : row + 1], draft)
        jax.tree.map(np.testing.assert_array_equal, alone, mine)
        seen.add(length)
    assert {0, 3} < seen  # none, all, and something between


def test_a_batch_that_is_unsure_runs_the_draft_no_more():
    calls = []

    class Counted(TableLM):
        def apply(self, params, tokens, **call):
            jax.debug.callback(lambda: calls.append(1))
            return super().apply(params, tokens, **call)

    lm = table_lm(tables()[0])
    lm = dataclasses.replace(lm, model=Counted(ROWS, 6))
    for fallback, want in ((1.0, 1), (0.0, 4)):
        call = prepare(
            lm, prompts(0), LENGTHS, strategy=DraftVerify(ConfidentChain(4, fallback), Ancestral()),
            draft=lm, max_new_tokens=4,
        )  # fmt: skip
        draft = _propose(call.strategy.drafter, lm, call.state, call.controls)
        jax.block_until_ready(draft)
        jax.effects_barrier()
        assert len(calls) == want and draft.length.tolist() == [4 if want > 1 else 0] * BATCH
        calls.clear()
    done = call.state.replace(done=call.state.length > 0)  # rows that are done draft nothing
    draft = jax.block_until_ready(_propose(call.strategy.drafter, lm, done, call.controls))
    jax.effects_barrier()
    assert len(calls) == 1 and not draft.valid.any()


NO_TREES = Request(trees=False)
BAD = {
    "no levels": (Tree((), True), Request(), r"branching=\(\) must have at least one level"),
    "no children": (Tree((2, 0), True), Request(), r"branching=\(2, 0\) must be >= 1"),
    "many": (Tree((9, 1), True), Request(vocab=8), r"\(9, 1\) .* at most vocabulary=8.*lower"),
    "top-k": (Tree((4,), False), Request(vocab=8, draft_top_k=3), r"must be at most top_k=3"),
    "V": (Tree((4,), False), Request(vocab=3, draft_top_k=8), r"must be at most vocabulary=3"),
    "nodes": (Tree((32, 32), True), Request(), r"has 1057 nodes > 1024: lower branching"),
    "chains only": (Tree((1, 1), True), NO_TREES, r"a model runs chains only"),
    "lookup depth": (Lookup(0, 1), Request(), r"depth=0 must be >= 1"),
    "ngram": (Lookup(2, 0), Request(), r"ngram=0 must be >= 1"),
    "short": (Lookup(2, 5), Request(shortest=3), r"ngram=5 > 3 = the shortest prompt: lower ngram"),
    "confident depth": (ConfidentChain(0, 0.5), Request(), r"depth=0 must be >= 1"),
    "fallback": (ConfidentChain(2, 1.5), Request(), r"fallback=1\.5 must be in \[0, 1\]"),
    "no number": (ConfidentChain(2, math.nan), Request(), r"fallback=nan must be in \[0, 1\]"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_setting_is_named(name):
    drafter, request, message = BAD[name]
    with pytest.raises(ValueError, match=message) as error:
        drafter.check(request)
    assert "\n" not in str(error.value)


def test_what_is_in_range_passes():
    Tree((4, 2), True).check(Request(vocab=8, draft_top_k=3))  # equal draws are allowed
    Tree((3, 2), False).check(Request(vocab=8, draft_top_k=3))
    Lookup(2, 3).check(Request(shortest=3))
    ConfidentChain(2, 1.0).check(Request())
