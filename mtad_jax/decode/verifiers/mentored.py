"""Mentored decoding: the law nearest to the target's of all that accept as much of the draft."""

import jax.numpy as jnp
from flax import struct

from mtad_jax.decode.draft import DraftTree
from mtad_jax.decode.protocols import Drafter, Verdict
from mtad_jax.decode.request import Request, check_number
from mtad_jax.decode.state import Controls
from mtad_jax.decode.verifiers.base import Lossy
from mtad_jax.decode.verifiers.nearest import nearest_law
from mtad_jax.decode.verifiers.towards import check_drawn_chain, towards
from mtad_jax.types import Array, Float, Key

GOALS = ("divergence", "share")


@struct.dataclass
class Mentored(Lossy):
    """Accepts as much as any law within KL(p || r) <= limit can; or is nearest for a share. Lossy.

    The law of a place is r(v) = min(max(q(v), p(v)/beta), p(v)/alpha), alpha <= 1 <= beta: q where
    it is within those bounds. `limit` says, by

    - "divergence": the most that KL(p || r) may be, in nats; r maximises sum min(q, r), which is
      the probability that a token stays. 0 is speculative sampling, lossless.
    - "share": the least of that probability; r minimises KL(p || r). Where speculative sampling
      accepts as much it is left as it is, so 0 is lossless too.

    r is 0 where p is: what the target's warp cuts never stays, and at temperature 0 the text is
    greedy's. (KL(p || r) itself would not object to such tokens.) p and q are the warped laws, as
    in speculative sampling; any chain drawn from q.

    Draws: as `towards`. Exact against r (p for the bonus after a whole chain).

    Source: Tran-Thien 2023, "A provably optimal lossy variant of speculative decoding". There q is
    the target and p the draft, and the code meets the divergence within a fifth; here it is met
    but for rounding.

    Attributes:
      limit: at least 0, and at most 1 of a share; traced.
      by: "divergence" or "share"; static.
    """

    limit: float | Float[Array, ""]
    by: str = struct.field(pytree_node=False)

    plain_bonus = False

    @property
    def lossless(self) -> bool:
        """At limit 0."""
        return float(self.limit) == 0

    def check(self, drafter: Drafter, request: Request) -> None:
        """Raise ValueError on an unknown goal, a limit out of range, or no chain drawn from q."""
        if self.by not in GOALS:
            raise ValueError(f"by={self.by!r} must be {' or '.join(GOALS)}")
        limit = check_number("limit", self.limit)
        if not limit >= 0:
            raise ValueError(f"limit={limit} must be >= 0 (0 is speculative sampling)")
        if limit > 1 and self.by == "share":
            raise ValueError(f"limit={limit} must be <= 1 for by=share: it is a probability")
        check_drawn_chain(drafter, "mentored decoding")

    def verify(
        self,
        tree: DraftTree,
        logp: Float[Array, "B N V"],
        logits: Float[Array, "B N V"],
        keys: Key[Array, " B"],
        controls: Controls,
    ) -> Verdict:
        """Judge a draft; see `Verifier.verify`."""
        assert tree.logq is not None
        there, logq = logp[:, : tree.max_depth], tree.logq
        p, q = jnp.exp(there), jnp.exp(logq)
        r = nearest_law(p, q, self.limit, share=self.by == "share")
        # To the last bit where it is one of the two: what is certain must not be tested.
        logr = jnp.where(r == p, there, jnp.where(r == q, logq, jnp.log(r)))
        return towards(tree, logr, logp, keys)
