"""Speculative sampling: tokens drawn from q are tested one by one."""

import jax.numpy as jnp
from flax import struct

from mtad_jax.decode import random
from mtad_jax.decode.draft import DraftTree, node_logp, take
from mtad_jax.decode.protocols import Drafter, Verdict
from mtad_jax.decode.request import Request, check_number
from mtad_jax.decode.state import Controls
from mtad_jax.decode.verifiers.base import check_chain, check_drawn
from mtad_jax.decode.verifiers.lossless.residual import drawn_logq, log_rest, next_logq
from mtad_jax.types import Array, Float, Key


@struct.dataclass
class Rejection:
    """Speculative sampling: token i stays iff u_i < p/(l q), up to the first failure.

    The failing token is replaced by a draw from norm(max(0, p - q)); where all stay, the bonus is
    drawn from p. Lossless at leniency l = 1; below it lossy: no token gets more than p/l. Needs a
    chain drawn from q.

    Draws: u = `uniform(keys, (K,))`, u[i - 1] for token i.

    Source: Leviathan et al. 2023, arXiv 2211.17192 (leniency: its appendix); Chen et al. 2023,
    arXiv 2302.01318.

    Attributes:
      leniency: l, in (0, 1]; traced.
    """

    leniency: float | Float[Array, ""] = 1.0

    bound = None
    plain_bonus = False

    @property
    def lossless(self) -> bool:
        """At leniency 1."""
        return float(self.leniency) == 1

    def check(self, drafter: Drafter, request: Request) -> None:
        """Raise ValueError on a leniency out of range, or a draft that is no chain from q."""
        leniency = check_number("leniency", self.leniency)
        if not 0 < leniency <= 1:
            raise ValueError(f"leniency={leniency} must be in (0, 1] (1 keeps the target's law)")
        check_drawn(drafter, "speculative sampling")
        check_chain(drafter, "speculative sampling")

    def verify(
        self,
        tree: DraftTree,
        logp: Float[Array, "B N V"],
        logits: Float[Array, "B N V"],
        keys: Key[Array, " B"],
        controls: Controls,
    ) -> Verdict:
        """Judge a draft; see `Verifier.verify`."""
        u = random.uniform(keys, (tree.max_depth,))
        log_ratio = node_logp(tree, logp)[:, 1:] - drawn_logq(tree) - jnp.log(self.leniency)
        stays = tree.valid[:, 1:] & (jnp.log(u) < log_ratio)
        leaf = jnp.sum(jnp.cumprod(stays, axis=1), axis=1)
        p = take(logp, leaf)
        rest = jnp.maximum(jnp.exp(p) - jnp.exp(next_logq(tree, leaf)), 0.0)
        return Verdict(leaf, log_rest(rest, p, leaf < tree.length))
