"""Speculative sampling towards any law r: what every rule with one test a token shares."""

import jax
import jax.numpy as jnp

from mtad_jax.decode import random
from mtad_jax.decode.draft import DraftTree, node_logp, take
from mtad_jax.decode.drafters.chain import Chain
from mtad_jax.decode.protocols import Drafter, Verdict
from mtad_jax.decode.verifiers.base import check_chain, check_drawn
from mtad_jax.decode.verifiers.lossless.residual import drawn_logq, log_rest, next_logq
from mtad_jax.types import Array, Float, Int, Key


def towards(
    tree: DraftTree,
    logr: Float[Array, "B K V"],
    logp: Float[Array, "B N V"],
    keys: Key[Array, " B"],
) -> Verdict:
    """Judge a chain drawn from q so that its places have the law r.

    Token i stays iff u_i < r/q, up to the first failure, whose place is drawn from
    norm(max(0, r - q)); after a chain that stays whole the bonus is drawn from p. So each place of
    the chain that is reached has exactly the law r_i, and its token stays with the probability
    sum min(q, r_i), the largest that this law allows. `logr[b, i]` is log r after node i.

    Draws: those of `first_failure`.
    """
    leaf = first_failure(tree, log_ratio(tree, logr), keys)
    return after_failure(tree, leaf, logr, logp)


def log_ratio(tree: DraftTree, logr: Float[Array, "B M V"]) -> Float[Array, "B K"]:
    """Return log(r/q) of each drafted token of a chain; M is K or more. 0 past its end."""
    return node_logp(tree, logr)[:, 1:] - drawn_logq(tree)


def first_failure(
    tree: DraftTree, ratio: Float[Array, "B K"], keys: Key[Array, " B"]
) -> Int[Array, " B"]:
    """Return the last node of a chain before the first with log u >= its log-ratio.

    Draws: u = `uniform(keys, (K,))`, u[i - 1] for token i.
    """
    u = random.uniform(keys, (tree.max_depth,))
    stays = tree.valid[:, 1:] & (jnp.log(u) < ratio)
    return jnp.sum(jnp.cumprod(stays, axis=1), axis=1)


def after_failure(
    tree: DraftTree,
    leaf: Int[Array, " B"],
    logr: Float[Array, "B M V"],
    logp: Float[Array, "B N V"],
) -> Verdict:
    """Return the verdict of tests towards r: norm(max(0, r - q)) at a failure, p after the chain.

    A residual without mass is a matter of rounding: r then.
    """
    rejected = leaf < tree.length
    r = take(logr, jnp.minimum(leaf, logr.shape[1] - 1))
    rest = jnp.maximum(jnp.exp(r) - jnp.exp(next_logq(tree, leaf)), 0.0)
    whole = jnp.where(rejected[:, None], r, take(logp, leaf))
    return Verdict(leaf, log_rest(rest, whole, rejected))


def check_drawn_chain(drafter: Drafter, rule: str) -> None:
    """Raise ValueError on a draft that is no chain drawn from q."""
    check_drawn(drafter, rule)
    check_chain(drafter, rule)


def check_raw(drafter: Drafter, rule: str) -> None:
    """Raise ValueError on a draft that is no chain drawn from q, or does not keep its logits."""
    check_drawn_chain(drafter, rule)
    if not isinstance(drafter, Chain):
        raise ValueError(
            f"drafter={type(drafter).__name__}: {rule} judges by the draft's own logits, which "
            "only Chain keeps: draft with Chain"
        )


def raw_logps(
    tree: DraftTree, logits: Float[Array, "B N V"]
) -> tuple[Float[Array, "B K V"], Float[Array, "B K V"]]:
    """Return the un-warped log p and log q at the places of a chain, without any control."""
    assert tree.logits is not None
    p, q = (x.astype(jnp.float32) for x in (logits[:, : tree.max_depth], tree.logits))
    return jax.nn.log_softmax(p), jax.nn.log_softmax(q)
