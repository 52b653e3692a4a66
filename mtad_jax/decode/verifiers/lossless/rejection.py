"""Speculative sampling: tokens drawn from q are tested one by one."""

import jax.numpy as jnp
from flax import struct

from mtad_jax.decode.draft import DraftTree
from mtad_jax.decode.protocols import Drafter, Verdict
from mtad_jax.decode.request import Request, check_number
from mtad_jax.decode.state import Controls
from mtad_jax.decode.verifiers.towards import (
    after_failure,
    check_drawn_chain,
    first_failure,
    log_ratio,
)
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
        check_drawn_chain(drafter, "speculative sampling")

    def verify(
        self,
        tree: DraftTree,
        logp: Float[Array, "B N V"],
        logits: Float[Array, "B N V"],
        keys: Key[Array, " B"],
        controls: Controls,
    ) -> Verdict:
        """Judge a draft; see `Verifier.verify`."""
        ratio = log_ratio(tree, logp) - jnp.log(self.leniency)
        return after_failure(tree, first_failure(tree, ratio, keys), logp, logp)
