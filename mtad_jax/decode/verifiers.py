"""How much of a draft stays: no draft, and the rules that are lossy by design."""

import jax
import jax.numpy as jnp
from flax import struct

from mtad_jax.decode.draft import Draft, node_logp, path_sum, take
from mtad_jax.decode.protocols import Drafter, Request, Verdict, check_chain, check_draws
from mtad_jax.decode.state import Controls
from mtad_jax.types import Array, Bool, Float, Int, Key


@struct.dataclass
class Ancestral:
    """Accepts nothing and draws the next token from the target: plain sampling. Lossless."""

    @property
    def lossless(self) -> bool:
        """Yes, by definition."""
        return True

    @property
    def bound(self) -> None:
        """Nothing is promised."""
        return None

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
    """Accepts nothing and takes the likeliest next token: greedy decoding.

    Temperature and cuts keep the likeliest token the likeliest: they do not change which is taken,
    only the log-probabilities that are reported. Penalty, bans and minimum length do.
    """

    @property
    def lossless(self) -> bool:
        """No: it takes the likeliest token."""
        return False

    @property
    def bound(self) -> None:
        """Nothing is promised."""
        return None

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
        """Raise ValueError on tau at or below 0, or a draft without a candidate x*."""
        _check_tau(self.tau)
        if not drafter.candidate:
            raise ValueError(
                f"drafter={type(drafter).__name__}: the joint threshold compares all paths with "
                "one candidate x*, which this draft does not have: draft with Beam or Chain"
            )

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


@struct.dataclass
class Threshold:
    """Fixed-threshold speculative: token i stays while log p - log q > log tau. Lossy.

    MTAD's rule token by token: the first failure stops the scan, and the next token is drawn from
    p, not from a residual. Equal to MTAD at K = 1. log q of a token is the difference of the
    chain's `Draft.reference` at it and before it, so a beam's x* can be judged: then only the rule
    differs from MTAD. Draws nothing.

    Source: the token-wise twin of arXiv 2407.09722's rule.

    Attributes:
      tau: threshold on each token's likelihood ratio, above 0; traced.
    """

    tau: float | Float[Array, ""]

    @property
    def lossless(self) -> bool:
        """No: a fixed threshold is no test of chance."""
        return False

    @property
    def bound(self) -> None:
        """Nothing is promised."""
        return None

    def check(self, drafter: Drafter, request: Request) -> None:
        """Raise ValueError on tau at or below 0, or a draft that is no chain."""
        _check_tau(self.tau)
        check_chain(drafter, "fixed-threshold speculative")

    def verify(
        self,
        draft: Draft,
        logp: Float[Array, "B N V"],
        logits: Float[Array, "B N V"],
        keys: Key[Array, " B"],
        controls: Controls,
    ) -> Verdict:
        """Judge a draft; see `Verifier.verify`."""
        log_ratio = node_logp(draft, logp)[:, 1:] - jnp.diff(draft.reference, axis=1)
        return _leading(draft, log_ratio > jnp.log(self.tau), logp)


@struct.dataclass
class Typical:
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

    @property
    def lossless(self) -> bool:
        """No: it asks whether a token is likely enough."""
        return False

    @property
    def bound(self) -> None:
        """Nothing is promised."""
        return None

    def check(self, drafter: Drafter, request: Request) -> None:
        """Raise ValueError on epsilon or alpha out of range."""
        epsilon, alpha = float(self.epsilon), float(self.alpha)
        if not 0 < epsilon <= 1:
            raise ValueError(f"epsilon={epsilon} must be in (0, 1] (Medusa uses 0.09)")
        if not 0 < alpha < float("inf"):
            raise ValueError(f"alpha={alpha} must be finite and > 0 (Medusa uses 0.3)")

    def verify(
        self,
        draft: Draft,
        logp: Float[Array, "B N V"],
        logits: Float[Array, "B N V"],
        keys: Key[Array, " B"],
        controls: Controls,
    ) -> Verdict:
        """Judge a draft; see `Verifier.verify`."""
        share = jnp.exp(logp) * jnp.where(logp > -jnp.inf, logp, 0.0)
        least = jnp.minimum(jnp.log(self.epsilon), jnp.log(self.alpha) + jnp.sum(share, axis=2))
        value = node_logp(draft, logp)
        likely = draft.filler | (draft.valid & (value > take(least, draft.parent)))
        failures = path_sum(draft, jnp.where(likely, 0.0, 1.0))
        leaf = deepest(draft, draft.valid & (failures == 0), path_sum(draft, value))
        return _verdict(leaf, logp)


@struct.dataclass
class Rollback:
    """BiLD's target: drafted tokens stay up to the first with -log p_raw > rollback. Lossy.

    p_raw is the un-warped law of the target; the token at the failing place, and the one after a
    chain that stays whole, are drawn from the warped p. A token that stays may be one that the
    warp would have cut: its warped log-probability is minus infinity then. So at temperature 0 the
    text is not greedy's, only each token's raw probability is above exp(-rollback). Draws nothing.

    Source: BiLD, arXiv 2302.07863; the official code is greedy, and skips a rollback to the same
    token.

    Attributes:
      rollback: nats, at least 0; 0 keeps only what is certain; traced.
    """

    rollback: float | Float[Array, ""]

    @property
    def lossless(self) -> bool:
        """No: a token that is likely enough stays."""
        return False

    @property
    def bound(self) -> None:
        """Nothing is promised."""
        return None

    def check(self, drafter: Drafter, request: Request) -> None:
        """Raise ValueError on a negative rollback, a repetition penalty, or another draft.

        It must be a chain, and of a draft model.
        """
        rollback = float(self.rollback)
        if not rollback >= 0:
            raise ValueError(f"rollback={rollback} must be >= 0 nats (BiLD uses 5)")
        if request.penalty:
            raise ValueError(
                "repetition_penalty: BiLD judges by raw probabilities, which a penalty does not "
                "touch: use speculative or block"
            )
        check_chain(drafter, "BiLD")
        if not drafter.needs_draft:
            # Raw probabilities would not cut the banned tokens and early ends that it may hold.
            raise ValueError(
                f"drafter={type(drafter).__name__}: BiLD judges by raw probabilities, so its draft "
                "must itself obey bans and minimum length: draft with ConfidentChain or Chain"
            )

    def verify(
        self,
        draft: Draft,
        logp: Float[Array, "B N V"],
        logits: Float[Array, "B N V"],
        keys: Key[Array, " B"],
        controls: Controls,
    ) -> Verdict:
        """Judge a draft; see `Verifier.verify`."""
        surprise = -node_logp(draft, jax.nn.log_softmax(logits.astype(jnp.float32)))[:, 1:]
        return _leading(draft, surprise <= self.rollback, logp)


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


def _leading(draft: Draft, stays: Bool[Array, "B K"], logp: Float[Array, "B N V"]) -> Verdict:
    """Return the verdict that keeps a chain up to its first token that does not stay."""
    stays = draft.valid[:, 1:] & stays
    return _verdict(jnp.sum(jnp.cumprod(stays, axis=1), axis=1), logp)


def _check_tau(tau: float | Float[Array, ""]) -> None:
    """Raise ValueError on tau at or below 0."""
    if not float(tau) > 0:
        raise ValueError(f"tau={float(tau)} must be > 0 (the paper uses 0.1 to 0.5)")
