"""How much of a draft stays: one class a rule."""

import jax.numpy as jnp
from flax import struct

from mtad_jax import keys as rng
from mtad_jax.decode.state import Controls
from mtad_jax.decode.strategy import Drafter, Request, Verdict, check_draws
from mtad_jax.tree import Draft, node_logp, path_sum, pick, take
from mtad_jax.types import Array, Float, Int, Key


@struct.dataclass
class Ancestral:
    """Accepts nothing and draws the next token from the target: plain sampling. Lossless."""

    @property
    def lossless(self) -> bool:
        """Yes, by definition."""
        return True

    def check(self, drafter: Drafter, request: Request) -> None:
        """Nothing can be out of range."""

    def verify(
        self,
        draft: Draft,
        logp: Float[Array, "B N V"],
        logits: Float[Array, "B N V"],
        keys: Key[Array, " B"],
        controls: Controls,
    ) -> Verdict:
        """Judge a draft; see `Verifier.verify`."""
        return _verdict(jnp.zeros_like(draft.length), logp)


@struct.dataclass
class Argmax:
    """Accepts nothing and takes the likeliest next token: greedy decoding."""

    @property
    def lossless(self) -> bool:
        """No: it takes the likeliest token."""
        return False

    def check(self, drafter: Drafter, request: Request) -> None:
        """Raise ValueError where several samples are asked for."""
        check_draws(request, "use sample")

    def verify(
        self,
        draft: Draft,
        logp: Float[Array, "B N V"],
        logits: Float[Array, "B N V"],
        keys: Key[Array, " B"],
        controls: Controls,
    ) -> Verdict:
        """Judge a draft; see `Verifier.verify`."""
        last = logp[:, 0]
        best = jnp.argmax(last, axis=-1, keepdims=True) == jnp.arange(last.shape[-1])
        return Verdict(jnp.zeros_like(draft.length), jnp.where(best, 0.0, -jnp.inf))


@struct.dataclass
class Rejection:
    """Speculative sampling: token i stays iff u_i < p/q, up to the first failure. Lossless.

    The failing token is replaced by a draw from norm(max(0, p - q)); where all stay, the bonus is
    drawn from p. Needs a chain drawn from q.

    Source: Leviathan et al. 2023, arXiv 2211.17192; Chen et al. 2023, arXiv 2302.01318.
    """

    @property
    def lossless(self) -> bool:
        """Yes."""
        return True

    def check(self, drafter: Drafter, request: Request) -> None:
        """Nothing can be out of range."""

    def verify(
        self,
        draft: Draft,
        logp: Float[Array, "B N V"],
        logits: Float[Array, "B N V"],
        keys: Key[Array, " B"],
        controls: Controls,
    ) -> Verdict:
        """Judge a draft; see `Verifier.verify`."""
        if draft.logq is None or not draft.is_chain:
            raise ValueError("speculative sampling needs a chain drawn from q: use the Chain draft")
        u = rng.uniform(keys, (draft.max_depth,))
        log_ratio = node_logp(draft, logp)[:, 1:] - _drawn_logq(draft)
        stays = draft.valid[:, 1:] & (jnp.log(u) < log_ratio)
        leaf = jnp.sum(jnp.cumprod(stays, axis=1), axis=1)
        p = take(logp, leaf)
        rejected = leaf < draft.length
        q = take(draft.logq, jnp.minimum(leaf, draft.max_depth - 1))
        residual = jnp.maximum(jnp.exp(p) - jnp.exp(q), 0.0)
        # A residual without mass is a matter of rounding: p then.
        use = rejected & (jnp.sum(residual, axis=-1) > 0)
        return Verdict(leaf, jnp.where(use[:, None], jnp.log(residual), p))


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

    @property
    def lossless(self) -> bool:
        """No: the joint rule trades the target's law for likelier blocks."""
        return False

    @property
    def bound(self) -> Float[Array, ""]:
        """Log tau, which the log-ratio of every accepted block is above."""
        return jnp.log(self.tau)

    def check(self, drafter: Drafter, request: Request) -> None:
        """Raise ValueError on tau at or below 0."""
        if not float(self.tau) > 0:
            raise ValueError(f"tau={float(self.tau)} must be > 0 (the paper uses 0.1 to 0.5)")

    def verify(
        self,
        draft: Draft,
        logp: Float[Array, "B N V"],
        logits: Float[Array, "B N V"],
        keys: Key[Array, " B"],
        controls: Controls,
    ) -> Verdict:
        """Judge a draft; see `Verifier.verify`."""
        joint = path_sum(draft, node_logp(draft, logp))
        passes = draft.valid & (joint - draft.reference > self.bound)
        if draft.is_chain:  # fillers add 0 to both sums; the leaf may as well be the text's end
            depth = jnp.max(jnp.where(passes, jnp.asarray(draft.depth), 0), axis=1)
            return _verdict(depth, logp)
        return _verdict(deepest(draft, passes, joint), logp)


def deepest(draft: Draft, passes: Array, joint: Float[Array, "B N"]) -> Int[Array, " B"]:
    """Return, at the deepest depth with a passing node, the one with the largest joint; else 0."""
    level = jnp.asarray(draft.depth)
    depth = jnp.max(jnp.where(passes, level, 0), axis=1)
    there = passes & (level == depth[:, None])
    leaf = jnp.argmax(jnp.where(there, joint, -jnp.inf), axis=1)
    return jnp.where(depth > 0, leaf, 0)


def _verdict(leaf: Int[Array, " B"], logp: Float[Array, "B N V"]) -> Verdict:
    """Return the verdict whose bonus comes from the target's distribution after the leaf."""
    return Verdict(leaf, take(logp, leaf))


def _drawn_logq(draft: Draft) -> Float[Array, "B K"]:
    """Return log q of each drafted token of a chain."""
    assert draft.logq is not None
    step = jnp.broadcast_to(jnp.arange(draft.max_depth), draft.tokens[:, 1:].shape)
    return pick(draft.logq, step, draft.tokens[:, 1:])
