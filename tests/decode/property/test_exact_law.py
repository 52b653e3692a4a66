"""The lossless rules have the target's law, by the engine's own arithmetic, all draws enumerated.

One round of the engine and then plain sampling give the target's law of the first K + 1 tokens,
whatever text the round starts from: so any number of rounds does, by induction.
"""

import dataclasses
import itertools
from unittest import mock

import exact_engine as exact
import jax.numpy as jnp
import numpy as np
import pytest
from exact_engine import Setting
from flax import struct

from mtad_jax import recipes
from mtad_jax.decode.draft import take
from mtad_jax.decode.draft_verify import DraftVerify
from mtad_jax.decode.drafters.beam import Beam
from mtad_jax.decode.drafters.chain import Chain
from mtad_jax.decode.drafters.confident import ConfidentChain
from mtad_jax.decode.drafters.corpus import build_corpus
from mtad_jax.decode.drafters.lookup import Lookup
from mtad_jax.decode.drafters.pairs import PairDraws
from mtad_jax.decode.drafters.recycling import Recycling
from mtad_jax.decode.drafters.stochastic import StochasticBeams
from mtad_jax.decode.drafters.suffix import Suffix
from mtad_jax.decode.drafters.tree import Tree
from mtad_jax.decode.protocols import Verdict
from mtad_jax.decode.verifiers import dsbd
from mtad_jax.decode.verifiers.lossless import tree as tree_rules
from mtad_jax.decode.verifiers.lossless.beams import BeamRejection
from mtad_jax.decode.verifiers.lossless.block import BlockVerification
from mtad_jax.decode.verifiers.lossless.points import PointRejection
from mtad_jax.decode.verifiers.lossless.rejection import Rejection
from mtad_jax.decode.verifiers.lossless.spectr import SpecTr
from mtad_jax.decode.verifiers.lossless.traversal import Traversal
from mtad_jax.decode.verifiers.lossless.tree import TreeRejection, try_in_turn
from mtad_jax.decode.warp import Warp

SMALL = 1e-6  # rounding: f32, and tests of 24 bits
TEXTS = [(1, 0, 1), (2, 0, 1, 2, 0)]  # with repetitions, for prompt lookup
TABLE = np.array([[1, 0, 2], [2, 1, -1], [0, 2, 1]])  # of each token what is drafted after it
DOCUMENTS = [(0, 1, 1, 2), (1, 2, 0, 0), (2, 2)]  # a longer suffix than the first text has itself


def tables(kind: str, vocab: int = 3) -> np.ndarray:
    """Logits of target and draft, [2, rows, V]."""
    logits = np.random.default_rng(vocab).normal(scale=1.5, size=(2, 7, vocab)).astype(np.float32)
    if kind == "zeros":  # tokens that p, q or both cannot give
        logits[0, ::2, 0] = logits[1, 1::2, 1] = logits[1, ::3, 0] = -np.inf
    if kind == "same":
        logits[1] = logits[0]
    if kind == "disjoint":
        logits[0, :, 0] = logits[1, :, 1:] = -np.inf
    return logits


def setting(kind: str = "plain", warp: Warp | None = None, *, end: int | None = None, **more):
    """Shorthand of `Setting`, on tables of three tokens."""
    ends = frozenset() if end is None else frozenset({end})
    return Setting(tables(kind, more.pop("vocab", 3)), warp or Warp(), ends=ends, **more)


# All of a group run in the same programs, for all but the warps' top-k is traced.
SETTINGS = {
    "plain": setting(),
    "ends": setting(end=2),
    "zeros": setting("zeros", end=1),
    "same": setting("same", Warp(1.0, 0.7), end=0),
    "disjoint": setting("disjoint"),
    "a colder draft": setting(draft_warp=Warp(0.5)),
    "two warps": setting("zeros", Warp(0.7, 0.9, min_p=0.2), draft_warp=Warp(1.3, 0.8), end=0),
    "a greedy target": setting(warp=Warp(0.0), draft_warp=Warp(1.0)),
    "a greedy draft": setting(draft_warp=Warp(0.0)),
    "both greedy": setting(warp=Warp(0.0), end=1),
    "penalty": setting(penalty=1.7),
    "penalty, draft greedy": setting(penalty=0.6, draft_warp=Warp(0.0), end=0),
    "no early end": setting(end=2, least=5),
    "banned": setting("zeros", banned=frozenset({1})),
    "all controls": setting(
        warp=Warp(0.8, 0.95), penalty=1.3, banned=frozenset({1}), end=2, least=6
    ),
}
SEVERAL = ["plain", "zeros", "two warps", "all controls"]

ALL = {
    "speculative 1": recipes.speculative(1),
    "speculative 2": recipes.speculative(2),
    "lenient by nothing": recipes.lenient(2, leniency=1.0),
    "fuzzy by nothing": recipes.fuzzy(2, limit=0.0),
    "mentored by nothing": recipes.mentored(2, limit=0.0),
    "block 1": recipes.block(1),
    "block 2": recipes.block(2),
    "specinfer 2": recipes.specinfer((2,)),
    "specinfer 2, 1": recipes.specinfer((2, 1)),
    "mcsd 2": recipes.mcsd((2,)),
    "mcsd 2, 1": recipes.mcsd((2, 1)),
    "traversal 2, 1": recipes.traversal((2, 1)),
    "traversal 2, 1, anew": recipes.traversal((2, 1), replace=True),
    "rsd_s 1, 3": recipes.rsd_s(1, 3),
    "rsd_s 2, 2": recipes.rsd_s(2, 2),
    "spectr 2": recipes.spectr(1, 2),
    "spectr 3": recipes.spectr(1, 3),
    "spectr 2, 2 deep": recipes.spectr(2, 2),
    "spectr 2, 2 deep, rho = m": recipes.spectr(2, 2, "chains"),
    "lookup": recipes.lookup(2, 2),
    "suffix": recipes.suffix(2, 3, DOCUMENTS),
    "suffix, block": DraftVerify(Suffix(3, 2, build_corpus(DOCUMENTS, 3)), BlockVerification()),
    "recycle": recipes.recycle(2, 2, TABLE[:, :2]),
    "recycle, 3 wide": recipes.recycle(1, 3, TABLE),
    "recycle, equal siblings": recipes.recycle(1, 3, TABLE[[1, 0, 1], :] * [1, 1, 0]),
    "lookup, points": DraftVerify(Lookup(2, 2), PointRejection()),
    "beams, points": DraftVerify(Beam(2, 2, "search", "tree"), PointRejection()),
    "lookup, block": DraftVerify(Lookup(3, 2), BlockVerification()),
    "stops when unsure": DraftVerify(ConfidentChain(2, 0.6), Rejection()),
    "stops when unsure, block": DraftVerify(ConfidentChain(2, 0.6), BlockVerification()),
}
LARGE = {
    "recycle 2, 3": recipes.recycle(2, 3, TABLE),
    "recycle 3, 2": recipes.recycle(3, 2, TABLE[:, :2]),
    "block 3": recipes.block(3),
    "specinfer 2, 2": recipes.specinfer((2, 2)),
    "specinfer 1, 2": recipes.specinfer((1, 2)),
    "mcsd 2, 2": recipes.mcsd((2, 2)),
    "mcsd 3": recipes.mcsd((3,)),
    "traversal 3": recipes.traversal((3,)),
    "traversal 2, 2": recipes.traversal((2, 2)),
    "traversal 2, 2, anew": recipes.traversal((2, 2), replace=True),
    "traversal 1, 2": recipes.traversal((1, 2)),
    "traversal, a chain": DraftVerify(Chain(3), Traversal(True)),
    "rsd_s 2, 1": recipes.rsd_s(2, 1),
    "rsd_s 2, 3": recipes.rsd_s(2, 3),
    "spectr 3, rho = m": recipes.spectr(1, 3, "chains"),
}


def worst(strategy: DraftVerify, settings: dict[str, Setting], texts=TEXTS) -> dict[str, float]:
    """The settings under which a rule is not lossless, and by how much."""
    assert strategy.lossless
    far = {name: exact.distance(strategy, each, texts) for name, each in settings.items()}
    return {name: gap for name, gap in far.items() if not gap < SMALL}


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_the_law_is_the_targets(name):
    assert not worst(ALL[name], SETTINGS)


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.slow
def test_the_law_is_the_targets_of_larger_drafts_too(name):
    assert not worst(LARGE[name], {each: SETTINGS[each] for each in SEVERAL}, TEXTS[:1])


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("speculative 2", "block 2", "specinfer 2", "mcsd 2", "traversal 2, 1", "rsd_s 2, 2"),
        "spectr 2",
    ],
)
def test_top_k_may_differ_between_draft_and_target(name):
    two, three = Warp(1.2, top_k=2), Warp(0.7, 0.8, 3)
    assert not worst(ALL[name], {"": setting(warp=three, draft_warp=two, end=2, vocab=4)})


@pytest.mark.slow
def test_three_chains_of_two_tokens():
    """The largest: 729 drafts, 64 patterns of tests."""
    assert not worst(recipes.spectr(2, 3), {"zeros": SETTINGS["zeros"]}, TEXTS[:1])


def test_rounds_after_rounds():
    """The induction, spelled out: rounds of the engine all along, three tokens."""
    texts = [(1, 0, *new) for n in range(3) for new in itertools.product(range(3), repeat=n)]
    for name in ("block 2", "mcsd 2"):
        assert exact.distance(ALL[name], setting(end=2), texts, length=3) < SMALL


@struct.dataclass
class OnePair(PairDraws):
    """The pairs of one beam are drawn from q at their parent: a chain."""

    @property
    def drawn(self) -> bool:
        """Yes."""
        return True


@struct.dataclass
class OneSlot(dsbd.DynamicWidth):
    """The rule itself, but it shows the law R that its one slot is drawn from."""

    def verify(self, draft, logp, logits, keys, controls):
        def emit(stop, keys):
            rest.append(stop.rest[:, 0])
            return stop.first, stop.wanted

        rest = []
        with mock.patch.object(dsbd, "_emit", emit):
            leaf = dsbd.DynamicWidth.verify(self, draft, logp, logits, keys, controls).leaf
        return Verdict(leaf, jnp.log(rest[0]))


@pytest.mark.parametrize("depth", [1, 2])
def test_dsbd_with_one_beam_is_lossless(depth):
    """It is speculative sampling then; ends are fillers there, which the measure does not know."""
    strategy = DraftVerify(OnePair(depth, 1), OneSlot(0.8))
    endless = ["plain", "disjoint", "a colder draft", "a greedy target", "penalty", "banned"]
    far = {name: exact.distance(strategy, SETTINGS[name], TEXTS) for name in endless}
    assert max(far.values()) < SMALL, far


# Negative controls: the measure sees every fault of these rules.


@struct.dataclass
class TargetInsteadOfResidual(Rejection):
    """MTAD's bonus: from p, whatever was rejected."""

    def verify(self, draft, logp, logits, keys, controls):
        leaf = Rejection.verify(self, draft, logp, logits, keys, controls).leaf
        return Verdict(leaf, take(logp, leaf))


@struct.dataclass
class PointsFromP(PointRejection):
    """Draws the bonus from p, the children's tokens included."""

    def verify(self, draft, logp, logits, keys, controls):
        leaf = PointRejection.verify(self, draft, logp, logits, keys, controls).leaf
        return Verdict(leaf, take(logp, leaf))


@struct.dataclass
class SortedSiblings(TreeRejection):
    """Tries the likeliest child first; of trees of one level."""

    def verify(self, draft, logp, logits, keys, controls):
        own = take(draft.logq[:, 0], draft.tokens[:, 1:])
        order = jnp.pad(1 + jnp.argsort(-own, axis=1), ((0, 0), (1, 0)))
        draft = dataclasses.replace(
            draft, tokens=take(draft.tokens, order), valid=take(draft.valid, order)
        )
        verdict = TreeRejection.verify(self, draft, take(logp, order), logits, keys, controls)
        return Verdict(take(order, verdict.leaf), verdict.bonus)


@struct.dataclass
class MergedSiblings(TreeRejection):
    """Tries equal children once; of trees of one level with two children."""

    def verify(self, draft, logp, logits, keys, controls):
        again = draft.tokens[:, 2] == draft.tokens[:, 1]
        draft = dataclasses.replace(draft, valid=draft.valid.at[:, 2].set(~again))
        return TreeRejection.verify(self, draft, logp, logits, keys, controls)


@struct.dataclass
class TheTargetsBonus(Traversal):
    """Draws what follows from the target's law, not from what is left of it."""

    def verify(self, draft, logp, logits, keys, controls):
        leaf = Traversal.verify(self, draft, logp, logits, keys, controls).leaf
        return Verdict(leaf, take(logp, leaf))


@struct.dataclass
class InReverse(BeamRejection):
    """Tries the last place of a depth first; of two beams a depth."""

    def verify(self, draft, logp, logits, keys, controls):
        order = jnp.array([0, 2, 1, 4, 3])
        shuffled = dataclasses.replace(
            draft, tokens=draft.tokens[:, order], valid=draft.valid[:, order],
            parent=order[draft.parent][:, order], logq=draft.logq[:, order[:3]],
        )  # fmt: skip
        verdict = BeamRejection.verify(self, shuffled, logp[:, order], logits, keys, controls)
        return Verdict(order[verdict.leaf], verdict.bonus)


@struct.dataclass
class AsIfReplaced(BeamRejection):
    """Leaves q as it is after a failure."""

    def verify(self, draft, logp, logits, keys, controls):
        with mock.patch.object(tree_rules, "try_in_turn", as_if_replaced):
            return BeamRejection.verify(self, draft, logp, logits, keys, controls)


def as_if_replaced(*args, replace):
    """`try_in_turn` with replacement, whatever is asked."""
    return try_in_turn(*args, replace=True)


FAULTY = {
    "points, bonus from p": DraftVerify(Recycling(1, 2, TABLE[:, :2]), PointsFromP()),
    "lenient": recipes.lenient(2, leniency=0.5),
    "mtad's bonus": DraftVerify(Chain(2), TargetInsteadOfResidual()),
    "sorted, with replacement": DraftVerify(Tree((2,), True), SortedSiblings(True)),
    "sorted, without": DraftVerify(Tree((2,), False), SortedSiblings(False)),
    "merged": DraftVerify(Tree((2,), True), MergedSiblings(True)),
    "replaced, judged as if not": DraftVerify(Tree((2,), True), TreeRejection(False)),
    "not replaced, judged as if": DraftVerify(Tree((2,), False), TreeRejection(True)),
    "chains without replacement": DraftVerify(Tree((2,), False), SpecTr()),
    "traversal, replaced, judged as if not": DraftVerify(Tree((2, 1), True), Traversal(False)),
    "traversal, p for a bonus": DraftVerify(Tree((2, 1), False), TheTargetsBonus(False)),
    "rsd_s, siblings in reverse": DraftVerify(StochasticBeams(2, 2), InReverse()),
    "rsd_s, judged as if replaced": DraftVerify(StochasticBeams(2, 2), AsIfReplaced()),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTY)
def test_the_measure_sees_a_rule_that_is_not_lossless(name):
    assert exact.distance(FAULTY[name], setting(), TEXTS) > 0.01


def test_a_rule_that_is_lossy_is_not_called_lossless():
    assert not FAULTY["lenient"].lossless
