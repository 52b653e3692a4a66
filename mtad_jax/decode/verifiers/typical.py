"""Typical acceptance: what the target finds likely enough stays."""

import jax.numpy as jnp
from flax import struct

from mtad_jax.decode.draft import DraftTree, node_logp, path_sum, take
from mtad_jax.decode.protocols import Drafter, Verdict
from mtad_jax.decode.request import Request, check_number
from mtad_jax.decode.state import Controls
from mtad_jax.decode.verifiers.base import Lossy, deepest, verdict
from mtad_jax.types import Array, Float, Key


@struct.dataclass
class Typical(Lossy):
    """Typical acceptance: p(x) > min(epsilon, alpha exp(-H)) at every node of the path. Lossy.

    H is the entropy in nats of the target's warped law at the node's parent. The deepest passing
    node stays, there the one with the largest log p of its path; then one token from p. q is not
    used: any chain, tree or lattice. A path that ended keeps its places. For alpha < 1 the
    likeliest token always passes; at temperature 0 the text is greedy's. Draws nothing.

    Source: Medusa, arXiv 2401.10774.

    Attributes:
      epsilon: probability that is always enough, in (0, 1]; traced.
      alpha: share of exp(-H) that is enough, above 0; traced.
    """

    epsilon: float | Float[Array, ""]
    alpha: float | Float[Array, ""]

    def check(self, drafter: Drafter, request: Request) -> None:
        """Raise ValueError on epsilon or alpha out of range."""
        epsilon = check_number("epsilon", self.epsilon)
        alpha = check_number("alpha", self.alpha)
        if not 0 < epsilon <= 1:
            raise ValueError(f"epsilon={epsilon} must be in (0, 1] (Medusa uses 0.09)")
        if not 0 < alpha < float("inf"):
            raise ValueError(f"alpha={alpha} must be finite and > 0 (Medusa uses 0.3)")

    def verify(
        self,
        tree: DraftTree,
        logp: Float[Array, "B N V"],
        logits: Float[Array, "B N V"],
        keys: Key[Array, " B"],
        controls: Controls,
    ) -> Verdict:
        """Judge a draft; see `Verifier.verify`."""
        share = jnp.exp(logp) * jnp.where(logp > -jnp.inf, logp, 0.0)
        least = jnp.minimum(jnp.log(self.epsilon), jnp.log(self.alpha) + jnp.sum(share, axis=2))
        value = node_logp(tree, logp)
        likely = tree.filler | (tree.valid & (value > take(least, tree.parent)))
        failures = path_sum(tree, jnp.where(likely, 0.0, 1.0))
        leaf = deepest(tree, tree.valid & (failures == 0), path_sum(tree, value))
        return verdict(leaf, logp)
