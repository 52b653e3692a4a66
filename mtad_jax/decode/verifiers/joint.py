"""MTAD's and MMTAD's rule: the joint likelihood ratio of a whole prefix."""

import jax.numpy as jnp
from flax import struct

from mtad_jax.decode.draft import DraftTree, node_logp, path_sum
from mtad_jax.decode.protocols import Drafter, Verdict
from mtad_jax.decode.request import Request
from mtad_jax.decode.state import Controls
from mtad_jax.decode.verifiers.base import check_tau, deepest, verdict
from mtad_jax.types import Array, Float, Key


@struct.dataclass
class JointThreshold:
    """MTAD and MMTAD: the deepest node whose path passes log p - log q > log tau stays. Lossy.

    log q is that of the candidate x*'s ancestor at the same depth, so on a chain this is MTAD's
    rule (the longest passing prefix; a failing shorter one does not stop the scan), on a lattice
    MMTAD's (at the deepest passing depth, the passing node with the largest log p). Then one token
    from the target's distribution.

    Source: arXiv 2407.09722, section 4; the paper's min(1, ratio) only matters for tau >= 1 and is
    dropped. The public tree code looks the threshold up by beam slot instead of by ancestor.

    Attributes:
      tau: threshold on the joint likelihood ratio, above 0; traced.
    """

    tau: float | Float[Array, ""]

    plain_bonus = True
    lossless = False  # likelier blocks, at the price of the target's law

    @property
    def bound(self) -> Float[Array, ""]:
        """Log tau, which the log-ratio of every accepted block is above."""
        return jnp.log(self.tau)

    def check(self, drafter: Drafter, request: Request) -> None:
        """Raise ValueError on tau at or below 0, or a draft without a candidate x*."""
        check_tau(self.tau)
        if not drafter.candidate:
            raise ValueError(
                f"drafter={type(drafter).__name__}: the joint threshold compares all paths with "
                "one candidate x*, which this draft does not have: draft with Beam or Chain"
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
        joint = path_sum(tree, node_logp(tree, logp))
        passes = tree.valid & (joint - tree.reference > self.bound)
        if tree.is_chain:  # fillers add 0 to both sums; the leaf may as well be the text's end
            depth = jnp.max(jnp.where(passes, jnp.asarray(tree.depth), 0), axis=1)
            return verdict(depth, logp)
        return verdict(deepest(tree, passes, joint), logp)
