"""The rules that keep the target's law: they test tokens drawn from q, and replace what fails."""

import jax
import jax.numpy as jnp
from flax import struct

from mtad_jax.decode import random
from mtad_jax.decode.draft import Draft, node_logp, pick, take
from mtad_jax.decode.protocols import Drafter, Request, Verdict, check_chain, check_drawn
from mtad_jax.decode.state import Controls
from mtad_jax.types import Array, Bool, Float, Int, Key

_HALVINGS = 30  # of SpecTr's bracket: beyond it f32 has no number in between


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

    @property
    def lossless(self) -> bool:
        """At leniency 1."""
        return float(self.leniency) == 1

    @property
    def bound(self) -> None:
        """Nothing is promised."""
        return None

    def check(self, drafter: Drafter, request: Request) -> None:
        """Raise ValueError on a leniency out of range, or a draft that is no chain from q."""
        leniency = float(self.leniency)
        if not 0 < leniency <= 1:
            raise ValueError(f"leniency={leniency} must be in (0, 1] (1 keeps the target's law)")
        check_drawn(drafter, "speculative sampling")
        check_chain(drafter, "speculative sampling")

    def verify(
        self,
        draft: Draft,
        logp: Float[Array, "B N V"],
        logits: Float[Array, "B N V"],
        keys: Key[Array, " B"],
        controls: Controls,
    ) -> Verdict:
        """Judge a draft; see `Verifier.verify`."""
        u = random.uniform(keys, (draft.max_depth,))
        log_ratio = node_logp(draft, logp)[:, 1:] - _drawn_logq(draft) - jnp.log(self.leniency)
        stays = draft.valid[:, 1:] & (jnp.log(u) < log_ratio)
        leaf = jnp.sum(jnp.cumprod(stays, axis=1), axis=1)
        p = take(logp, leaf)
        rest = jnp.maximum(jnp.exp(p) - jnp.exp(_next_logq(draft, leaf)), 0.0)
        return Verdict(leaf, _log_rest(rest, p, leaf < draft.length))


@struct.dataclass
class BlockVerification:
    """Block verification: the longest prefix that passes a test of its whole joint stays. Lossless.

    P_0 = 1, P_j = min(1, P_{j-1} p_j/q_j). Prefix j passes iff u_j < h_j, where
    h_j = S_j / (S_j + 1 - P_j) (1 where P_j = 1), S_j = sum_v max(0, P_j p_{j+1}(v) - q_{j+1}(v)),
    and h_K = P_K; a failing shorter prefix does not stop the scan. After prefix j a token is drawn
    from norm(max(0, P_j p - q)), after all K from p. A chain that ended after e tokens has K = e.
    Keeps at least as many tokens on average as token-by-token tests. Needs a chain drawn from q.

    Draws: u = `uniform(keys, (K,))`, u[j - 1] for prefix j.

    Source: Sun et al., ICLR 2025, arXiv 2403.10444.
    """

    @property
    def lossless(self) -> bool:
        """Yes."""
        return True

    @property
    def bound(self) -> None:
        """Nothing is promised."""
        return None

    def check(self, drafter: Drafter, request: Request) -> None:
        """Raise ValueError on a draft that is no chain from q."""
        check_drawn(drafter, "block verification")
        check_chain(drafter, "block verification")

    def verify(
        self,
        draft: Draft,
        logp: Float[Array, "B N V"],
        logits: Float[Array, "B N V"],
        keys: Key[Array, " B"],
        controls: Controls,
    ) -> Verdict:
        """Judge a draft; see `Verifier.verify`."""
        assert draft.logq is not None
        most, place = draft.max_depth, 1 + jnp.arange(draft.max_depth)
        joint = _capped_joint(draft, node_logp(draft, logp)[:, 1:] - _drawn_logq(draft))
        scaled = jnp.exp(joint[:, :most, None] + logp[:, :most])
        mass = jnp.sum(jnp.maximum(scaled - jnp.exp(draft.logq), 0.0), axis=2)  # S_0 ... S_{K-1}
        mass = jnp.pad(mass[:, 1:], ((0, 0), (0, 1)))  # S_1 ... S_K; the last is not used
        reached, rest = joint[:, 1:], -jnp.expm1(joint[:, 1:])  # P_j, 1 - P_j
        inside = mass / jnp.where(rest > 0, mass + rest, 1.0)
        inside = jnp.where(rest > 0, inside, 1.0)
        length = draft.length[:, None]
        chance = jnp.where(place == length, jnp.exp(reached), inside)
        passes = (place <= length) & (random.uniform(keys, (most,)) < chance)
        leaf = jnp.max(jnp.where(passes, place, 0), axis=1)
        p = take(logp, leaf)
        scaled = jnp.exp(take(joint, leaf)[:, None] + p)
        rest = jnp.maximum(scaled - jnp.exp(_next_logq(draft, leaf)), 0.0)
        return Verdict(leaf, _log_rest(rest, p, leaf < draft.length))


@struct.dataclass
class TreeRejection:
    """Tree speculation: from the root on, children are tried in draw order. Lossless.

    At a node p is the target's law. A child with token x is accepted iff u < p(x)/q(x); p is the
    target's at the child then. Else p becomes norm(max(0, p - q)), and without replacement
    q(x) becomes 0 and q is normalised again. Where no child is accepted, the bonus is drawn from
    the last p. Equal siblings are tried one by one. Needs a tree drawn from q.

    Draws: u = `uniform(keys, (N - 1,))`, u[i - 1] for node i.

    Source: SpecInfer, arXiv 2305.09781 (with replacement); multi-candidate speculative decoding,
    arXiv 2401.06706 (without).

    Attributes:
      replace: whether siblings were drawn with replacement; as the tree's. Static.
    """

    replace: bool = struct.field(pytree_node=False)

    @property
    def lossless(self) -> bool:
        """Yes."""
        return True

    @property
    def bound(self) -> None:
        """Nothing is promised."""
        return None

    def check(self, drafter: Drafter, request: Request) -> None:
        """Raise ValueError on a draft not drawn from q, or drawn in the other way."""
        check_drawn(drafter, "tree rejection")
        if not drafter.chain and getattr(drafter, "replace", None) != self.replace:
            raise ValueError(
                f"replace={self.replace}: the tree is drawn with replace={not self.replace}, and "
                "judged otherwise the text would lose the target's law: give both the same"
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
        assert draft.logq is not None
        sizes = [draft.depth.count(level) for level in range(draft.max_depth + 1)]
        u = random.uniform(keys, (len(draft.depth) - 1,))
        leaf, going = jnp.zeros_like(draft.length), jnp.ones(draft.length.shape, bool)
        bonus, first = logp[:, 0], 0  # of the level
        for above, here in zip(sizes, sizes[1:], strict=False):
            count = here // above
            place = jnp.where(going, leaf - first, 0)  # of the leaf in its level
            first += above
            child = first + place[:, None] * count + jnp.arange(count)
            tried = take(draft.valid, child) & going[:, None]
            p, q = jnp.exp(take(logp, leaf)), jnp.exp(take(draft.logq, leaf))
            chosen, rest = self._try(p, q, take(draft.tokens, child), tried, take(u, child - 1))
            moves = chosen < count
            bonus = jnp.where((going & ~moves)[:, None], jnp.log(rest), bonus)
            leaf = jnp.where(moves, first + place * count + chosen, leaf)
            going = moves
        return Verdict(leaf, jnp.where(going[:, None], take(logp, leaf), bonus))

    def _try(
        self,
        p: Float[Array, "B V"],
        q: Float[Array, "B V"],
        token: Int[Array, "B C"],
        tried: Bool[Array, "B C"],
        u: Float[Array, "B C"],
    ) -> tuple[Int[Array, " B"], Float[Array, "B V"]]:
        """Return which of C children is accepted (C: none), and p after those that were not."""
        count = token.shape[1]
        chosen = jnp.full(token.shape[:1], count)
        for i in range(count):
            own = token[:, i, None] == jnp.arange(p.shape[1])
            p_x, q_x = take(p, token[:, i]), take(q, token[:, i])
            test = tried[:, i] & (chosen == count)
            passes = test & (u[:, i] * q_x < p_x)
            chosen = jnp.where(passes, i, chosen)
            fails = (test & ~passes)[:, None]
            p = jnp.where(fails, _normalised(jnp.maximum(p - q, 0.0), p), p)
            if not self.replace:
                q = jnp.where(fails, _normalised(jnp.where(own, 0.0, q), q), q)
        return chosen, p


@struct.dataclass
class SpecTr:
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

    @property
    def lossless(self) -> bool:
        """Yes."""
        return True

    @property
    def bound(self) -> None:
        """Nothing is promised."""
        return None

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
        draft: Draft,
        logp: Float[Array, "B N V"],
        logits: Float[Array, "B N V"],
        keys: Key[Array, " B"],
        controls: Controls,
    ) -> Verdict:
        """Judge a draft; see `Verifier.verify`."""
        assert draft.logq is not None
        chains, batch = draft.depth.count(1), draft.length.shape[0]
        u = random.uniform(keys, (len(draft.depth) - 1,))
        leaf, going = jnp.zeros_like(draft.length), jnp.ones((batch,), bool)
        alive, bonus = jnp.ones((batch, chains), bool), logp[:, 0]
        for level in range(draft.max_depth):
            first = 1 + level * chains
            token = draft.tokens[:, first : first + chains]
            alive &= draft.valid[:, first : first + chains]
            log_p, log_q = take(logp, leaf), take(draft.logq, leaf)
            p, q, count = jnp.exp(log_p), jnp.exp(log_q), jnp.sum(alive, axis=1)
            most = jnp.maximum(count, 1).astype(p.dtype)
            rho = _best_rho(p, q, most) if self.rho == "best" else most
            drawn_q = jnp.where(alive, take(log_q, token), 0.0)
            log_ratio = take(log_p, token) - drawn_q - jnp.log(rho)[:, None]
            passes = alive & (jnp.log(u[:, first - 1 : first - 1 + chains]) < log_ratio)
            moves, chosen = going & jnp.any(passes, axis=1), jnp.argmax(passes, axis=1)
            rest = jnp.maximum(p - _accepted_mass(p, q, rho, count, chains), 0.0)
            stops = (going & ~moves)[:, None]
            bonus = jnp.where(stops, _log_rest(rest, log_p, count > 0), bonus)
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


def _capped_joint(draft: Draft, log_ratio: Float[Array, "B K"]) -> Float[Array, "B K1"]:
    """Return log P_0 ... log P_K of block verification; past the chain's end unchanged."""
    joint = [jnp.zeros_like(log_ratio[:, 0])]
    for i in range(draft.max_depth):
        step = jnp.where(draft.valid[:, 1 + i], log_ratio[:, i], 0.0)
        joint.append(jnp.minimum(joint[-1] + step, 0.0))
    return jnp.stack(joint, axis=1)


def _drawn_logq(draft: Draft) -> Float[Array, "B K"]:
    """Return log q of each drafted token of a chain, 0 past its end."""
    assert draft.logq is not None
    step = jnp.broadcast_to(jnp.arange(draft.max_depth), draft.tokens[:, 1:].shape)
    value = pick(draft.logq, step, draft.tokens[:, 1:])
    return jnp.where(draft.valid[:, 1:], value, 0.0)


def _next_logq(draft: Draft, leaf: Int[Array, " B"]) -> Float[Array, "B V"]:
    """Return q after node `leaf` of a chain; the last that there is, past it."""
    assert draft.logq is not None
    return take(draft.logq, jnp.minimum(leaf, draft.max_depth - 1))


def _log_rest(
    rest: Float[Array, "B V"], log_p: Float[Array, "B V"], rejected: Bool[Array, " B"]
) -> Float[Array, "B V"]:
    """Return the log of a residual where something was rejected, log p elsewhere.

    A residual without mass is a matter of rounding: p then.
    """
    use = rejected & (jnp.sum(rest, axis=1) > 0)
    return jnp.where(use[:, None], jnp.log(rest), log_p)


def _normalised(mass: Float[Array, "B V"], before: Float[Array, "B V"]) -> Float[Array, "B V"]:
    """Return `mass` with sum 1; `before` where there is none."""
    total = jnp.sum(mass, axis=1, keepdims=True)
    return jnp.where(total > 0, mass / jnp.where(total > 0, total, 1.0), before)
