"""What a draft (or a target) can learn from: a table of losses, each the better the lower it is.

p is the target's distribution, q the trained model's, both at temperature 1 over the real tokens.
A loss of the *text* looks at every token of a batch; a loss of what is *drafted* at blocks that the
model itself proposes after some of them (`experiments.training.blocks`). Gradients go through q
alone, at the tokens that are there.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtad_jax.types import Array, Bool, Float, Int

TEXT, DRAFTED = "text", "drafted"


class Places(NamedTuple):
    """Two laws over the same places, and the tokens that are there.

    Attributes:
      logq: [..., V] log q of the token of each place, given those before it.
      logp: the same of the target; None: there is none.
      labels: [...] the tokens.
      weight: [...] of each place in a mean.
      inside: [B, T] of text: whether a place's token goes on with the document before it; [B, A, K]
        of drafted blocks: whether it is text and no filler after an end.
    """

    logq: Float[Array, "*N V"]
    logp: Float[Array, "*N V"] | None
    labels: Int[Array, "*N"]
    weight: Float[Array, "*N"]
    inside: Bool[Array, "*N"]


class Rule(NamedTuple):
    """The rule that blocks are drafted for: MTAD, made differentiable.

    Attributes:
      depth: K, tokens of a block.
      tau: threshold on the joint likelihood ratio.
      softness: nats over which a ratio's passing goes from unlikely to likely.
    """

    depth: int
    tau: float
    softness: float


def mean(values: Float[Array, "*N"], weight: Float[Array, "*N"]) -> Float[Array, ""]:
    """Return the weighted mean; 0 where nothing weighs."""
    total = jnp.sum(weight)
    return jnp.sum(values * weight) / jnp.where(total > 0, total, 1.0)


def cross_entropy(at: Places, rule: Rule) -> Float[Array, ""]:
    """Return the mean of -log q of the tokens themselves."""
    del rule
    return mean(-_picked(at.logq, at.labels), at.weight)


def kl(at: Places, rule: Rule) -> Float[Array, ""]:
    """Return KL(p || q): q covers all that p may say."""
    del rule
    logp = _target(at)
    return mean((jnp.exp(logp) * (logp - at.logq)).sum(-1), at.weight)


def reverse_kl(at: Places, rule: Rule) -> Float[Array, ""]:
    """Return KL(q || p): q says nothing that p would not.

    Source: of drafted blocks, on-policy distillation (Agarwal et al. 2024, arXiv 2306.13649).
    """
    del rule
    return mean((jnp.exp(at.logq) * (at.logq - _target(at))).sum(-1), at.weight)


def overlap(at: Places) -> Float[Array, "*N"]:
    """Return the sum of min(p, q): how likely speculative sampling takes one token of q.

    Source: Leviathan et al. 2023, arXiv 2211.17192, corollary 3.6.
    """
    return jnp.minimum(jnp.exp(_target(at)), jnp.exp(at.logq)).sum(-1)


def total_variation(at: Places, rule: Rule) -> Float[Array, ""]:
    """Return 1 - overlap, the rate of rejection of single tokens.

    Source: DistillSpec (Zhou et al. 2024, arXiv 2310.08461).
    """
    del rule
    return mean(1 - overlap(at), at.weight)


def log_overlap(at: Places, rule: Rule) -> Float[Array, ""]:
    """Return -log overlap: total variation's gradient, the larger the less the two overlap.

    Source: the loss that LK losses (arXiv 2602.23881) write with alpha.
    """
    del rule
    both = jax.nn.logsumexp(jnp.minimum(_target(at), at.logq), axis=-1)
    return mean(-both, at.weight)


def joint_variation(at: Places, rule: Rule) -> Float[Array, ""]:
    """Return 1 - the mean over j = 1 ... K of min(1, q/p) of the next j tokens together.

    On text that the target drew, min(1, q/p) has the mean sum over blocks x of min(p(x), q(x)): 1 -
    the total variation of the laws of blocks of j tokens. On other text it is no such mean. A
    window ends with its document.
    """
    ratio = _picked(at.logq, at.labels) - _picked(_target(at), at.labels)
    length = ratio.shape[1]
    passed = count = jnp.zeros_like(ratio)
    total, going = jnp.zeros_like(ratio), jnp.ones(ratio.shape, bool)
    for ahead in range(min(rule.depth, length)):
        room = ((0, 0), (0, ahead))
        going &= jnp.pad(at.inside[:, ahead:], room)
        total += jnp.pad(ratio[:, ahead:], room)
        passed += jnp.where(going, jnp.exp(jnp.minimum(total, 0.0)), 0.0)
        count += going
    return mean(1 - passed / jnp.maximum(count, 1), at.weight)


def block_depth(at: Places, rule: Rule) -> Float[Array, ""]:
    """Return 1 - the share of a drafted block that MTAD is expected to take, its test made soft.

    Prefix j passes with probability s_j = sigmoid((log p(x_1..j) - log q(x_1..j) - log tau) /
    softness), each by itself; the longest passing prefix is taken: the expected depth is the sum
    over j of 1 - prod_{m >= j} (1 - s_m). As softness falls to 0 it becomes MTAD's own depth.
    """
    room = (_log_ratio(at) - math.log(rule.tau)) / rule.softness
    failing = jnp.where(at.inside, jax.nn.log_sigmoid(-room), 0.0)  # log (1 - s_j)
    none_from = jax.lax.cumsum(failing, axis=2, reverse=True)
    depth = -jnp.expm1(none_from).sum(-1)
    return mean(1 - depth / jnp.maximum(at.inside.sum(-1), 1), at.weight[..., 0])


def accepted(at: Places, rule: Rule) -> Float[Array, ""]:
    """Return the mean depth at which MTAD takes a drafted block: tokens, without the bonus."""
    passes = at.inside & (_log_ratio(at) > math.log(rule.tau))
    depth = jnp.where(passes, 1 + jnp.arange(passes.shape[2]), 0).max(-1)
    return mean(depth.astype(jnp.float32), at.weight[..., 0])


class Loss(NamedTuple):
    """A line of the table: where a loss looks, and what it is there."""

    where: str
    of: Callable[[Places, Rule], Float[Array, ""]]


LOSSES = {
    "cross_entropy": Loss(TEXT, cross_entropy),
    "kl": Loss(TEXT, kl),
    "reverse_kl": Loss(TEXT, reverse_kl),
    "tv": Loss(TEXT, total_variation),
    "log_overlap": Loss(TEXT, log_overlap),
    "joint_tv": Loss(TEXT, joint_variation),
    "block": Loss(DRAFTED, block_depth),
    "drafted_kl": Loss(DRAFTED, kl),
    "drafted_reverse_kl": Loss(DRAFTED, reverse_kl),
    "drafted_tv": Loss(DRAFTED, total_variation),
}
"""The losses that a recipe can name. All but cross entropy need a target."""


def read_losses(given: Any) -> dict[str, float]:
    """Return the weight of each loss that a recipe names.

    Args:
      given: `config.losses`, pairs of a name and a weight.

    Raises:
      ValueError: it is none, an unknown loss, one twice, or a weight that is not above 0.
    """
    shown = f"config.losses={given!r}"
    if not isinstance(given, tuple | list) or not given:
        raise ValueError(f"{shown} must be pairs of a name and a weight: write (('kl', 1.0),)")
    weights: dict[str, float] = {}
    for pair in given:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ValueError(f"{shown}: {pair!r} is no name and weight: write (('kl', 1.0),)")
        name, weight = pair
        if name not in LOSSES:
            raise ValueError(f"{shown}: there is no loss {name!r}: use {', '.join(LOSSES)}")
        if name in weights:
            raise ValueError(f"{shown}: {name} comes twice: give it once")
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not number or not 0 < weight < math.inf:
            raise ValueError(
                f"{shown}: the weight of {name} must be a number above 0, not {weight!r}"
            )
        weights[name] = float(weight)
    return weights


def needs_target(names: Iterable[str]) -> bool:
    """Say whether any of the losses compares with a target."""
    return set(names) != {"cross_entropy"}


def needs_drafts(names: Iterable[str]) -> bool:
    """Say whether any of the losses looks at drafted blocks."""
    return any(LOSSES[name].where == DRAFTED for name in names)


def _target(at: Places) -> Float[Array, "*N V"]:
    assert at.logp is not None
    return at.logp


def _picked(logp: Float[Array, "*N V"], labels: Int[Array, "*N"]) -> Float[Array, "*N"]:
    """Return the log-probability of each place's token."""
    return jnp.take_along_axis(logp, labels[..., None], axis=-1)[..., 0]


def _log_ratio(at: Places) -> Float[Array, "B A K"]:
    """Return log p - log q of the first 1 ... K tokens of every block; fillers add nothing."""
    each = _picked(_target(at), at.labels) - _picked(at.logq, at.labels)
    return jnp.cumsum(jnp.where(at.inside, each, 0.0), axis=2)
