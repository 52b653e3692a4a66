"""DSBD's rule: as many draws of a depth are kept as can be expected to pass."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from mtad_jax.decode import random
from mtad_jax.decode.draft import DraftTree, pick, take
from mtad_jax.decode.drafters.pairs import PairDraws
from mtad_jax.decode.protocols import Drafter, Verdict
from mtad_jax.decode.request import Request, check_number
from mtad_jax.decode.state import Controls
from mtad_jax.decode.verifiers.base import Lossy
from mtad_jax.decode.verifiers.pair_tests import dynamic_width, pair_law, passing_draws
from mtad_jax.types import Array, Bool, Float, Int, Key

_TINY = 1e-30  # keeps the weights of rows without survivors, which nobody reads, from being NaN


@struct.dataclass
class DynamicWidth(Lossy):
    """DSBD: the draws of a depth are tested in turn; as many as can be expected must pass. Lossy.

    Live beams have weights w_b, at the root one beam of weight 1; P(b, v) = w_b p(v | b) over
    them, Q(b, v) the draft's law of the depth, 0 for dead parents and not renormalised. n* is the
    largest n that passes with probability >= `accept`, at least 1. From R = P on, in draw
    order: a dead parent is rejected, any other draw accepted iff u < R/Q; after an acceptance
    R = P, after a rejection R = norm(max(0, R - Q)). Once n* have passed they are the live beams,
    weights in proportion to P, and the next depth is tested. Otherwise n* slots are filled: those
    that passed, one draw from R, the rest from P. After depth K: W slots from P. The slot with the
    largest P is emitted (ties: the first): its parent's path is accepted, its token follows.

    This is the variant that restarts each round from one text; the paper's full form keeps all
    slots as beams of the next round. With W = 1 it is speculative sampling, but `lossless` is False
    for every width: it is asked of the rule, which does not know its draft's width.

    Draws: the test of draw w (from 0) at depth d (from 1) is [d - 1, w] of
    `uniform(fold(keys, 0), (K, W))`, `keys` the verifier's. Slot i (from 0; slots that passed take
    theirs unused) is drawn with row i of Gumbel noise (W, W, V) (slot, beam of the depth above,
    token; at the root beam 0 only) from `fold(keys, 1)`.

    Source: DSBD, arXiv 2409.16560. Its public code subtracts q twice a rejection in the estimate
    of the width.

    Attributes:
      accept: least probability that n* draws pass, in [0, 1]; traced.
    """

    accept: float | Float[Array, ""]

    plain_bonus = False

    def check(self, drafter: Drafter, request: Request) -> None:
        """Raise ValueError on an `accept` that is no probability, or another draft."""
        accept = check_number("accept", self.accept)
        if not 0.0 <= accept <= 1.0:
            raise ValueError(
                f"accept={accept} must be in [0, 1]: it is a probability (1 "
                "tests one beam a depth but where all draws surely pass)"
            )
        if not isinstance(drafter, PairDraws):
            name = type(drafter).__name__
            raise ValueError(f"drafter={name}: DSBD tests draws from a joint: draft with PairDraws")

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
        width, batch = tree.depth.count(1), logp.shape[0]
        u = random.uniform(random.fold(keys, 0), (tree.max_depth, width))
        ended = tree.filler | (tree.valid & controls.is_end(tree.tokens))
        token = jnp.where(tree.filler, 0, tree.tokens)
        weight = jnp.ones((batch, 1), jnp.float32)
        above, stops = slice(0, 1), []
        for step in range(tree.max_depth):
            below = slice(above.stop, above.stop + width)
            share = jax.nn.softmax(tree.reference[:, above], axis=-1)
            p = pair_law(weight, logp[:, above], ended[:, above])
            q = pair_law(jnp.where(weight > 0, share, 0.0), tree.logq[:, above], ended[:, above])
            wanted = dynamic_width(p, q, width, self.accept)
            drawn = tree.parent[:, below] - above.start, token[:, below]
            passed, rest = passing_draws(p, q, drawn, u[:, step], wanted)
            value = jnp.where(passed, pick(p, *drawn), 0.0)
            full = jnp.sum(passed, axis=1) == wanted
            stops.append(_Stop(above.start, ~full, wanted, p, rest, drawn, passed, value))
            weight = value / jnp.maximum(jnp.sum(value, axis=1, keepdims=True), _TINY)
            above = below
        p = pair_law(weight, logp[:, above], ended[:, above])
        stops.append(_last_stop(above.start, p, width))
        leaf, bonus = _emit(_first_stop(stops), random.fold(keys, 1))
        chosen = bonus[:, None] == jnp.arange(logp.shape[2])
        return Verdict(leaf, jnp.where(chosen, 0.0, -jnp.inf))


@struct.dataclass
class _Stop:
    """A depth at which a row may stop.

    Attributes:
      first: [] or [B] node of place 0 of the depth above.
      here: [B] whether the row stops here, if it came so far.
      wanted: [B] slots to fill.
      p, rest: [B, U, V] P, and R after the last test.
      drawn: [B, W] parent's place, and token, of each draw.
      passed, value: [B, W] whether it passed, and its P if so.
    """

    first: int | Int[Array, " B"]
    here: Bool[Array, " B"]
    wanted: Int[Array, " B"]
    p: Float[Array, "B U V"]
    rest: Float[Array, "B U V"]
    drawn: tuple[Int[Array, "B W"], Int[Array, "B W"]]
    passed: Bool[Array, "B W"]
    value: Float[Array, "B W"]


def _last_stop(first: int, p: Float[Array, "B W V"], width: int) -> _Stop:
    """Return the stop after the last depth: nothing is left to test, W slots are drawn from P."""
    batch = p.shape[0]
    none, zero = jnp.zeros((batch, width), bool), jnp.zeros((batch, width), jnp.int32)
    here, wanted = jnp.ones((batch,), bool), jnp.full((batch,), width)
    return _Stop(first, here, wanted, p, p, (zero, zero), none, none.astype(jnp.float32))


def _first_stop(stops: list[_Stop]) -> _Stop:
    """Return, for each row, the first depth at which it stops; the root's one place is padded."""
    width, batch = stops[0].passed.shape[1], stops[0].here.shape[0]

    def padded(x: Array) -> Array:
        return jnp.pad(x, ((0, 0), (0, width - x.shape[1]), (0, 0)))

    stops = [
        dataclasses.replace(
            s, p=padded(s.p), rest=padded(s.rest), first=jnp.full((batch,), s.first)
        )
        for s in stops
    ]
    found = stops[-1]
    for stop in reversed(stops[:-1]):

        def choose(a: Array, b: Array, here: Array = stop.here) -> Array:
            return jnp.where(here.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

        found = jax.tree.map(choose, stop, found)
    return found


def _emit(stop: _Stop, keys: Key[Array, " B"]) -> tuple[Int[Array, " B"], Int[Array, " B"]]:
    """Fill the slots; return the node above the one with the largest P, and its token."""
    batch, width, vocab = stop.p.shape
    slot = jnp.arange(width)
    count = jnp.sum(stop.passed, axis=1, keepdims=True)
    from_rest = (slot == count)[:, :, None, None]
    chances = jnp.where(from_rest, stop.rest[:, None], stop.p[:, None])  # --> [B, W, W, V]
    noise = random.gumbel(keys, (width, width, vocab))
    score = jnp.where(chances > 0, jnp.log(jnp.where(chances > 0, chances, 1.0)) + noise, -jnp.inf)
    pair = jnp.argmax(score.reshape(batch, width, -1), axis=-1)
    fresh = (slot >= count) & (slot < stop.wanted[:, None])
    value = jnp.where(fresh, take(stop.p.reshape(batch, -1), pair), 0.0)
    # Those that passed come first, in draw order: so ties go to them.
    values = jnp.concatenate([stop.value, value], axis=1)
    parent = jnp.concatenate([stop.drawn[0], pair // vocab], axis=1)
    token = jnp.concatenate([stop.drawn[1], pair % vocab], axis=1)
    best = jnp.argmax(values, axis=1)
    return stop.first + take(parent, best), take(token, best)
