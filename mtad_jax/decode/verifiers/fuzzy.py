"""Fuzzy speculative decoding: where both laws are near each other the draft's token stays."""

import jax.numpy as jnp
from flax import struct
from jax.scipy.special import rel_entr

from mtad_jax.decode.draft import DraftTree
from mtad_jax.decode.protocols import Drafter, Verdict
from mtad_jax.decode.request import Request, check_number
from mtad_jax.decode.state import Controls
from mtad_jax.decode.verifiers.base import Lossy
from mtad_jax.decode.verifiers.towards import check_raw, raw_logps, towards
from mtad_jax.types import Array, Float, Key

MEASURES = ("js", "kl", "tv")


@struct.dataclass
class Fuzzy(Lossy):
    """Token i stays where D(P, Q) < limit, else by the test of speculative sampling. Lossy.

    D is a divergence of the raw laws P of the target and Q of the draft at the token's place, in
    nats but for "tv":

    - "js": (KL(P || M) + KL(Q || M)) / 2 with M = (P + Q) / 2, at most log 2
    - "kl": KL(Q || P)
    - "tv": sum |P - Q| / 2, at most 1

    So a place of the chain has the law q where the laws are near and p elsewhere, p and q warped.
    The paper takes no test where they are not: it rejects the token and draws from p. The law is
    the same, but then fewer tokens stay. At limit 0 it is speculative sampling, lossless. Raw laws
    as in the paper's code: a token that stays may be one that p's warp has cut, and at temperature
    0 the text is not greedy's. Needs a chain drawn from q by `Chain`.

    Draws: as `towards`.

    Source: Holsman et al., Findings of ACL 2025, arXiv 2502.20704.

    Attributes:
      limit: T, at least 0; traced.
      by: "js", "kl" or "tv"; static.
    """

    limit: float | Float[Array, ""]
    by: str = struct.field(pytree_node=False)

    plain_bonus = False

    @property
    def lossless(self) -> bool:
        """At limit 0."""
        return float(self.limit) == 0

    def check(self, drafter: Drafter, request: Request) -> None:
        """Raise ValueError on an unknown divergence, a negative limit, or a draft not Chain's."""
        if self.by not in MEASURES:
            raise ValueError(f"by={self.by!r} must be one of {', '.join(MEASURES)}")
        if not (limit := check_number("limit", self.limit)) >= 0:
            raise ValueError(f"limit={limit} must be >= 0 (0 is speculative sampling)")
        check_raw(drafter, "fuzzy speculative decoding")

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
        near = self._divergence(*map(jnp.exp, raw_logps(tree, logits))) < self.limit
        logr = jnp.where(near[:, :, None], tree.logq, logp[:, : tree.max_depth])
        return towards(tree, logr, logp, keys)

    def _divergence(
        self, p: Float[Array, "B K V"], q: Float[Array, "B K V"]
    ) -> Float[Array, "B K"]:
        """Return how far both laws are apart at each place."""
        match self.by:
            case "js":
                middle = (p + q) / 2
                apart = (rel_entr(p, middle) + rel_entr(q, middle)) / 2
            case "kl":
                apart = rel_entr(q, p)
            case _:
                apart = jnp.abs(p - q) / 2
        return jnp.maximum(jnp.sum(apart, axis=2), 0.0)  # rounding may go below
