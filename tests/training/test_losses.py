"""Every loss by hand, and its gradient; the joint loss by enumeration of all blocks."""

import itertools
import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.training import losses
from experiments.training.losses import DRAFTED, LOSSES, TEXT, Places, Rule

P, Q = [0.5, 0.3, 0.2], [0.2, 0.3, 0.5]
RULE = Rule(depth=2, tau=0.5, softness=0.5)


def text(p, q, labels, weight=None, inside=None):
    """One row of places with these laws."""
    labels = jnp.asarray([labels])
    return Places(
        jnp.log(jnp.asarray([q])),
        jnp.log(jnp.asarray([p])),
        labels,
        jnp.ones(labels.shape) if weight is None else jnp.asarray([weight]),
        jnp.ones(labels.shape, bool) if inside is None else jnp.asarray([inside]),
    )


def block(ratios, inside=None, weight=None):
    """Blocks whose tokens have these p/q: [places, K]; q is 0.1 of each token."""
    ratios = np.asarray(ratios, float)
    q = np.stack([np.full(ratios.shape, 0.1), np.full(ratios.shape, 0.9)], -1)
    p = np.stack([0.1 * ratios, 1 - 0.1 * ratios], -1)
    inside = np.ones(ratios.shape, bool) if inside is None else np.asarray(inside)
    weight = np.ones(len(ratios)) if weight is None else np.asarray(weight)
    rows = (np.log(q), np.log(p), np.zeros(ratios.shape, int), weight[:, None] * inside, inside)
    return Places(*(jnp.asarray(x)[None] for x in rows))


def value(name, places, rule=RULE):
    return float(LOSSES[name].of(places, rule))


def test_single_tokens_by_hand():
    """At a place of weight 3 the laws are P and Q, at one of weight 1 they are the same."""
    places = text([P, P], [Q, P], [0, 1], weight=[3.0, 1.0])
    share = 0.75
    forward = 0.5 * math.log(2.5) + 0.2 * math.log(0.4)
    wanted = {
        "cross_entropy": share * -math.log(0.2) + 0.25 * -math.log(0.3),
        "kl": share * forward,
        "reverse_kl": share * forward,  # P and Q are each other's mirror
        "tv": share * 0.3,
        "log_overlap": share * -math.log(0.7),
    }
    for name, number in wanted.items():
        assert value(name, places) == pytest.approx(number, rel=1e-5), name
    assert np.asarray(losses.overlap(places))[0] == pytest.approx([0.7, 1.0])
    lopsided = text([[0.8, 0.1, 0.1]], [[0.25, 0.25, 0.5]], [0])
    assert value("kl", lopsided) == pytest.approx(
        0.8 * math.log(3.2) + 0.1 * math.log(0.4) + 0.1 * math.log(0.2), rel=1e-5
    )
    assert value("reverse_kl", lopsided) == pytest.approx(
        0.25 * math.log(1 / 3.2) + 0.25 * math.log(2.5) + 0.5 * math.log(5), rel=1e-5
    )
    for name in ("kl", "reverse_kl", "tv"):
        assert LOSSES["drafted_" + name].of is LOSSES[name].of


def test_the_joint_loss_by_hand():
    """Windows of two tokens: q/p of the labels is 0.4, then 2.5, then 1; the third is cut off."""
    places = text([P, P, P], [Q, Q, P], [0, 2, 1], inside=[True, True, True])
    # From place 0: 0.4 and 0.4 * 2.5; from 1: min(1, 2.5) twice; from 2: one token, 1.
    assert value("joint_tv", places) == pytest.approx((0.3 + 0 + 0) / 3, rel=1e-5)
    cut = places._replace(inside=jnp.asarray([[True, False, True]]))
    # A window stops before the token that begins another document, as one at it does at once.
    weights = cut._replace(weight=jnp.asarray([[1.0, 0.0, 1.0]]))
    assert value("joint_tv", weights) == pytest.approx((0.6 + 0) / 2, rel=1e-5)
    longer = value("joint_tv", places, RULE._replace(depth=7))
    assert longer == pytest.approx((1 - (0.4 + 1 + 1) / 3) / 3, rel=1e-5)


def test_the_joint_loss_is_the_total_variation_of_blocks():
    """Over all blocks of two tokens, weighed as the target draws them; so is its gradient."""
    size, depth = 3, 2
    keys = jax.random.split(jax.random.key(0), 4)
    p_first, q_first = (jax.random.normal(key, (size,)) for key in keys[:2])
    p_next, q_next = (jax.random.normal(key, (size, size)) for key in keys[2:])
    every = jnp.asarray(list(itertools.product(range(size), repeat=depth)))

    def laws(first, following):
        rows = jnp.broadcast_to(first, (len(every), size)), following[every[:, 0]]
        return jax.nn.log_softmax(jnp.stack(rows, axis=1))

    logp = laws(p_first, p_next)
    joint = jnp.take_along_axis(logp, every[..., None], axis=2)[..., 0].cumsum(1)
    weight = jnp.zeros(every.shape).at[:, 0].set(jnp.exp(joint[:, 1]))

    def loss(q):
        inside = jnp.ones(every.shape, bool)
        places = Places(laws(*q), logp, every, weight, inside)
        return LOSSES["joint_tv"].of(places, RULE._replace(depth=depth))

    def variation(q):
        logq = laws(*q)
        q = jnp.take_along_axis(logq, every[..., None], axis=2)[..., 0].cumsum(1)
        whole = jnp.minimum(jnp.exp(q[:, 1]), jnp.exp(joint[:, 1])).sum()
        first = jnp.minimum(jax.nn.softmax(q_first_of(logq)), jax.nn.softmax(p_first)).sum()
        return 1 - (first + whole) / 2

    def q_first_of(logq):
        return logq[0, 0]

    q = (q_first, q_next)
    assert float(loss(q)) == pytest.approx(float(variation(q)), rel=1e-5)
    got, wanted = jax.grad(loss)(q), jax.grad(variation)(q)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), got, wanted)


def test_the_block_loss_by_hand():
    """Tau 0.5, softness 1: a prefix of ratio r passes with probability r / (r + 0.5)."""
    rule = RULE._replace(softness=1.0)
    pass_1, pass_2 = 0.25 / 0.75, 0.5 / 1.0  # p/q of 0.25, then of 0.25 * 2
    depth = pass_2 + 1 - (1 - pass_1) * (1 - pass_2)
    assert value("block", block([[0.25, 2.0]]), rule) == pytest.approx(1 - depth / 2, rel=1e-5)
    # A block that ended at once is one of one token, and a place of no weight is none.
    ended = block([[0.25, 2.0]], inside=[[True, False]])
    assert value("block", ended, rule) == pytest.approx(1 - pass_1, rel=1e-5)
    two = block([[0.25, 2.0], [0.1, 0.1]], weight=[1.0, 0.0])
    assert value("block", two, rule) == pytest.approx(1 - depth / 2, rel=1e-5)


def test_what_mtad_takes_by_hand():
    """The longest passing prefix, though a shorter one fails; none; all; one that ended."""
    cases = block(
        [[0.25, 3.0, 0.1], [0.1, 0.1, 0.1], [1.0, 1.0, 1.0], [2.0, 0.1, 9.0]],
        inside=[[True, True, True]] * 3 + [[True, False, False]],
    )
    each = [
        float(
            losses.accepted(cases._replace(weight=jnp.zeros((1, 4, 3)).at[:, row].set(1.0)), RULE)
        )
        for row in range(4)
    ]
    assert each == [2, 0, 3, 1]
    assert float(losses.accepted(cases, RULE)) == pytest.approx(6 / 4)
    hard = RULE._replace(softness=1e-3)
    assert value("block", cases, hard) == pytest.approx(1 - (2 / 3 + 0 + 1 + 1) / 4, abs=1e-5)


def test_the_block_loss_teaches_modesty_where_the_target_disagrees():
    """Its gradient lowers q of a drafted token, most near the threshold and not far from it."""

    def slope(ratio):
        places = block([[ratio]])

        def loss(logq):
            return LOSSES["block"].of(places._replace(logq=logq), RULE)

        return float(jax.grad(loss)(places.logq)[0, 0, 0, 0])

    assert 0 < slope(1e-4) < 1e-3 < 0.49 < slope(0.5) < 0.51 and slope(8.0) < 0.12


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.where == TEXT])
def test_gradients_of_the_text(name):
    """Autodiff against differences, in float64."""
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(1), 2)
        logits, theirs = (jax.random.normal(key, (2, 5, 4), jnp.float64) for key in keys)
        labels = jnp.arange(10).reshape(2, 5) % 4
        check_gradient(
            name, logits, theirs, labels, jnp.arange(1.0, 11.0).reshape(2, 5), labels >= 0
        )


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.where == DRAFTED])
def test_gradients_of_blocks(name):
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(2), 2)
        logits, theirs = (jax.random.normal(key, (2, 3, 2, 4), jnp.float64) for key in keys)
        labels = jnp.arange(12).reshape(2, 3, 2) % 4
        inside = jnp.ones(labels.shape, bool).at[1, 2, 1].set(False)
        check_gradient(name, logits, theirs, labels, inside.astype(jnp.float64), inside)


def check_gradient(name, logits, theirs, labels, weight, inside):
    logp = jax.nn.log_softmax(theirs)

    @jax.jit
    def loss(logits):
        return LOSSES[name].of(
            Places(jax.nn.log_softmax(logits), logp, labels, weight, inside), RULE
        )

    way = jax.random.normal(jax.random.key(3), logits.shape, jnp.float64)
    step = 1e-6
    wanted = (loss(logits + step * way) - loss(logits - step * way)) / (2 * step)
    got = (jax.grad(loss)(logits) * way).sum()
    assert abs(float(got)) > 1e-3
    assert float(got) == pytest.approx(float(wanted), rel=1e-6)


def test_a_perfect_draft_has_nothing_to_learn():
    places = text([P, Q], [P, Q], [0, 1])
    blocks = Places(*(x[:, None] for x in places))
    for name, loss in LOSSES.items():
        if name in ("cross_entropy", "block"):
            continue
        at = places if loss.where == TEXT else blocks
        assert value(name, at) == pytest.approx(0, abs=1e-6)
    assert value("block", blocks, RULE._replace(softness=0.01)) == pytest.approx(0, abs=1e-6)
    assert float(losses.accepted(blocks, RULE)) == 2


def test_nothing_that_weighs_is_a_mean_of_nothing():
    places = text([P], [Q], [0], weight=[0.0])
    assert value("kl", places) == 0 and not math.isnan(value("joint_tv", places))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((), "must be pairs of a name and a weight: write"),
        ("kl", "must be pairs of a name and a weight: write"),
        (("kl", 1.0), "'kl' is no name and weight: write"),
        ((("k1", 1.0),), "there is no loss 'k1': use cross_entropy, kl, reverse_kl, tv, "),
        ((("kl", 1.0), ("kl", 2.0)), "kl comes twice: give it once"),
        ((("kl", 0.0),), "the weight of kl must be a number above 0, not 0.0"),
        ((("kl", math.inf),), "the weight of kl must be a number above 0, not inf"),
        ((("tv", "1"),), "the weight of tv must be a number above 0, not '1'"),
    ],
)
def test_bad_names_and_weights_are_one_line(given, message):
    with pytest.raises(ValueError, match="config.losses=") as error:
        losses.read_losses(given)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_what_a_sum_of_losses_needs():
    assert losses.read_losses([["kl", 1], ("block", 0.5)]) == {"kl": 1.0, "block": 0.5}
    assert not losses.needs_target({"cross_entropy": 1.0}) and losses.needs_target({"kl": 1.0})
    assert losses.needs_drafts({"kl": 1.0, "drafted_tv": 1.0}) and not losses.needs_drafts(
        {"tv": 1}
    )


def test_the_document_has_every_loss():
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    part = text.split("## Losses")[1].split("\n## ")[0]
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", part, flags=re.MULTILINE)
    assert [name for row in rows for name in re.findall(r"\w+", row)] == list(LOSSES)
