"""Speculative cascades: a law between the draft's and the target's, sampled speculatively."""

import jax.numpy as jnp
from flax import struct

from mtad_jax.decode.draft import DraftTree
from mtad_jax.decode.protocols import Drafter, Verdict
from mtad_jax.decode.request import Request, check_number
from mtad_jax.decode.state import Controls
from mtad_jax.decode.verifiers.base import Lossy
from mtad_jax.decode.verifiers.towards import check_raw, raw_logps, towards
from mtad_jax.types import Array, Bool, Float, Key

PLACES = ("chow", "diff", "opt")
TOKENS = ("token1", "token2", "token3")


@struct.dataclass
class Cascade(Lossy):
    """A deferral rule chooses between q and p; their mixture is sampled speculatively. Lossy.

    The law that a place of the chain gets is

        r(v) = q(v) (1 - d(v)) + p(v) sum_w d(w) q(w)

    where d(v) is 1 where the rule defers to the target. Rules of a place (d is the same for all v:
    r is p where it defers and q elsewhere), with P and Q for the raw laws of target and draft:

    - "chow": max Q < 1 - alpha
    - "diff": max Q < max P - alpha
    - "opt": max Q < max P - alpha TV(p, q), the plug-in of the optimal rule

    Rules of a token (r is below q only where the token is deferred):

    - "token1": Q(v) < max P - alpha
    - "token2": P(v) < max P - alpha
    - "token3": P(v) < (1 - alpha) max P

    p and q are the warped laws that are drawn from; P and Q know no temperature, cut or control,
    for at temperature 0 max q would always be 1. So a place that is not deferred may get a token
    that p gives no probability, whose reported log-probability is minus infinity; and at
    temperature 0 the text is at each place the draft's likeliest token or the target's, as the
    rule says. Needs a chain drawn from q by `Chain`.

    Draws: as `towards`. Exact against r (p for the bonus after a whole chain).

    Source: Narasimhan et al., ICLR 2025, arXiv 2405.19261: sections 4.1 to 4.4, equations 5 and 9
    to 15, algorithms 4 and 6.

    Attributes:
      defer: one of the above rules; static.
      alpha: how much worse the draft may be, at least 0, and at most 1 but for "opt"; more: less is
        deferred. Traced.
    """

    defer: str = struct.field(pytree_node=False)
    alpha: float | Float[Array, ""]

    plain_bonus = False

    def check(self, drafter: Drafter, request: Request) -> None:
        """Raise ValueError on an unknown rule, alpha out of range, or a draft not Chain's."""
        if self.defer not in PLACES + TOKENS:
            known = ", ".join(PLACES + TOKENS)
            raise ValueError(f"defer={self.defer!r} must be one of {known}")
        alpha = check_number("alpha", self.alpha)
        if not 0 <= alpha < float("inf"):
            raise ValueError(f"alpha={alpha} must be finite and >= 0 (more: less is deferred)")
        if alpha > 1 and self.defer != "opt":
            raise ValueError(
                f"alpha={alpha} must be <= 1 for defer={self.defer}: it is a difference of "
                "probabilities, and at 1 nothing is deferred"
            )
        check_raw(drafter, "a speculative cascade")

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
        defers = self._defers(there, logq, *map(jnp.exp, raw_logps(tree, logits)))
        if self.defer in PLACES:
            logr = jnp.where(defers, there, logq)
        else:
            q = jnp.exp(logq)
            moved = jnp.sum(jnp.where(defers, q, 0.0), axis=2, keepdims=True)
            mixed = jnp.log(jnp.where(defers, 0.0, q) + moved * jnp.exp(there))
            logr = jnp.where(moved > 0, mixed, logq)  # to the last bit where nothing is deferred
        return towards(tree, logr, logp, keys)

    def _defers(
        self,
        logp: Float[Array, "B K V"],
        logq: Float[Array, "B K V"],
        raw_p: Float[Array, "B K V"],
        raw_q: Float[Array, "B K V"],
    ) -> Bool[Array, "B K V"] | Bool[Array, "B K 1"]:
        """Return where the rule defers to the target: at a place, or for a token."""
        top_p, top_q = (jnp.max(x, axis=2, keepdims=True) for x in (raw_p, raw_q))
        match self.defer:
            case "chow":
                return top_q < 1 - self.alpha
            case "diff":
                return top_q < top_p - self.alpha
            case "opt":
                less = jnp.maximum(jnp.exp(logp) - jnp.exp(logq), 0.0)
                return top_q < top_p - self.alpha * jnp.sum(less, axis=2, keepdims=True)
            case "token1":
                return raw_q < top_p - self.alpha
            case "token2":
                return raw_p < top_p - self.alpha
            case _:
                return raw_p < (1 - self.alpha) * top_p
