"""What each rule takes and what it refuses, and each recipe, naming the setting that was given."""

import itertools

import pytest

from mtad_jax import recipes
from mtad_jax.decode.drafters.beam import Beam
from mtad_jax.decode.drafters.chain import Chain
from mtad_jax.decode.drafters.confident import ConfidentChain
from mtad_jax.decode.drafters.lookup import Lookup
from mtad_jax.decode.drafters.none import NoDraft
from mtad_jax.decode.drafters.pairs import PairDraws
from mtad_jax.decode.drafters.stochastic import StochasticBeams
from mtad_jax.decode.drafters.tree import Tree
from mtad_jax.decode.request import Request
from mtad_jax.decode.verifiers.joint import JointThreshold
from mtad_jax.decode.verifiers.lossless.beams import BeamRejection
from mtad_jax.decode.verifiers.lossless.block import BlockVerification
from mtad_jax.decode.verifiers.lossless.rejection import Rejection
from mtad_jax.decode.verifiers.lossless.spectr import SpecTr
from mtad_jax.decode.verifiers.lossless.traversal import Traversal
from mtad_jax.decode.verifiers.lossless.tree import TreeRejection
from mtad_jax.decode.verifiers.rollback import Rollback
from mtad_jax.decode.verifiers.threshold import Threshold
from mtad_jax.decode.verifiers.typical import Typical

LOSSLESS = [
    Rejection(), BlockVerification(), TreeRejection(True), TreeRejection(False), Traversal(True),
    Traversal(False), SpecTr(),
]  # fmt: skip
NAN = float("nan")
CHAIN, BEST = Chain(2), Beam(2, 2, "search", "best")
LATTICE = Beam(2, 2, "search", "tree")
DRAWN = StochasticBeams(2, 2)
TREE, DISTINCT, PAIRS = Tree((2, 1), True), Tree((2, 1), False), PairDraws(2, 2)


@pytest.mark.parametrize(
    ("rule", "drafter", "message"),
    [
        (Rejection(0.0), CHAIN, r"leniency=0\.0 must be in \(0, 1\]"),
        (Rejection(1.1), CHAIN, r"leniency=1\.1"),
        (Rejection(NAN), CHAIN, r"leniency=nan"),
        (Rejection(), TREE, "drafter=Tree: speculative sampling judges a chain"),
        (Rejection(), BEST, "drafter=Beam: .* drawn from q, .* draft with Chain, Tree or Lookup"),
        (Rejection(), NoDraft(), "drafter=NoDraft"),
        (BlockVerification(), TREE, "drafter=Tree: block verification judges a chain"),
        (BlockVerification(), BEST, "drafter=Beam: block verification needs tokens drawn"),
        (TreeRejection(True), LATTICE, "drafter=Beam: tree rejection needs tokens drawn"),
        (TreeRejection(True), DISTINCT, "replace=True: the tree is drawn with replace=False"),
        (TreeRejection(False), TREE, "replace=False: the tree is drawn with replace=True"),
        (Traversal(True), LATTICE, "drafter=Beam: traversal verification needs tokens drawn"),
        (Traversal(True), DISTINCT, "replace=True: the tree is drawn with replace=False"),
        (Traversal(False), TREE, "replace=False: the tree is drawn with replace=True"),
        (BeamRejection(), LATTICE, "drafter=Beam: RSD-S tries .* draft with StochasticBeams"),
        (BeamRejection(), DISTINCT, "drafter=Tree: RSD-S"),
        (TreeRejection(False), DRAWN, "drafter=StochasticBeams: tree rejection needs tokens drawn"),
        (Traversal(False), DRAWN, "drafter=StochasticBeams: traversal verification needs"),
        (SpecTr(), LATTICE, "drafter=Beam: SpecTr needs tokens drawn"),
        (SpecTr(), DISTINCT, r"branching=\(2, 1\): .* replace=True"),
        (SpecTr(), Tree((2, 2), True), r"branching=\(2, 2\): .* independent chains"),
        (SpecTr("least"), TREE, "rho='least' must be best or chains"),
        (JointThreshold(0.0), BEST, r"tau=0\.0 must be > 0"),
        (JointThreshold(0.5), TREE, "drafter=Tree: .* does not have: draft with Beam or Chain"),
        (JointThreshold(0.5), PAIRS, "drafter=PairDraws: .* one candidate .*: draft with Beam"),
        (Threshold(0.0), BEST, r"tau=0\.0 must be > 0"),
        (Threshold(0.5), LATTICE, "drafter=Beam: fixed-threshold .* judges a chain"),
        (Typical(0.0, 0.3), CHAIN, r"epsilon=0\.0 must be in \(0, 1\]"),
        (Typical(0.1, 0.0), CHAIN, r"alpha=0\.0 must be finite and > 0"),
        (Typical(0.1, NAN), CHAIN, r"alpha=nan"),
        (Rollback(-1.0), CHAIN, r"rollback=-1\.0 must be >= 0"),
        (Rollback(NAN), CHAIN, r"rollback=nan"),
        (Rollback(5.0), TREE, "drafter=Tree: BiLD judges a chain"),
        (Rollback(5.0), Lookup(2, 1), "drafter=Lookup: .* bans .*: draft with ConfidentChain"),
    ],
)
def test_refused(rule, drafter, message):
    with pytest.raises(ValueError, match=message) as error:
        rule.check(drafter, Request())
    assert "\n" not in str(error.value)


def test_bild_refuses_a_repetition_penalty():
    with pytest.raises(ValueError, match="repetition_penalty: BiLD .*: use speculative or block"):
        recipes.bild().check(Request(penalty=True))


def test_what_is_taken():
    chains, lossy = [CHAIN, Lookup(2, 1)], [Threshold(0.5), Typical(0.09, 0.3)]
    for rule, drafter in [
        *itertools.product(LOSSLESS, chains),
        *itertools.product(lossy, [*chains, BEST]),
        (TreeRejection(True), TREE), (TreeRejection(False), DISTINCT), (SpecTr(), TREE),
        (Traversal(True), TREE), (Traversal(False), DISTINCT), (BeamRejection(), DRAWN),
        *((Rollback(5.0), drafter) for drafter in (CHAIN, BEST, ConfidentChain(2, 0.6))),
        *((JointThreshold(0.5), drafter) for drafter in (*chains, BEST, LATTICE)),
        *((Typical(0.09, 0.3), drafter) for drafter in (LATTICE, TREE, DISTINCT)),
    ]:  # fmt: skip
        rule.check(drafter, Request())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: recipes.threshold(draft="tree"), "draft='tree' must be one of beam, chain"),
        (lambda: recipes.threshold(width=2, draft="chain"), "width=2: a chain has none"),
        (lambda: recipes.typical(draft="trees"), "draft='trees' must be .* beam, chain, tree"),
        (lambda: recipes.typical(width=4, draft="chain"), "width=4: a chain has none"),
        (lambda: recipes.typical(0, draft="tree"), "depth=0 must be >= 1"),
        (lambda: recipes.spectr(0), "depth=0 must be >= 1"),
        (lambda: recipes.spectr(2.0), r"depth=2\.0 must be a whole number"),
        (lambda: recipes.spectr(2, 0), "chains=0 must be >= 1"),
    ],
)
def test_recipes_refuse(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (recipes.spectr(2, 2000), r"branching=\(2000, 1\) \(chains or width of .* vocabulary=50"),
        (recipes.spectr(2, 2.5), r"branching=2\.5 must be a whole number"),
        (recipes.typical(2, 99, draft="tree"), r"\(chains or width of .* vocabulary=50 at every"),
        (recipes.specinfer((99, 2)), r"branching=\(99, 2\) must be at most vocabulary=50"),
        (recipes.speculative(513), "depth=513 must be <= 512: lower depth"),
        (recipes.speculative(2.0), r"depth=2\.0 must be a whole number: write it as an integer"),
        (recipes.speculative(True), "depth=True must be a whole number"),
        (recipes.rsd_s(0, 2), "depth=0 must be >= 1"),
        (recipes.rsd_s(2, 51), "width=51"),
        (recipes.mtad(2, 2.5), r"width=2\.5 must be a whole number"),
        (recipes.lookup(2, 1.0), r"ngram=1\.0 must be a whole number"),
        (recipes.mtjd(2, 2.5), r"width=2\.5 must be a whole number"),
        (recipes.mtjd(512, 0), "between 1 and the blocks of 512 out of 50 tokens"),
    ],
)
def test_strategies_name_the_setting_that_was_given(strategy, message):
    with pytest.raises(ValueError, match=message):
        strategy.check(Request(vocab=50))


def test_recipes_by_default_draft_as_wide_as_mtad():
    for recipe in (recipes.threshold(), recipes.typical()):
        assert recipe.drafter.width == recipes.mtad().drafter.width
    assert recipes.typical(3, draft="tree").drafter == Tree((4, 1, 1), False)
    assert recipes.spectr(3, 2).drafter == Tree((2, 1, 1), True)
    assert recipes.specinfer([2, 2]).drafter.branching == (2, 2)
