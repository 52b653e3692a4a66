"""The rules that sample a law between q and p, on drafts small enough to judge by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hand_drafts import draft_of, log

from mtad_jax import recipes
from mtad_jax.decode.drafters.beam import Beam
from mtad_jax.decode.drafters.chain import Chain
from mtad_jax.decode.drafters.confident import ConfidentChain
from mtad_jax.decode.drafters.lookup import Lookup
from mtad_jax.decode.drafters.tree import Tree
from mtad_jax.decode.request import Request
from mtad_jax.decode.verifiers.cascade import PLACES, TOKENS, Cascade
from mtad_jax.decode.verifiers.fuzzy import Fuzzy
from mtad_jax.decode.verifiers.lossless.rejection import Rejection
from mtad_jax.decode.verifiers.mentored import Mentored
from mtad_jax.decode.verifiers.towards import towards

NEVER = 0.999999  # a uniform that passes only what is certain
P, Q, NEXT = [0.5, 0.25, 0.25], [0.25, 0.25, 0.5], [0.1, 0.2, 0.7]
RAW_P, RAW_Q = [0.5, 0.3, 0.2], [0.3, 0.25, 0.45]


def one(token: int, raw=None):
    """A draft of one token from Q."""
    return draft_of((token,), (1,), [Q], raw=[RAW_Q if raw is None else raw])


def test_each_place_is_tested_against_its_own_law(judge):
    class Given(Rejection):
        def verify(self, tree, logp, logits, keys, controls):
            return towards(tree, log([[[0.6, 0.2, 0.2], [0.1, 0.8, 0.1]]]), logp, keys)

    p = [NEXT, NEXT, [0.3, 0.3, 0.4]]
    draft = draft_of((2, 0), (1, 1), [Q, [0.2, 0.4, 0.4]])
    assert judge(Given(), draft, p, (0.39, 0.49)) == (2, p[2])  # 0.2/0.5, 0.1/0.2
    assert judge(Given(), draft, p, (0.41, 0.0)) == (0, [1, 0, 0])
    assert judge(Given(), draft, p, (0.39, 0.51)) == (1, [0, 1, 0])
    ended = draft_of((2, 0), (1, 1), [Q, Q], valid=(True, False))
    assert judge(Given(), ended, p, (0.39, 0.0)) == (1, NEXT)  # p, and no residual


def test_a_residual_without_mass_is_the_law(judge):
    class Given(Rejection):
        def verify(self, tree, logp, logits, keys, controls):
            return towards(tree, log([[Q]]), logp, keys)

    assert judge(Given(), one(2), [P, NEXT], (1.0,)) == (0, Q)


# ---------------------------------------------------------------- cascades

KEPT, DEFERRED = (1, NEXT), (0, [1, 0, 0])  # of token 2, at u = 0.51 > p/q


@pytest.mark.parametrize(
    ("rule", "defers", "keeps"),
    [
        ("chow", 0.54, 0.56),  # max Q = 0.45 < 1 - alpha
        ("diff", 0.04, 0.06),  # 0.45 < 0.5 - alpha
        ("opt", 0.19, 0.21),  # 0.45 < 0.5 - alpha TV(p, q), which is 1/4
        ("token1", 0.04, 0.06),  # Q(2) = 0.45 < 0.5 - alpha
        ("token2", 0.29, 0.31),  # P(2) = 0.2 < 0.5 - alpha
        ("token3", 0.59, 0.61),  # P(2) = 0.2 < 0.5 (1 - alpha)
    ],
)
def test_what_a_cascade_defers(judge, rule, defers, keeps):
    p, raw = [P, NEXT], [RAW_P, NEXT]
    got = judge(Cascade(rule, defers), one(2), p, (0.51,), raw=raw)
    assert got[0] == 0 and judge(Cascade(rule, keeps), one(2), p, (0.51,), raw=raw) == KEPT
    if rule in PLACES:
        assert got == DEFERRED
        assert judge(Cascade(rule, defers), one(2), p, (0.49,), raw=raw) == KEPT


@pytest.mark.parametrize(
    ("rule", "alpha", "token", "edge", "rest"),
    [
        # Tokens 0 and 1 deferred, 1/2 of q: r = 1/4, 1/8, 5/8.
        ("token1", 0.06, 1, 0.5, [0, 0, 1]),
        # All deferred: r = p.
        ("token1", 0.04, 2, 0.5, [1, 0, 0]),
        # Token 2 deferred, 1/2 of q: r = 1/2, 3/8, 1/8.
        ("token2", 0.29, 2, 0.25, [0.66667, 0.33333, 0]),
        ("token3", 0.59, 2, 0.25, [0.66667, 0.33333, 0]),
        # Tokens 1 and 2 deferred, 3/4 of q: r = 5/8, 3/16, 3/16.
        ("token2", 0.15, 1, 0.75, [1, 0, 0]),
        ("token3", 0.3, 1, 0.75, [1, 0, 0]),
    ],
)
def test_what_is_deferred_of_tokens_is_drawn_from_p(judge, rule, alpha, token, edge, rest):
    p, raw = [P, NEXT], [RAW_P, NEXT]
    assert judge(Cascade(rule, alpha), one(token), p, (edge - 0.01,), raw=raw) == KEPT
    assert judge(Cascade(rule, alpha), one(token), p, (edge + 0.01,), raw=raw) == (0, rest)


@pytest.mark.parametrize("rule", PLACES + TOKENS)
def test_cascades_know_no_temperature(judge, rule):
    """Both laws are greedy, and differ: the raw ones say whose token it is."""
    greedy_p, greedy_q = [1, 0, 0], [0, 0, 1]
    draft = draft_of((2,), (1,), [greedy_q], raw=[RAW_Q])
    for alpha, want in ((0.01, (0, greedy_p)), (0.99, KEPT)):
        assert judge(Cascade(rule, alpha), draft, [greedy_p, NEXT], (0.5,), raw=[RAW_P, P]) == want


@pytest.mark.parametrize(
    ("rule", "alpha"),
    [("chow", 0.5), ("diff", 0), ("opt", 0), ("token1", 0.25), ("token2", 0.25), ("token3", 0.5)],
)
def test_a_cascade_does_not_defer_on_its_threshold(rule, alpha):
    """Halves and quarters: what is compared is equal to the last bit."""
    p, q = jnp.array([[[0.5, 0.25, 0.25]]]), jnp.array([[[0.25, 0.5, 0.25]]])
    laws = jnp.log(p), jnp.log(q), p, q
    assert not Cascade(rule, alpha)._defers(*laws).any()
    assert Cascade(rule, alpha - 2**-20)._defers(*laws).any()


def test_places_of_a_cascade_decide_on_their_own(judge):
    draft = draft_of((2, 2, 2), (1,) * 3, [Q] * 3, raw=[RAW_Q, [0.1, 0.1, 0.8], RAW_Q])
    p, raw = [P] * 3 + [NEXT], [RAW_P] * 4
    # diff at 0.04: deferred, not deferred (0.8 > 0.46), deferred.
    assert judge(Cascade("diff", 0.04), draft, p, (0.49, 0.9, 0.49), raw=raw) == (3, NEXT)
    assert judge(Cascade("diff", 0.04), draft, p, (0.49, 0.9, 0.51), raw=raw) == (2, [1, 0, 0])
    assert judge(Cascade("diff", 0.04), draft, p, (0.51, 0.9, 0.49), raw=raw) == (0, [1, 0, 0])


# ---------------------------------------------------------------- fuzzy


@pytest.mark.parametrize(
    ("by", "apart"),
    [("js", 0.03844), ("kl", 0.16609), ("tv", 0.25)],  # KL(P || Q) would be 0.14792
)
def test_fuzzy_keeps_what_is_near(judge, by, apart):
    p, raw = [P, NEXT], [RAW_P, NEXT]
    assert judge(Fuzzy(apart + 1e-4, by), one(2), p, (NEVER,), raw=raw) == KEPT
    assert judge(Fuzzy(apart - 1e-4, by), one(2), p, (0.51,), raw=raw) == DEFERRED
    assert judge(Fuzzy(apart - 1e-4, by), one(2), p, (0.49,), raw=raw) == KEPT


@pytest.mark.parametrize(
    ("by", "apart", "raw_p"),
    [("js", np.log(2), [1, 0, 0]), ("kl", np.inf, [1, 0, 0]), ("tv", 1.0, [1, 0, 0]),
     ("kl", -np.log(0.75), [0.25, 0, 0.75]), ("js", 0.0, [0, 0, 1])],
)  # fmt: skip
def test_divergences_of_laws_with_zeros(judge, by, apart, raw_p):
    p, raw, draft = [P, NEXT], [raw_p, NEXT], one(2, raw=[0, 0, 1])
    least = max(apart - 1e-4, 0.0) if apart < np.inf else 1e9
    assert judge(Fuzzy(least, by), draft, p, (0.51,), raw=raw) == DEFERRED
    if apart < np.inf:
        assert judge(Fuzzy(apart + 1e-4, by), draft, p, (0.51,), raw=raw) == KEPT


def test_fuzzy_at_limit_0_is_speculative_sampling(judge):
    same = one(2, raw=RAW_P)
    for u, want in ((0.49, KEPT), (0.51, DEFERRED)):
        for draft in (same, one(2)):
            assert judge(Fuzzy(0.0, "js"), draft, [P, NEXT], (u,), raw=[RAW_P, NEXT]) == want
    assert recipes.fuzzy(limit=0.0).lossless and not recipes.fuzzy(limit=0.01).lossless


# ---------------------------------------------------------------- mentored


@pytest.mark.parametrize(("limit", "by"), [(0.9, "share"), (0.087177, "divergence")])
def test_mentored_tests_against_the_nearest_law(judge, limit, by):
    # r = 0.7, 0.3: q's first token is cut by 0.1, its second filled.
    draft = draft_of((0,), (1,), [[0.8, 0.2]])
    p = [[0.5, 0.5], [0.4, 0.6]]
    assert judge(Mentored(limit, by), draft, p, (0.874,)) == (1, [0.4, 0.6])
    assert judge(Mentored(limit, by), draft, p, (0.876,)) == (0, [0, 1])
    second = draft_of((1,), (1,), [[0.8, 0.2]])
    assert judge(Mentored(limit, by), second, p, (NEVER,)) == (1, [0.4, 0.6])


def test_mentored_never_keeps_what_p_has_cut(judge):
    p, draft = [[0.5, 0.5, 0], NEXT], draft_of((2,), (1,), [[0.2, 0.1, 0.7]])
    for rule in (Mentored(50.0, "divergence"), Mentored(1.0, "share")):
        leaf, rest = judge(rule, draft, p, (0.0,))
        assert leaf == 0 and rest[2] == 0
    greedy = draft_of((2,), (1,), [[0, 0, 1]])
    assert judge(Mentored(50.0, "divergence"), greedy, [[1, 0, 0], NEXT], (0.0,)) == (0, [1, 0, 0])


@pytest.mark.parametrize("by", ["divergence", "share"])
def test_mentored_at_limit_0_is_speculative_sampling(judge, by):
    for u, want in ((0.49, KEPT), (0.51, DEFERRED)):
        assert judge(Mentored(0.0, by), one(2), [P, NEXT], (u,)) == want
    assert recipes.mentored(limit=0.0, by=by).lossless
    assert not recipes.mentored(limit=0.01, by=by).lossless


# ---------------------------------------------------------------- all of them

RULES = [Cascade(rule, 0.2) for rule in PLACES + TOKENS] + [
    Fuzzy(0.1, "js"),
    Mentored(0.1, "share"),
]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_rows_are_judged_on_their_own(judge, monkeypatch, rule):
    cases = [((2, 1), (0.49, 0.9)), ((2, 1), (0.6, 0.0)), ((0, 0), (0.9, 0.51))]
    p, raw = [P, NEXT, P], [RAW_P, P, NEXT]
    drafts = [draft_of(tokens, (1, 1), [Q, P], raw=[RAW_Q, Q]) for tokens, _ in cases]
    alone = [judge(rule, d, p, u, raw=raw) for d, (_, u) in zip(drafts, cases, strict=True)]
    every = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *drafts)
    monkeypatch.setattr(
        "mtad_jax.decode.random.uniform", lambda *_: jnp.array([u for _, u in cases])
    )
    keys = jax.random.split(jax.random.key(0), 3)
    verdict = rule.verify(every, log([p] * 3), log([raw] * 3), keys, None)
    assert verdict.leaf.tolist() == [leaf for leaf, _ in alone]
    bonus = np.exp(verdict.bonus) / np.exp(verdict.bonus).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(bonus, [law for _, law in alone], atol=2e-5)


CHAIN, BEST, TREE = Chain(2), Beam(2, 2, "search", "best"), Tree((2, 1), True)
NAN = float("nan")


@pytest.mark.parametrize(
    ("rule", "drafter", "message"),
    [
        (Cascade("best", 0.5), CHAIN, "defer='best' must be one of chow, diff, opt, token1"),
        (Cascade("opt", -0.1), CHAIN, r"alpha=-0\.1 must be finite and >= 0"),
        (Cascade("opt", NAN), CHAIN, "alpha=nan must be"),
        (Cascade("opt", float("inf")), CHAIN, "alpha=inf must be"),
        (Cascade("chow", 1.1), CHAIN, r"alpha=1\.1 must be <= 1 for defer=chow"),
        (Cascade("token3", 1.1), CHAIN, r"alpha=1\.1 must be <= 1 for defer=token3"),
        (Cascade("opt", 0.5), TREE, "drafter=Tree: a speculative cascade judges a chain"),
        (Cascade("opt", 0.5), BEST, "drafter=Beam: a speculative cascade needs tokens drawn"),
        (Cascade("opt", 0.5), Lookup(2, 1), "drafter=Lookup: .* only Chain keeps"),
        (Fuzzy(0.1, "ks"), CHAIN, "by='ks' must be one of js, kl, tv"),
        (Fuzzy(-0.1, "js"), CHAIN, r"limit=-0\.1 must be >= 0"),
        (Fuzzy(NAN, "js"), CHAIN, "limit=nan must be"),
        (Fuzzy(0.1, "js"), TREE, "drafter=Tree: fuzzy speculative decoding judges a chain"),
        (Fuzzy(0.1, "js"), ConfidentChain(2, 0.5), "drafter=ConfidentChain: .* draft with Chain"),
        (Mentored(0.1, "tv"), CHAIN, "by='tv' must be divergence or share"),
        (Mentored(-0.1, "share"), CHAIN, r"limit=-0\.1 must be >= 0"),
        (Mentored(NAN, "divergence"), CHAIN, "limit=nan must be"),
        (Mentored(1.1, "share"), CHAIN, r"limit=1\.1 must be <= 1 for by=share"),
        (Mentored(0.1, "share"), TREE, "drafter=Tree: mentored decoding judges a chain"),
        (Mentored(0.1, "share"), BEST, "drafter=Beam: mentored decoding needs tokens drawn"),
    ],
)
def test_refused(rule, drafter, message):
    with pytest.raises(ValueError, match=message) as error:
        rule.check(drafter, Request())
    assert "\n" not in str(error.value)


def test_what_is_taken():
    for rule in (*RULES, Cascade("opt", 3.0), Cascade("chow", 1.0), Cascade("token1", 0.0)):
        rule.check(CHAIN, Request(penalty=True))
    for drafter in (Lookup(2, 1), ConfidentChain(2, 0.5)):
        Mentored(1.0, "share").check(drafter, Request())
        Mentored(3.0, "divergence").check(drafter, Request())
