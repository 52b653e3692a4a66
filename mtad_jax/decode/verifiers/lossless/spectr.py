"""SpecTr's K-SEQ: several chains are tried at every position."""

import jax
import jax.numpy as jnp
from flax import struct

from mtad_jax.decode import random
from mtad_jax.decode.draft import DraftTree, take
from mtad_jax.decode.protocols import Drafter, Verdict
from mtad_jax.decode.request import Request
from mtad_jax.decode.state import Controls
from mtad_jax.decode.verifiers.base import (
    Lossless,
    check_drawn,
)
from mtad_jax.decode.verifiers.lossless.residual import log_rest
from mtad_jax.types import Array, Float, Int, Key

_HALVINGS = 30  # of SpecTr's bracket: beyond it f32 has no number in between


@struct.dataclass
class SpecTr(Lossless):
    """SpecTr's K-SEQ: n chains drawn from q, tried in order at every position. Lossless.

    The m chains that agree with the text so far are alive. With beta(r) = sum_v min(q, p/r), the
    best rho is the root in [1, m] of rho beta(rho) = 1 - (1 - beta(rho))^m. Alive chains are tried
    in order, each on its own: accepted iff u < p/(rho q). All alive chains with the accepted token
    stay alive. Where none is accepted, the bonus is drawn from
    norm(p - min(q, p/rho) (1 - (1 - beta)^m)/beta), which is norm(max(0, p - rho q)) at the best
    rho. One chain is speculative sampling. Needs `Tree((n, 1, ..., 1), replace=True)`.

    Draws: u = `uniform(keys, (N - 1,))`, u[i - 1] for node i: level by level, chain by chain.

    Source: Sun et al., NeurIPS 2023, arXiv 2310.15141.

    Attributes:
      rho: "best": the root, by bisection for every row and position; "chains": m itself, the
        simplest choice, which accepts less. Static.
    """

    rho: str = struct.field(pytree_node=False, default="best")

    def check(self, drafter: Drafter, request: Request) -> None:
        """Raise ValueError on an unknown rho, or a draft that is not n chains from q."""
        if self.rho not in ("best", "chains"):
            raise ValueError(f"rho={self.rho!r} must be best or chains")
        check_drawn(drafter, "SpecTr")
        branching = getattr(drafter, "branching", ())
        single = set(branching[1:]) <= {1} and getattr(drafter, "replace", None) is True
        if not (drafter.chain or single):
            raise ValueError(
                f"branching={branching}: SpecTr judges independent chains: draft with "
                "Tree((n, 1, ..., 1), replace=True)"
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
        assert tree.logq is not None
        chains, batch = tree.depth.count(1), tree.length.shape[0]
        u = random.uniform(keys, (len(tree.depth) - 1,))
        leaf, going = jnp.zeros_like(tree.length), jnp.ones((batch,), bool)
        alive, bonus = jnp.ones((batch, chains), bool), logp[:, 0]
        for level in range(tree.max_depth):
            first = 1 + level * chains
            token = tree.tokens[:, first : first + chains]
            alive &= tree.valid[:, first : first + chains]
            log_p, log_q = take(logp, leaf), take(tree.logq, leaf)
            p, q, count = jnp.exp(log_p), jnp.exp(log_q), jnp.sum(alive, axis=1)
            most = jnp.maximum(count, 1).astype(jnp.float32)
            rho = _best_rho(p, q, most) if self.rho == "best" else most
            drawn_q = jnp.where(alive, take(log_q, token), 0.0)
            log_ratio = take(log_p, token) - drawn_q - jnp.log(rho)[:, None]
            passes = alive & (jnp.log(u[:, first - 1 : first - 1 + chains]) < log_ratio)
            moves, chosen = going & jnp.any(passes, axis=1), jnp.argmax(passes, axis=1)
            rest = jnp.maximum(p - _accepted_mass(p, q, rho, count, chains), 0.0)
            stops = (going & ~moves)[:, None]
            bonus = jnp.where(stops, log_rest(rest, log_p, count > 0), bonus)
            leaf = jnp.where(moves, first + chosen, leaf)
            alive &= token == take(token, chosen)[:, None]
            going = moves
        return Verdict(leaf, jnp.where(going[:, None], take(logp, leaf), bonus))


def _best_rho(
    p: Float[Array, "B V"], q: Float[Array, "B V"], count: Float[Array, " B"]
) -> Float[Array, " B"]:
    """Return the least rho in [1, m] with rho beta(rho) >= 1 - (1 - beta(rho))^m, from above.

    Both sides less 1: (1 - beta)^m >= 1 - rho beta, each the mass of a difference that f32 holds
    well where p and q are near each other.
    """

    def halve(_, bracket):
        low, high = bracket
        rho = (low + high) / 2
        unused = jnp.sum(jnp.maximum(q - p / rho[:, None], 0.0), axis=1)
        missing = jnp.sum(jnp.maximum(p - rho[:, None] * q, 0.0), axis=1)
        enough = unused**count >= missing
        return jnp.where(enough, low, rho), jnp.where(enough, rho, high)

    return jax.lax.fori_loop(0, _HALVINGS, halve, (jnp.ones_like(count), count))[1]


def _accepted_mass(
    p: Float[Array, "B V"],
    q: Float[Array, "B V"],
    rho: Float[Array, " B"],
    count: Int[Array, " B"],
    chains: int,
) -> Float[Array, "B V"]:
    """Return how often each token is accepted from m alive chains of at most `chains`."""
    once = jnp.minimum(q, p / rho[:, None])
    unused = jnp.sum(q - once, axis=1)  # 1 - beta
    # (1 - (1 - beta)^m) / beta as the sum that it is: beta may be 0.
    tries = jnp.arange(chains)
    sums = jnp.where(tries < count[:, None], unused[:, None] ** tries, 0.0)
    return once * jnp.sum(sums, axis=1, keepdims=True)
