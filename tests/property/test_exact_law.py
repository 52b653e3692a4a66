"""Speculative sampling's law is the target's, by the engine's own arithmetic, all draws enumerated.

The draws are replaced: `keys.categorical` gives prescribed drafts, `keys.uniform` prescribed
tests. How often a draft token is accepted is measured, by bisection on its uniform.
"""

import itertools
from collections import defaultdict

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref

from mtad_jax import keys as rng
from mtad_jax import recipes
from mtad_jax.decode import draft_verify, loop
from mtad_jax.decode.lossless import Rejection
from mtad_jax.decode.state import Controls
from mtad_jax.decode.strategy import Verdict
from mtad_jax.testing import table_lm
from mtad_jax.tree import take
from mtad_jax.warp import Warp

PROMPT, SLOTS = (1, 0), 16
SURE = np.float32(1 - 2**-24)  # the largest uniform


class Engine:
    """One speculative round at a time, on all drafts at once: who is accepted, what follows."""

    def __init__(self, tables, warp: Warp, ends, depth: int, monkeypatch):
        self.target, self.draft = (table_lm(table) for table in tables)
        self.vocab, self.depth, self.ends = tables[0].shape[1], depth, ends
        self.controls = Controls(warp, warp, np.array(sorted(ends), np.int32))
        self.chains = np.array(list(itertools.product(range(self.vocab), repeat=depth)), np.int32)
        self._judge = jax.jit(self._traced)
        monkeypatch.setattr(rng, "categorical", lambda keys, logp: next(self._tokens))
        monkeypatch.setattr(rng, "uniform", lambda keys, shape: self._u)
        monkeypatch.setattr(
            draft_verify, "commit", lambda state, draft, verdict, **_: (draft, verdict)
        )

    def _traced(self, state, u):
        """One step up to its commit; the patches act while this is traced."""
        self._tokens, self._u = iter(jnp.asarray(self.chains).T), u
        step = recipes.speculative(self.depth).step
        return step(self.target, self.draft, state, self.controls)

    def at(self, text: ref.Text):
        """Return what judges all drafts after `text`: u [B, K] -> accepted, bonus, draft."""
        batch = len(self.chains)
        ids = np.tile(np.array(text + (0,) * (4 - len(text)), np.int32), (batch, 1))
        length = np.full(batch, len(text), np.int32)
        state = loop.empty_state(
            self.target, self.draft, recipes.speculative(self.depth), self.controls, ids, length,
            length + 9, np.uint32(0), np.arange(batch), slots=SLOTS,
        )  # fmt: skip
        # Not through `run`, whose compiled programs outlive the patches.
        state = loop._prefill(self.target, self.draft, state, 4)

        def judge(u):
            draft, verdict = self._judge(state, jnp.asarray(u, jnp.float32))
            return np.asarray(verdict.leaf), np.asarray(verdict.bonus, float), draft

        return judge

    def chances(self, judge, place: int) -> np.ndarray:
        """P(token `place` is accepted | those before it are), for every draft, by bisection."""

        def accepted(u):
            tests = np.zeros((len(self.chains), self.depth), np.float32)
            tests[:, place], tests[:, place + 1 :] = u, SURE
            return judge(tests)[0] > place

        low, high = np.zeros(len(self.chains)), np.ones(len(self.chains))
        never, always = ~accepted(0.0), accepted(SURE)
        for _ in range(30):
            middle = (low + high) / 2
            yes = accepted(middle)
            low, high = np.where(yes, middle, low), np.where(yes, high, middle)
        return np.where(always, 1.0, np.where(never, 0.0, low))

    def outcomes(self, text: ref.Text) -> ref.Outcomes:
        """Every text that one round commits, with its probability."""
        judge = self.at(text)
        chances = np.stack([self.chances(judge, i) for i in range(self.depth)], axis=1)
        total: ref.Outcomes = defaultdict(float)
        for stop in range(self.depth + 1):
            tests = np.where(np.arange(self.depth) < stop, 0.0, SURE)
            leaf, bonus, draft = judge(np.tile(tests, (len(self.chains), 1)))
            for b, chain in enumerate(self.chains):
                e = int(draft.length[b])  # tokens of the chain that are text
                if stop > e or any(chain[e:]):  # of chains with one text, one is enough
                    continue
                steps = range(e)
                weight = np.prod([np.exp(float(draft.logq[b, i, chain[i]])) for i in steps])
                weight *= np.prod(chances[b, :stop]) * (1 - chances[b, stop] if stop < e else 1)
                if weight == 0:
                    continue
                assert leaf[b] == stop, (chain, stop, leaf[b])
                self._follow(total, tuple(chain[:stop].tolist()), weight, bonus[b])
        return dict(total)

    def _follow(self, total, accepted, weight, bonus):
        if accepted and accepted[-1] in self.ends:
            total[accepted] += weight
            return
        mass = np.exp(bonus - bonus.max())
        for token, share in enumerate(mass / mass.sum()):
            if share > 0:
                total[(*accepted, token)] += weight * share


def tables(kind: str, vocab: int) -> np.ndarray:
    """Logits of target and draft, [2, rows, V]."""
    logits = np.random.default_rng(vocab).normal(scale=1.5, size=(2, 7, vocab)).astype(np.float32)
    if kind == "zeros":  # tokens that p, q or both cannot give
        logits[0, ::2, 0] = logits[1, 1::2, 1] = logits[1, ::3, 0] = -np.inf
    if kind == "same":
        logits[1] = logits[0]
    if kind == "disjoint":
        logits[0, :, 0] = logits[1, :, 1:] = -np.inf
    return logits


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize(
    ("kind", "vocab", "warp", "ends"),
    [
        ("plain", 3, Warp(), frozenset()),
        ("plain", 4, Warp(0.7, 0.8, 3), frozenset({2})),
        ("zeros", 3, Warp(), frozenset({1})),
        ("zeros", 4, Warp(1.3, 0.9), frozenset()),
        ("same", 3, Warp(1.0, 0.7), frozenset({0})),
        ("disjoint", 3, Warp(), frozenset()),
        ("plain", 3, Warp(0.0), frozenset()),
    ],
)
def test_the_law_of_the_first_two_tokens_is_the_targets(
    kind, vocab, warp, ends, depth, monkeypatch
):
    both = tables(kind, vocab)
    engine = Engine(both, warp, ends, depth, monkeypatch)
    setting = float(warp.temperature), warp.top_k, float(warp.top_p)
    target = ref.law(ref.TableModel(both[0].astype(float)), *setting)
    want = ref.target_law(target, PROMPT, 2, ends)
    got = ref.exact_law(engine.outcomes, PROMPT, length=2, ends=ends)
    assert ref.distance(got, want) < 1e-6


def test_the_enumeration_sees_a_wrong_residual(monkeypatch):
    """The measure itself: with p as the residual, as in MTAD, the law is another."""
    both = tables("plain", 3)
    verify = Rejection.verify

    def lossy(self, draft, logp, logits, keys, controls):
        verdict = verify(self, draft, logp, logits, keys, controls)
        return Verdict(verdict.leaf, take(logp, verdict.leaf))

    monkeypatch.setattr(Rejection, "verify", lossy)
    engine = Engine(both, Warp(), frozenset(), 2, monkeypatch)
    target = ref.law(ref.TableModel(both[0].astype(float)))
    got = ref.exact_law(engine.outcomes, PROMPT, length=2)
    assert ref.distance(got, ref.target_law(target, PROMPT)) > 0.01
