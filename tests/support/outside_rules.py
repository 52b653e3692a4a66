"""Recipes as another package would have them, named `outside_rules:NAME`."""

import jax.numpy as jnp
from flax import struct

from mtad_jax.decode.draft import node_logp
from mtad_jax.decode.draft_verify import DraftVerify
from mtad_jax.decode.drafters.beam import Beam
from mtad_jax.decode.drafters.chain import Chain
from mtad_jax.decode.protocols import Strategy
from mtad_jax.decode.verifiers.base import Lossy, check_chain, leading


@struct.dataclass
class Slack(Lossy):
    """A drafted token stays while log p > log q - slack."""

    slack: float

    def check(self, drafter, request):
        check_chain(drafter, "slack")
        if not float(self.slack) > 0:
            raise ValueError(f"slack={float(self.slack)} must be > 0")

    def verify(self, tree, logp, logits, keys, controls):
        log_ratio = node_logp(tree, logp)[:, 1:] - jnp.diff(tree.reference, axis=1)
        return leading(tree, log_ratio > -self.slack, logp)


def slack(depth: int = 3, slack: float | None = None, draft: str = "chain") -> Strategy:
    """Keep what is hardly less likely than the draft says. Lossy.

    Args:
        depth: Tokens a round.
        slack: Nats by which p may
            be below q.
        draft: "chain" or "beam".
    """
    drafter = Chain(depth) if draft == "chain" else Beam(depth, 2, "search", "best")
    return DraftVerify(drafter, Slack(0.5 if slack is None else slack))


def levels(sizes: tuple[int, ...], deep: bool = False, note=None, how=dict) -> Strategy:
    """Take settings of all kinds, one of them required."""
    return slack(sum(sizes) + deep)


def seeded(seed: int = 0) -> Strategy:
    """Have a setting whose flag is taken."""
    return slack(seed)


def untyped(model: Strategy) -> Strategy:
    """Need what no text can give."""
    return model


def number(depth: int = 3) -> int:
    """Return no strategy."""
    return depth


VALUE = 3
