"""Fixed-threshold speculative: MTAD's rule token by token."""

import jax.numpy as jnp
from flax import struct

from mtad_jax.decode.draft import DraftTree, node_logp
from mtad_jax.decode.protocols import Drafter, Verdict
from mtad_jax.decode.request import Request
from mtad_jax.decode.state import Controls
from mtad_jax.decode.verifiers.base import Lossy, check_chain, check_tau, leading
from mtad_jax.types import Array, Float, Key


@struct.dataclass
class Threshold(Lossy):
    """Fixed-threshold speculative: token i stays while log p - log q > log tau. Lossy.

    MTAD's rule token by token: the first failure stops the scan, and the next token is drawn from
    p, not from a residual. Equal to MTAD at K = 1. log q of a token is the difference of the
    chain's `DraftTree.reference` at it and before it, so a beam's x* can be judged: then only the
    rule differs from MTAD. Draws nothing.

    Source: the token-wise twin of arXiv 2407.09722's rule.

    Attributes:
      tau: threshold on each token's likelihood ratio, above 0; traced.
    """

    tau: float | Float[Array, ""]

    def check(self, drafter: Drafter, request: Request) -> None:
        """Raise ValueError on tau at or below 0, or a draft that is no chain."""
        check_tau(self.tau)
        check_chain(drafter, "fixed-threshold speculative")

    def verify(
        self,
        tree: DraftTree,
        logp: Float[Array, "B N V"],
        logits: Float[Array, "B N V"],
        keys: Key[Array, " B"],
        controls: Controls,
    ) -> Verdict:
        """Judge a draft; see `Verifier.verify`."""
        log_ratio = node_logp(tree, logp)[:, 1:] - jnp.diff(tree.reference, axis=1)
        return leading(tree, log_ratio > jnp.log(self.tau), logp)
