"""Block verification: prefixes of a chain are tested by their joint."""

import jax.numpy as jnp
from flax import struct

from mtad_jax.decode import random
from mtad_jax.decode.draft import DraftTree, node_logp, take
from mtad_jax.decode.protocols import Drafter, Verdict
from mtad_jax.decode.request import Request
from mtad_jax.decode.state import Controls
from mtad_jax.decode.verifiers.base import Lossless, check_chain, check_drawn
from mtad_jax.decode.verifiers.lossless.residual import drawn_logq, log_rest, next_logq
from mtad_jax.types import Array, Float, Key


@struct.dataclass
class BlockVerification(Lossless):
    """Block verification: the longest prefix that passes a test of its whole joint stays. Lossless.

    P_0 = 1, P_j = min(1, P_{j-1} p_j/q_j). Prefix j passes iff u_j < h_j, where
    h_j = S_j / (S_j + 1 - P_j) (1 where P_j = 1), S_j = sum_v max(0, P_j p_{j+1}(v) - q_{j+1}(v)),
    and h_K = P_K; a failing shorter prefix does not stop the scan. After prefix j a token is drawn
    from norm(max(0, P_j p - q)), after all K from p. A chain that ended after e tokens has K = e.
    Keeps at least as many tokens on average as token-by-token tests. Needs a chain drawn from q.

    Draws: u = `uniform(keys, (K,))`, u[j - 1] for prefix j.

    Source: Sun et al., ICLR 2025, arXiv 2403.10444.
    """

    def check(self, drafter: Drafter, request: Request) -> None:
        """Raise ValueError on a draft that is no chain from q."""
        check_drawn(drafter, "block verification")
        check_chain(drafter, "block verification")

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
        most, place = tree.max_depth, 1 + jnp.arange(tree.max_depth)
        joint = _capped_joint(tree, node_logp(tree, logp)[:, 1:] - drawn_logq(tree))
        scaled = jnp.exp(joint[:, :most, None] + logp[:, :most])
        mass = jnp.sum(jnp.maximum(scaled - jnp.exp(tree.logq), 0.0), axis=2)  # S_0 ... S_{K-1}
        mass = jnp.pad(mass[:, 1:], ((0, 0), (0, 1)))  # S_1 ... S_K; the last is not used
        reached, rest = joint[:, 1:], -jnp.expm1(joint[:, 1:])  # P_j, 1 - P_j
        inside = mass / jnp.where(rest > 0, mass + rest, 1.0)
        inside = jnp.where(rest > 0, inside, 1.0)
        length = tree.length[:, None]
        chance = jnp.where(place == length, jnp.exp(reached), inside)
        passes = (place <= length) & (random.uniform(keys, (most,)) < chance)
        leaf = jnp.max(jnp.where(passes, place, 0), axis=1)
        p = take(logp, leaf)
        scaled = jnp.exp(take(joint, leaf)[:, None] + p)
        rest = jnp.maximum(scaled - jnp.exp(next_logq(tree, leaf)), 0.0)
        return Verdict(leaf, log_rest(rest, p, leaf < tree.length))


def _capped_joint(tree: DraftTree, log_ratio: Float[Array, "B K"]) -> Float[Array, "B K1"]:
    """Return log P_0 ... log P_K of block verification; past the chain's end unchanged."""
    joint = [jnp.zeros_like(log_ratio[:, 0])]
    for i in range(tree.max_depth):
        step = jnp.where(tree.valid[:, 1 + i], log_ratio[:, i], 0.0)
        joint.append(jnp.minimum(joint[-1] + step, 0.0))
    return jnp.stack(joint, axis=1)
