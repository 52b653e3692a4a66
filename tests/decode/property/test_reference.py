"""The reference against itself: enumeration, hand-computed cases and the provable bounds."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import reference as ref
from hypothesis import given, settings
from hypothesis import strategies as st

# Nothing of the package is used here: only a change of the oracle can change the outcome.
pytestmark = pytest.mark.heavy

PROMPT = (1, 0)
TAUS = [0.0, 1e-3, 0.1, 0.5, 0.9, 1.0, 1.5, math.inf]
SETTINGS = settings(max_examples=200, deadline=None, derandomize=True)
WARPS = [{}, {"temperature": 0.7}, {"top_k": 2}, {"top_p": 0.6}, {"top_k": 3, "top_p": 0.8}]


@dataclasses.dataclass(frozen=True)
class Case:
    """Two table models with their laws, a block size, a threshold and the end tokens."""

    p_model: ref.TableModel
    p_warp: dict
    q_model: ref.TableModel
    q_warp: dict
    depth: int
    width: int
    tau: float
    ends: frozenset
    seed: int

    @property
    def vocab(self):
        return self.p_model.table.shape[1]

    @property
    def target(self):
        return ref.law(self.p_model, **self.p_warp)

    @property
    def draft(self):
        return ref.law(self.q_model, **self.q_warp)

    def lattice(self, sample=False, draft=None):
        draft = draft or self.draft
        size = {"depth": self.depth, "width": self.width, "ends": self.ends}
        if not sample:
            return ref.draft_search(draft, PROMPT, **size)
        shape = (self.depth, self.width, self.vocab)
        noise = np.random.default_rng(self.seed).gumbel(size=shape)
        return ref.draft_sample(draft, PROMPT, noise, **size)


@st.composite
def cases(draw, max_vocab=4, max_depth=3):
    """Tables of few half-integers (ties!) or of reals; some ends; some warps."""
    vocab = draw(st.integers(2, max_vocab))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    tables = rng.normal(scale=1.5, size=(2, draw(st.integers(1, 7)), vocab))
    if draw(st.booleans()):
        tables = np.round(2 * tables) / 2
    return Case(
        ref.TableModel(tables[0]),
        draw(st.sampled_from([*WARPS, {"temperature": 0.0}])),
        ref.TableModel(tables[1]),
        draw(st.sampled_from(WARPS)),
        draw(st.integers(1, max_depth)),
        draw(st.integers(1, 5)),
        draw(st.sampled_from(TAUS)),
        draw(st.sampled_from([frozenset(), frozenset({0}), frozenset({vocab - 1})])),
        seed,
    )


# ---------------------------------------------------------------- warp


def probs(*args, **kwargs):
    return np.exp(ref.warp(*args, **kwargs))


def test_temperature_zero_is_one_hot_on_the_lowest_id_of_the_largest():
    for top_k, top_p in [(0, 1.0), (2, 0.5), (0, 0.0)]:
        np.testing.assert_array_equal(probs([1, 3, 3, 2], 0.0, top_k, top_p), [0, 1, 0, 0])


def test_top_k_keeps_exactly_k_and_breaks_ties_by_the_lowest_id():
    np.testing.assert_allclose(probs([0, 1, 1, 1], top_k=2), [0, 0.5, 0.5, 0])
    np.testing.assert_allclose(probs([5, 5, 5], top_k=1), [1, 0, 0])


@pytest.mark.parametrize("top_k", [0, 3, 4, 100])
def test_top_k_of_zero_or_at_least_v_keeps_all(top_k):
    np.testing.assert_allclose(probs([0, 0, 0], top_k=top_k), np.full(3, 1 / 3))


@pytest.mark.parametrize(
    ("top_p", "expected"),
    [
        (0.0, [1, 0, 0, 0]),
        (0.25, [1, 0, 0, 0]),  # the mass before the second is 0.25, not less
        (0.26, [0.5, 0.5, 0, 0]),
        (0.5, [0.5, 0.5, 0, 0]),
        (0.75, [1 / 3, 1 / 3, 1 / 3, 0]),
        (0.76, [0.25, 0.25, 0.25, 0.25]),
        (1.0, [0.25, 0.25, 0.25, 0.25]),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_top_p_at_exact_masses(top_p, expected, dtype):
    np.testing.assert_allclose(probs([2] * 4, top_p=top_p, dtype=dtype), expected, rtol=1e-6)


def test_top_p_of_one_keeps_a_tail_that_float32_sums_would_cut():
    logits = [0.0] + [-40.0] * 3
    assert np.isfinite(ref.warp(logits, top_p=1.0, dtype=np.float32)).all()
    assert np.isfinite(ref.warp(logits, top_p=2.0, dtype=np.float32)).all()
    assert np.isneginf(ref.warp(logits, top_p=0.999, dtype=np.float32)[1:]).all()


def test_top_p_works_on_the_mass_that_top_k_left():
    # Of 0.4, 0.3, 0.2, 0.1 top-k keeps 4/7, 3/7: the mass before the second is 0.571.
    logits = np.log([0.2, 0.4, 0.1, 0.3])
    np.testing.assert_allclose(probs(logits, top_k=2, top_p=0.5), [0, 1, 0, 0])
    np.testing.assert_allclose(probs(logits, top_p=0.5), [0, 4 / 7, 0, 3 / 7])


def test_temperature_comes_before_top_p():
    logits = np.log([0.6, 0.3, 0.1])
    np.testing.assert_allclose(probs(logits, 0.5, top_p=0.7), [1, 0, 0])  # 36 : 9 : 1
    np.testing.assert_allclose(probs(logits, top_p=0.7), [2 / 3, 1 / 3, 0])


def test_ids_past_the_vocabulary_get_nothing():
    np.testing.assert_allclose(probs([0, 0, 9, 9], vocab_size=2), [0.5, 0.5, 0, 0])
    np.testing.assert_allclose(probs([0, 1, 9, 9], 0.0, vocab_size=2), [0, 1, 0, 0])


@given(st.integers(0, 2**32 - 1), st.integers(0, 9), st.floats(0, 1.2))
@SETTINGS
def test_warp_is_a_law_on_a_leading_set_of_tokens(seed, top_k, top_p):
    logits = np.random.default_rng(seed).normal(size=8)
    out = probs(logits, 0.8, top_k, top_p)
    assert abs(out.sum() - 1) < 1e-12
    count = int((out > 0).sum())
    assert 1 <= count <= (top_k or 8)
    assert set(np.flatnonzero(out)) == set(np.argsort(-logits)[:count])
    kept = np.exp(logits / 0.8) * (out > 0)
    np.testing.assert_allclose(out, kept / kept.sum(), rtol=1e-12)


@given(st.integers(0, 2**32 - 1), st.integers(0, 9), st.floats(0, 0.999))
@SETTINGS
def test_float32_keeps_the_same_tokens_where_the_gap_is_wide(seed, top_k, top_p):
    logits = np.random.default_rng(seed).normal(size=8)
    if ref.warp_gap(logits, 0.8, top_k, top_p) > 1e-5:
        exact = probs(logits, 0.8, top_k, top_p)
        rough = probs(logits, 0.8, top_k, top_p, dtype=np.float32)
        np.testing.assert_allclose(rough, exact, rtol=1e-5)


def test_warp_gap_sees_ties_and_exact_masses():
    assert ref.warp_gap([0, 1, 1, 1], top_k=2) == 0
    assert ref.warp_gap([1, 1, 0], 0.0) == 0
    assert ref.warp_gap(np.log([0.5, 0.25, 0.25]), top_p=0.5) < 1e-15
    assert ref.warp_gap(np.log([0.5, 0.3, 0.2]), top_p=0.7) == pytest.approx(0.1)


def test_table_row_by_hand():
    model = ref.TableModel(np.arange(20.0).reshape(5, 4))
    assert [model.row(t) for t in [(), (0,), (3,), (3, 2), (3, 2, 1)]] == [0, 1, 4, 1, 4]
    np.testing.assert_array_equal(model.logits((3, 2)), [4, 5, 6, 7])


# ---------------------------------------------------------------- the draft


@given(cases(), st.booleans())
@SETTINGS
def test_lattice_is_well_formed(case, sample):
    lattice, draft = case.lattice(sample), case.draft
    offered = 1
    for d in range(1, case.depth + 1):
        above, nodes = lattice.depths[d - 1], lattice.depths[d]
        valid = [i for i, node in enumerate(nodes) if node.valid]
        texts = [lattice.text(d, i) for i in valid]
        parents = [(b, PROMPT + lattice.text(d - 1, b)) for b, n in enumerate(above) if n.valid]
        offered = sum(
            1 if above[b].ended else int(np.isfinite(draft(text)).sum()) for b, text in parents
        )
        assert valid == list(range(min(case.width, offered)))
        assert len(set(texts)) == len(texts)
        for i, text in zip(valid, texts, strict=True):
            node, parent = nodes[i], above[nodes[i].parent]
            assert node.filler == parent.ended
            assert node.ended == bool(set(text) & case.ends)
            assert len(text) == d - sum(n.filler for n in lattice.nodes(d, i))
            assert not set(text[:-1]) & case.ends
            steps = ref.step_log_probs(draft, PROMPT, text, case.ends)
            assert node.log_q == pytest.approx(steps.sum())
            if node.filler:
                assert (node.log_q, node.token) == (parent.log_q, 0)
    last = [n.log_q for n in lattice.depths[-1] if n.valid]
    assert lattice.star[-1] == last.index(max(last))
    assert lattice.star == lattice.places(case.depth, lattice.star[-1])


@given(cases())
@SETTINGS
def test_search_keeps_the_largest_and_a_wide_one_finds_the_argmax_of_the_joint(case):
    case = dataclasses.replace(case, width=case.vocab ** (case.depth - 1))
    lattice = case.lattice()
    joint = {}
    for tokens in itertools.product(range(case.vocab), repeat=case.depth):
        text = ref.cut_at_end(tokens, case.ends)
        joint[text] = ref.step_log_probs(case.draft, PROMPT, text, case.ends).sum()
    best = max(joint.values())
    assert lattice.star[-1] == 0
    assert joint[lattice.star_tokens] == pytest.approx(best)
    kept = [n.log_q for n in lattice.depths[-1] if n.valid]
    assert kept == sorted(kept, reverse=True)
    np.testing.assert_allclose(kept, sorted(joint.values(), reverse=True)[: len(kept)])


def test_ties_go_to_the_lowest_pair():
    flat = ref.law(ref.TableModel(np.zeros((1, 3))))
    lattice = ref.draft_search(flat, PROMPT, depth=2, width=4)
    assert [(n.parent, n.token, n.valid) for n in lattice.depths[1]] == [
        (0, 0, True),
        (0, 1, True),
        (0, 2, True),
        (0, 0, False),
    ]
    assert [(n.parent, n.token) for n in lattice.depths[2]] == [(0, 0), (0, 1), (0, 2), (1, 0)]
    assert lattice.gap == 0


def test_fillers_compete_with_their_whole_joint_and_can_be_pruned():
    # Every row is 0.5, 0.3, 0.2; token 1 ends the text.
    draft = ref.law(ref.TableModel(np.log([[0.5, 0.3, 0.2]])))
    lattice = ref.draft_search(draft, PROMPT, depth=3, width=2, ends=frozenset({1}))
    rows = [
        [(n.token, n.parent, n.filler, round(math.exp(n.log_q), 6)) for n in nodes]
        for nodes in lattice.depths[1:]
    ]
    assert rows[0] == [(0, 0, False, 0.5), (1, 0, False, 0.3)]
    assert rows[1] == [(0, 1, True, 0.3), (0, 0, False, 0.25)]
    assert rows[2] == [(0, 0, True, 0.3), (0, 1, False, 0.125)]
    assert lattice.star == (0, 1, 0, 0)
    assert lattice.star_tokens == (1,)
    draft = by_depth(np.log([[0.8, 0.2], [0.5, 0.5], [0.5, 0.5]]))  # 0.4, 0.4 prune 0.2
    lattice = ref.draft_search(draft, (), depth=2, width=2, ends=frozenset({1}))
    assert [n.ended for n in lattice.depths[1]] == [False, True]
    assert [lattice.text(2, i) for i in range(2)] == [(0, 0), (0, 1)]


def test_sample_with_an_ended_path_uses_the_noise_of_column_zero():
    draft = ref.law(ref.TableModel(np.log([[0.5, 0.3, 0.2]])))
    noise = np.zeros((2, 2, 3))
    noise[0, 0] = [0, 5, -50]  # the end first, then token 0
    noise[1, 0] = [-9, 99, 99]  # column 0 of the ended beam: others are not on offer
    lattice = ref.draft_sample(draft, PROMPT, noise, depth=2, width=2, ends=frozenset({1}))
    assert [n.token for n in lattice.depths[1]] == [1, 0]
    assert [(n.parent, n.token) for n in lattice.depths[2]] == [(1, 0), (1, 1)]
    assert lattice.star == (0, 1, 0)


def test_sample_draws_without_replacement_in_proportion_to_the_joint():
    weights = np.array([0.6, 0.3, 0.1])
    draft = ref.law(ref.TableModel(np.log(weights)[None]))
    rng, draws = np.random.default_rng(0), 4000
    counts = dict.fromkeys(itertools.permutations(range(3), 2), 0)
    for noise in rng.gumbel(size=(draws, 1, 2, 3)):
        lattice = ref.draft_sample(draft, (), noise, depth=1, width=2)
        counts[tuple(n.token for n in lattice.depths[1])] += 1
    for (a, b), count in counts.items():
        expected = weights[a] * weights[b] / (1 - weights[a])
        assert abs(count / draws - expected) < 5 * math.sqrt(expected / draws)


# ---------------------------------------------------------------- MTAD and MMTAD


@given(cases(), st.booleans(), st.floats(0.01, 1.2))
@SETTINGS
def test_every_provable_bound_on_random_lattices(case, sample, tau):
    lattice, target = case.lattice(sample), case.target
    for value in (tau, case.tau):
        ref.check_lattice(lattice, target, case.draft, PROMPT, value)


@given(cases(), st.booleans())
@SETTINGS
def test_the_limits_of_the_threshold(case, sample):
    lattice, target = case.lattice(sample), case.target
    for accept in (ref.mtad_accept, ref.mmtad_accept):
        nothing = accept(lattice, target, PROMPT, math.inf)
        assert (nothing.depth, nothing.tokens) == (0, ())
        np.testing.assert_array_equal(nothing.bonus, target(PROMPT))
        tiny, zero = (accept(lattice, target, PROMPT, tau) for tau in (1e-300, 0.0))
        assert (tiny.depth, tiny.place) == (zero.depth, zero.place)
    one = ref.mtad_accept(lattice, target, PROMPT, 0.0)
    log_p = [ref.node_log_p(lattice, target, PROMPT, d, i) for d, i in enumerate(lattice.star)]
    # p = 0 stays 0: the possible prefixes are the first ones (the empty one is not counted).
    assert one.depth == np.isfinite(log_p).sum() - 1


@given(cases(), st.booleans(), st.sampled_from([1e-6, 0.5, 0.999999]))
@SETTINGS
def test_draft_equal_to_target_accepts_depth_k(case, sample, tau):
    lattice = case.lattice(sample, case.target)
    ref.check_same_model(lattice, case.target, PROMPT, tau)
    many = ref.mmtad_accept(lattice, case.target, PROMPT, tau)
    assert many.place == lattice.star[-1]
    assert ref.mtad_accept(lattice, case.target, PROMPT, 1.0).depth == 0  # strict: 0 > 0 fails


@given(cases(), st.booleans())
@SETTINGS
def test_target_at_temperature_zero_gives_greedys_text(case, many):
    target = ref.law(case.p_model, temperature=0.0)
    shape = {"depth": case.depth, "width": case.width, "ends": case.ends}
    for tau in TAUS:
        round_ = ref.mtad_round(target, case.draft, tau=tau, many=many, **shape)
        limit = {"max_new_tokens": 7, "ends": case.ends}
        new = ref.decode(round_, PROMPT, **limit)
        ref.check_greedy(new, target, PROMPT, **limit)


@given(cases(), st.booleans())
@SETTINGS
def test_the_verdict_is_the_one_found_by_brute_force(case, sample):
    """Pass or fail of every node by ratios of products of probabilities, then the rule."""
    lattice, target, draft = case.lattice(sample), case.target, case.draft
    if case.tau in (0.0, math.inf) or ref.accept_gap(lattice, target, PROMPT, case.tau) < 1e-9:
        return
    star, passed = lattice.star_tokens, []
    for d, nodes in enumerate(lattice.depths):
        q_star = math.prod(np.exp(draft(PROMPT + star[:i])[t]) for i, t in enumerate(star[:d]))
        for i, node in enumerate(nodes):
            if d and node.valid:
                text = lattice.text(d, i)
                p = math.prod(np.exp(target(PROMPT + text[:j])[t]) for j, t in enumerate(text))
                if p / q_star > case.tau:
                    passed.append((d, p, -i, text))
    on_star = [row for row in passed if -row[2] == lattice.star[row[0]]]
    for rows, accept in ((on_star, ref.mtad_accept), (passed, ref.mmtad_accept)):
        d, _, _, text = max(rows, default=(0, 1, 0, ()))
        verdict = accept(lattice, target, PROMPT, case.tau)
        assert (verdict.depth, verdict.tokens) == (d, text)
        over = bool(set(text) & case.ends)
        assert verdict.ended == over
        if over:
            assert verdict.bonus is None
        else:
            np.testing.assert_array_equal(verdict.bonus, target(PROMPT + text))


def by_depth(rows):
    """A law that looks at the number of tokens alone."""
    return lambda text: np.asarray(rows[len(text)])


def test_a_failing_shorter_prefix_does_not_stop_the_scan():
    draft = by_depth(np.log([[0.9, 0.1], [0.6, 0.4], [0.5, 0.5]]))
    target = by_depth(np.log([[0.4, 0.6], [0.99, 0.01], [0.7, 0.3]]))
    lattice = ref.draft_search(draft, (), depth=2, width=1)  # R_1 = 0.444, R_2 = 0.733
    verdict = ref.mtad_accept(lattice, target, (), 0.5)
    assert (verdict.depth, verdict.tokens) == (2, (0, 0))
    np.testing.assert_allclose(np.exp(verdict.bonus), [0.7, 0.3])
    assert ref.mtad_accept(lattice, target, (), 0.74).depth == 0


def test_an_accepted_end_commits_its_text_only_and_no_bonus():
    draft = by_depth(np.log([[0.2, 0.8]] * 4))
    target = by_depth(np.log([[0.5, 0.5]] * 4))
    lattice = ref.draft_search(draft, (), depth=3, width=2, ends=frozenset({1}))
    for accept in (ref.mtad_accept, ref.mmtad_accept):
        verdict = accept(lattice, target, (), 0.5)  # R = 0.625 at every depth, by fillers
        assert (verdict.depth, verdict.tokens, verdict.ended) == (3, (1,), True)
        assert verdict.bonus is None


def test_mmtad_can_be_deeper_and_yet_commit_fewer_tokens():
    # x* = 0, 0; the path (1,) ended at once, and its filler passes at depth 2 with more p.
    draft = by_depth(np.log([[0.6, 0.4], [0.9, 0.1], [0.5, 0.5]]))
    target = by_depth(np.log([[0.45, 0.55], [0.9, 0.1], [0.5, 0.5]]))
    lattice = ref.draft_search(draft, (), depth=2, width=2, ends=frozenset({1}))
    one = ref.mtad_accept(lattice, target, (), 0.5)
    many = ref.mmtad_accept(lattice, target, (), 0.5)
    assert (one.depth, one.tokens, one.ended) == (2, (0, 0), False)
    assert (many.depth, many.tokens, many.ended) == (2, (1,), True)


def test_mmtad_looks_the_threshold_up_by_ancestor_not_by_place():
    """x* ends in place 0 of the last depth, but its ancestor is place 1 of the first."""

    def draft(text):
        rows = {(): [0.6, 0.4], (0,): [0.5, 0.5], (1,): [1.0, 0.0]}
        return np.log(np.maximum(rows.get(text, [0.5, 0.5]), 1e-30))

    def target(text):
        return np.log({(): [0.25, 0.75]}.get(text, [0.5, 0.5]))

    lattice = ref.draft_search(draft, (), depth=2, width=2)
    assert lattice.star == (0, 1, 0)
    # Depth 1: p = 0.25, 0.75 over q(x*_1) = 0.4: both pass tau = 0.6; over 0.6 only one would.
    assert ref.passing(lattice, target, (), 0.6)[1] == [0, 1]
    assert ref.mmtad_accept(lattice, target, (), 0.99).tokens == (1,)


@given(cases())
@SETTINGS
def test_float32_agrees_where_the_gaps_are_wide(case):
    rough_p = ref.law(case.p_model, **case.p_warp, dtype=np.float32)
    rough_q = ref.law(case.q_model, **case.q_warp, dtype=np.float32)
    exact, rough = case.lattice(), case.lattice(draft=rough_q)
    gaps = [exact.gap, ref.accept_gap(exact, case.target, PROMPT, case.tau)]
    for new in [(), *all_texts(exact)]:
        text = PROMPT + new
        gaps.append(ref.warp_gap(case.p_model.logits(text), **case.p_warp))
        gaps.append(ref.warp_gap(case.q_model.logits(text), **case.q_warp))
    if min(gaps) < 1e-4:
        return
    assert rough.depths[-1][0].log_q.dtype == np.float32
    for accept in (ref.mtad_accept, ref.mmtad_accept):
        a = accept(exact, case.target, PROMPT, case.tau)
        b = accept(rough, rough_p, PROMPT, case.tau)
        assert (a.depth, a.place, a.tokens) == (b.depth, b.place, b.tokens)


def all_texts(lattice):
    for d in range(1, lattice.depth + 1):
        for i, node in enumerate(lattice.depths[d]):
            if node.valid:
                yield lattice.text(d, i)


# ---------------------------------------------------------------- a random threshold


@given(cases())
@SETTINGS
def test_tail_of_the_accepted_length_for_a_random_threshold(case):
    rng = np.random.default_rng(case.seed)
    tokens = ()
    for _ in range(case.depth):
        tokens += (int(rng.choice(case.vocab, p=np.exp(case.draft(PROMPT + tokens)))),)
    steps = ref.block(case.target, case.draft, PROMPT, tokens, case.ends)
    ref.check_random_threshold(steps)


def test_tail_by_hand():
    steps = ref.Block(np.log([0.2, 0.9]), np.log([0.8, 0.3]))  # R = 0.25, 0.75
    np.testing.assert_allclose(ref.exact_tail(steps), [1, 0.75, 0.75])
    np.testing.assert_allclose(ref.speculative_tail(steps), [1, 0.25, 0.25])
    steps = ref.Block(np.log([0.6, 0.2]), np.log([0.3, 0.8]))  # R = 2, 0.5
    np.testing.assert_allclose(ref.exact_tail(steps), [1, 1, 0.5])


# ---------------------------------------------------------------- speculative sampling


@given(cases(max_vocab=3))
@SETTINGS
def test_speculative_law_is_the_targets(case):
    exact = ref.target_law(case.target, PROMPT, ends=case.ends)
    spec = ref.speculative_law(case.target, case.draft, PROMPT, case.depth, ends=case.ends)
    assert sum(exact.values()) == pytest.approx(1)
    assert ref.distance(exact, spec) < 1e-12


def test_speculative_law_of_three_tokens_of_a_vocabulary_of_four():
    tables = np.random.default_rng(3).normal(size=(2, 7, 4))
    target, draft = (ref.law(ref.TableModel(table)) for table in tables)
    for ends in (frozenset(), frozenset({2})):
        exact = ref.target_law(target, PROMPT, 3, ends)
        assert ref.distance(exact, ref.speculative_law(target, draft, PROMPT, 2, 3, ends)) < 1e-12


def test_target_law_is_the_product_of_conditionals():
    target = ref.law(ref.TableModel(np.random.default_rng(0).normal(size=(5, 3))))
    exact = ref.target_law(target, PROMPT, ends=frozenset({2}))
    first = np.exp(target(PROMPT))
    assert exact[(2,)] == pytest.approx(first[2])
    assert exact[(0, 2)] == pytest.approx(first[0] * np.exp(target((*PROMPT, 0))[2]))
    assert len(exact) == 1 + 2 * 3


def test_enumeration_sees_that_mtad_is_lossy_and_a_wrong_residual_too(monkeypatch):
    tables = np.random.default_rng(1).normal(size=(2, 7, 3))
    target, draft = (ref.law(ref.TableModel(table)) for table in tables)
    exact = ref.target_law(target, PROMPT)
    round_ = ref.mtad_round(target, draft, depth=2, width=3, tau=0.1)
    assert ref.distance(exact, ref.exact_law(ref.round_outcomes(round_), PROMPT)) > 0.01
    monkeypatch.setattr(ref.speculation, "residual", lambda p, q: p)
    assert ref.distance(exact, ref.speculative_law(target, draft, PROMPT, 2)) > 0.01


@given(cases(), st.lists(st.floats(0, 1, exclude_max=True), min_size=3, max_size=3))
@SETTINGS
def test_speculative_round_counts_the_passes(case, uniforms):
    rng, chain = np.random.default_rng(case.seed), ()
    for _ in range(case.depth):
        chain += (int(rng.choice(case.vocab, p=np.exp(case.draft(PROMPT + chain)))),)
    accepted, follow = ref.speculative_round(
        case.target, case.draft, PROMPT, chain, uniforms, case.ends
    )
    text = ref.cut_at_end(chain, case.ends)
    steps = ref.block(case.target, case.draft, PROMPT, text, case.ends)
    ratios = np.exp(steps.step_p - steps.step_q)
    tests = [u < r for u, r in zip(uniforms, ratios, strict=False)]
    count = tests.index(False) if False in tests else len(tests)
    if all(abs(u - r) > 1e-12 for u, r in zip(uniforms, ratios, strict=False)):
        assert accepted == text[:count]
    assert (follow is None) == bool(accepted and accepted[-1] in case.ends)
    if follow is not None:
        assert np.exp(follow).sum() == pytest.approx(1)


def test_speculative_round_edges():
    even, sure = (ref.law(ref.TableModel(np.array([row]))) for row in ([0.0, 0.0], [0.0, -np.inf]))
    # u = 0 must not pass p = 0, and the residual then is the target's only token.
    accepted, follow = ref.speculative_round(sure, even, (), (1,), [0.0])
    assert accepted == ()
    np.testing.assert_array_equal(np.exp(follow), [1, 0])
    # p = q: any u < 1 passes, u = 1 would not; no mass is left, so p itself stands in.
    assert ref.speculative_round(even, even, (), (0, 1), [0.999, 0.999])[0] == (0, 1)
    np.testing.assert_array_equal(ref.residual(even(()), even(())), even(()))
    less, more = np.log([0.5, 0.4]), np.log([0.5, 0.5])  # rounding, made large: p <= q
    np.testing.assert_array_equal(ref.residual(less, more), less)
    # u < p/q strictly: p/q = 1/2 here, in logs too.
    assert ref.speculative_round(even, sure, (), (0,), [0.5])[0] == ()
    assert ref.speculative_round(even, sure, (), (0,), [0.499])[0] == (0,)
    # After an end: its length, no bonus.
    ends = frozenset({1})
    assert ref.speculative_round(even, even, (), (1, 0), [0.0, 0.0], ends) == ((1,), None)
    with pytest.raises(ValueError, match="q = 0"):
        ref.speculative_round(even, sure, (), (1,), [0.5])


def test_decode_stops_at_the_limit_and_at_the_end():
    flat = ref.law(ref.TableModel(np.array([[1.0, 0.0]])))
    round_ = ref.mtad_round(flat, flat, depth=3, width=1, tau=0.5)
    assert ref.decode(round_, (), max_new_tokens=5) == (0,) * 5
    ends = frozenset({0})
    round_ = ref.mtad_round(flat, flat, depth=3, width=1, tau=0.5, ends=ends)
    assert ref.decode(round_, (), max_new_tokens=5, ends=ends) == (0,)
