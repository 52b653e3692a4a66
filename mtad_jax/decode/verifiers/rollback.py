"""BiLD's rule: what the target finds too unlikely is taken back."""

import jax
import jax.numpy as jnp
from flax import struct

from mtad_jax.decode.draft import DraftTree, node_logp
from mtad_jax.decode.protocols import Drafter, Verdict
from mtad_jax.decode.request import Request, check_number
from mtad_jax.decode.state import Controls
from mtad_jax.decode.verifiers.base import (
    Lossy,
    check_chain,
    leading,
)
from mtad_jax.types import Array, Float, Key


@struct.dataclass
class Rollback(Lossy):
    """BiLD's target: drafted tokens stay up to the first with -log p_raw > rollback. Lossy.

    p_raw is the un-warped law of the target; the token at the failing place, and the one after a
    chain that stays whole, are drawn from the warped p. A token that stays may be one that the
    warp would have cut: its warped log-probability is minus infinity then. So at temperature 0 the
    text is not greedy's, only each token's raw probability is above exp(-rollback). Draws nothing.

    Source: BiLD, arXiv 2302.07863; the official code is greedy, and skips a rollback to the same
    token.

    Attributes:
      rollback: nats, at least 0; 0 keeps only what is certain; traced.
    """

    rollback: float | Float[Array, ""]

    def check(self, drafter: Drafter, request: Request) -> None:
        """Raise ValueError on a negative rollback, a repetition penalty, or another draft.

        It must be a chain, and of a draft model.
        """
        rollback = check_number("rollback", self.rollback)
        if not rollback >= 0:
            raise ValueError(f"rollback={rollback} must be >= 0 nats (BiLD uses 5)")
        if request.penalty:
            raise ValueError(
                "repetition_penalty: BiLD judges by raw probabilities, which a penalty does not "
                "touch: use speculative or block"
            )
        check_chain(drafter, "BiLD")
        if not drafter.needs_draft:
            # Raw probabilities would not cut the banned tokens and early ends that it may hold.
            raise ValueError(
                f"drafter={type(drafter).__name__}: BiLD judges by raw probabilities, so its draft "
                "must itself obey bans and minimum length: draft with ConfidentChain or Chain"
            )

    def verify(
        self,
        tree: DraftTree,
        logp: Float[Array, "B N V"],
        logits: Float[Array, "B N V"],
        keys: Key[Array, " B"],
        controls: Controls,
    ) -> Verdict:
        """Judge a draft; see `Verifier.verify`."""
        surprise = -node_logp(tree, jax.nn.log_softmax(logits.astype(jnp.float32)))[:, 1:]
        return leading(tree, surprise <= self.rollback, logp)
