"""What verifiers share: their promises, and verdicts whose bonus is the target's."""

import jax.numpy as jnp

from mtad_jax.decode.draft import DraftTree, take
from mtad_jax.decode.protocols import Drafter, Verdict
from mtad_jax.decode.request import Request, check_number
from mtad_jax.types import Array, Bool, Float, Int


class Lossy:
    """What holds of most rules that are lossy by design; see `Verifier`."""

    lossless = False
    bound = None
    plain_bonus = True

    def check(self, drafter: Drafter, request: Request) -> None:
        """Nothing can be out of range."""


class Lossless(Lossy):
    """What holds of the rules that keep the target's law; see `Verifier`."""

    lossless = True
    plain_bonus = False


def deepest(tree: DraftTree, passes: Array, joint: Float[Array, "B N"]) -> Int[Array, " B"]:
    """Return, at the deepest depth with a passing node, the one with the largest joint; else 0."""
    level = jnp.asarray(tree.depth)
    depth = jnp.max(jnp.where(passes, level, 0), axis=1)
    there = passes & (level == depth[:, None])
    leaf = jnp.argmax(jnp.where(there, joint, -jnp.inf), axis=1)
    return jnp.where(depth > 0, leaf, 0)


def verdict(leaf: Int[Array, " B"], logp: Float[Array, "B N V"]) -> Verdict:
    """Return the verdict whose bonus comes from the target's distribution after the leaf."""
    return Verdict(leaf, take(logp, leaf))


def leading(tree: DraftTree, stays: Bool[Array, "B K"], logp: Float[Array, "B N V"]) -> Verdict:
    """Return the verdict that keeps a chain up to its first token that does not stay."""
    stays = tree.valid[:, 1:] & stays
    return verdict(jnp.sum(jnp.cumprod(stays, axis=1), axis=1), logp)


def check_tau(tau: float | Float[Array, ""]) -> None:
    """Raise ValueError on tau at or below 0."""
    if not (value := check_number("tau", tau)) > 0:
        raise ValueError(f"tau={value} must be > 0 (the paper uses 0.1 to 0.5)")


def check_chain(drafter: Drafter, rule: str) -> None:
    """Raise ValueError where a rule for chains is given another draft."""
    if not drafter.chain:
        name = type(drafter).__name__
        raise ValueError(f"drafter={name}: {rule} judges a chain, not a tree: draft with Chain")


def check_drawn(drafter: Drafter, rule: str) -> None:
    """Raise ValueError where a rule needs tokens drawn from q and they were chosen."""
    if not drafter.drawn:
        name = type(drafter).__name__
        raise ValueError(
            f"drafter={name}: {rule} needs tokens drawn from q, not chosen ones: draft with Chain, "
            "Tree or Lookup"
        )


def check_replace(drafter: Drafter, replace: bool) -> None:
    """Raise ValueError where siblings are drawn in another way than they are judged."""
    if not drafter.chain and getattr(drafter, "replace", None) != replace:
        raise ValueError(
            f"replace={replace}: the tree is drawn with replace={not replace}, and "
            "judged otherwise the text would lose the target's law: give both the same"
        )
