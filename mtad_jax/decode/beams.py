"""One step of a beam over any model, and the lattice that the steps leave behind.

Beams are never copied: each step's places become nodes of a lattice whose keys and values stay in
scratch slots, and a window says which of them a place's path went through.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from mtad_jax.decode import random
from mtad_jax.decode.draft import pick, take
from mtad_jax.decode.logits import extend, history, law
from mtad_jax.decode.state import Controls, DecodeState
from mtad_jax.decode.warp import Warp
from mtad_jax.models.protocol import BoundLM
from mtad_jax.types import Array, Bool, Float, Int


@struct.dataclass
class Beams:
    """The W places of one depth.

    Attributes:
      token: [B, W] last token of each path (a filler's is meaningless).
      parent: [B, W] place of the parent at the depth before.
      logq: [B, W] log-weight of the path: the sum of its tokens' log-probabilities.
      valid: [B, W] whether the place holds a path; an invalid one has weight minus infinity,
        no children, and never wins.
      ended: [B, W] the path has produced an end token.
      filler: [B, W] it had already done so at the depth before: the place is no text.
    """

    token: Int[Array, "B W"]
    parent: Int[Array, "B W"]
    logq: Float[Array, "B W"]
    valid: Bool[Array, "B W"]
    ended: Bool[Array, "B W"]
    filler: Bool[Array, "B W"]


def first_beam(batch: int) -> Beams:
    """Return the one place of depth 0: the empty path, weight 0."""
    zero, no = jnp.zeros((batch, 1), jnp.int32), jnp.zeros((batch, 1), bool)
    return Beams(zero, zero, jnp.zeros((batch, 1), jnp.float32), ~no, no, no)


@struct.dataclass
class Lattice:
    """What K beam steps leave behind.

    Attributes:
      levels: the places of depth 1 ... K.
      windows: [B, W, N] the nodes that each place's path went through, of depth 0 ... K; node 0,
        then the places of every depth.
      logp: [B, U, V] the law after each place of depth 0 ... K - 1.
      logits: [B, U, V] what that law was made of.
    """

    levels: list[Beams]
    windows: list[Bool[Array, "B W N"]]
    logp: list[Float[Array, "B U V"]]
    logits: list[Float[Array, "B U V"]]

    @property
    def best(self) -> list[Int[Array, " B"]]:
        """The place at every depth of the valid beam with the largest weight at the last."""
        last = self.levels[-1]
        return ancestors(
            self.levels, jnp.argmax(jnp.where(last.valid, last.logq, -jnp.inf), axis=1)
        )

    def nodes_of(self, places: list[Int[Array, " B"]]) -> Int[Array, "B K"]:
        """Return the nodes of the places at depth 1, 2, ..."""
        nodes, first = [], 1
        for place, level in zip(places, self.levels, strict=False):
            nodes.append(first + place)
            first += level.token.shape[1]
        return jnp.stack(nodes, axis=1)


def grow_beams(
    lm: BoundLM,
    logits: Float[Array, "B 1 V"],
    cache: Any,
    state: DecodeState,
    controls: Controls,
    *,
    warp: Warp,
    widths: tuple[int, ...],
    draw: str,
) -> tuple[Lattice, Any]:
    """Run K = len(widths) beam steps from the empty path; return the lattice and the cache.

    The first step uses `logits`, those after the committed text; each further one is a call of
    the model on the places of the depth before, so the last depth's places are not run.

    Draws: step d = 0 ... K - 1 takes Gumbel noise from `round_keys(key, length, DRAFT, d)`, of
    shape (U, V) with `draw="sample"` and "stochastic", (widths[d], U, V) with "replace", U the
    places of depth d (one at depth 0); with "search" none. "stochastic" is stochastic beam search:
    the noise of one step is consistent with that of the steps before (`truncated`), so that the
    places of depth d are W distinct paths of d tokens drawn without replacement from q, in draw
    order.
    """
    past, batch = history(state, controls, lm.vocab_size), state.length.shape[0]
    beams, first = first_beam(batch), 1
    score = beams.logq  # log-weights with noise, of "stochastic"
    lattice = Lattice([], [first_window(batch, 1 + sum(widths))], [], [])
    for step, width in enumerate(widths):
        logp, noise = law(logits, past, controls, warp), None
        if draw != "search":
            keys = random.round_keys(state.key, state.length, random.DRAFT, step)
            draws = (width,) if draw == "replace" else ()
            noise = random.gumbel(keys, draws + logp.shape[1:])
            if draw == "stochastic":
                noise = truncated(offers(beams, logp), noise, score)
        beams = beam_step(beams, logp, width, noise, controls)
        if draw == "stochastic":
            assert noise is not None
            score = beams.logq + pick(noise, beams.parent, beams.token)
        lattice.levels.append(beams)
        lattice.windows.append(lattice_window(lattice.windows[-1], beams.parent, first))
        lattice.logp.append(logp)
        lattice.logits.append(logits)
        if step + 1 < len(widths):
            at = state.length + step
            logits, cache = lm.model.apply(
                lm.params,
                beams.token,
                positions=jnp.broadcast_to(at[:, None], beams.token.shape),
                write_at=state.length - 1 + first,
                prefix=state.length - 1,
                window=lattice.windows[-1],
                cache=cache,
            )
            logits = logits[:, :, : lm.vocab_size]
            past = extend(past, beams.parent, beams.token, ~beams.filler)
        first += width
    return lattice, cache


def beam_step(
    beams: Beams,
    logq: Float[Array, "B U V"],
    width: int,
    noise: Float[Array, "B U V"] | Float[Array, "B W U V"] | None,
    controls: Controls,
) -> Beams:
    """Keep `width` pairs of one of U beams and a token, by weight plus noise, ties lowest first.

    Gumbel noise [B, U, V] draws without replacement, in proportion to the weights; with noise of
    their own, [B, W, U, V], the W draws are independent: the same pair may come again.
    """
    pairs = offers(beams, logq)
    if noise is None:
        weight, parent, token = _top_pairs(pairs, width)
    elif noise.ndim == 4:
        score = jnp.where(pairs[:, None] > -jnp.inf, pairs[:, None] + noise, -jnp.inf)
        index = jnp.argmax(score.reshape(*score.shape[:2], -1), axis=-1)
        parent, token = index // logq.shape[2], index % logq.shape[2]
        weight = pick(pairs, parent, token)
    else:
        # Gumbel top-W: draws without replacement in proportion to exp(pairs).
        score = jnp.where(pairs > -jnp.inf, pairs + noise, -jnp.inf)
        _, parent, token = _top_pairs(score, width)
        weight = pick(pairs, parent, token)
    valid, filler = weight > -jnp.inf, take(beams.ended, parent)
    filler &= valid
    ended = filler | (valid & controls.is_end(token))
    return Beams(token, parent, weight, valid, ended, filler)


def offers(beams: Beams, logq: Float[Array, "B U V"]) -> Float[Array, "B U V"]:
    """Return the log-weights of all pairs of a beam and a token; minus infinity: not on offer.

    Each valid beam offers its tokens with q > 0; an ended one offers exactly one pair, itself with
    its weight unchanged, at column 0 of its row.
    """
    stay = jnp.where(jnp.arange(logq.shape[2]) == 0, 0.0, -jnp.inf)
    pairs = beams.logq[:, :, None] + jnp.where(beams.ended[:, :, None], stay, logq)
    return jnp.where(beams.valid[:, :, None], pairs, -jnp.inf)


def truncated(
    pairs: Float[Array, "B U V"], noise: Float[Array, "B U V"], score: Float[Array, "B U"]
) -> Float[Array, "B U V"]:
    """Return noise under which the best pair of each beam has the beam's own score.

    With s a pair's weight plus noise and m the largest s of its beam, the new sum t is given by
    exp(-t) = exp(-score) - exp(-m) + exp(-s): the law of Gumbel noise given that its largest sum is
    the score. The order within a beam stays.

    Source: Kool et al. 2019, arXiv 1903.06059, section 4.2; computed as in its appendix B.3.
    """
    offered = pairs > -jnp.inf
    total = jnp.where(offered, pairs + noise, -jnp.inf)
    # At most 0, even where a compiler adds up the same sum twice, in two ways.
    short = jnp.where(offered, total - jnp.max(total, axis=2, keepdims=True), 0.0)
    short = jnp.minimum(short, 0.0)
    above = jnp.where(offered, score[:, :, None] - total, 0.0) + jnp.log(-jnp.expm1(short))
    new = score[:, :, None] - jnp.maximum(above, 0.0) - jnp.log1p(jnp.exp(-jnp.abs(above)))
    return jnp.where(offered, new - pairs, 0.0)


def _top_pairs(
    score: Float[Array, "B U V"], width: int
) -> tuple[Float[Array, "B W"], Int[Array, "B W"], Int[Array, "B W"]]:
    """Return the largest scores with their beam and token; ties go to the lowest beam * V + token.

    First within each beam, then among the winners: 200 times less to sort than all U * V pairs at
    once, and the same answer, ties included.
    """
    batch = score.shape[0]
    most = min(width, score.shape[2])
    best, token = jax.lax.top_k(score, most)  # --> [B, U, min(W, V)]
    value, index = jax.lax.top_k(best.reshape(batch, -1), width)
    return value, index // most, take(token.reshape(batch, -1), index)


def first_window(batch: int, nodes: int) -> Bool[Array, "B 1 N"]:
    """Return the window of node 0: itself."""
    return jnp.broadcast_to(jnp.arange(nodes) == 0, (batch, 1, nodes))


def lattice_window(
    window: Bool[Array, "B U N"], parent: Int[Array, "B W"], first: int | Int[Array, " B"]
) -> Bool[Array, "B W N"]:
    """Return the window of W places that are nodes `first ...`: the parent's, and the node."""
    node = jnp.asarray(first)[..., None] + jnp.arange(parent.shape[1])
    own = node[..., None] == jnp.arange(window.shape[2])
    return take(window, parent) | own


def ancestors(levels: list[Beams], place: Int[Array, " B"]) -> list[Int[Array, " B"]]:
    """Return the place at every depth of the path that ends in `place` at the last depth."""
    places = []
    for level in reversed(levels):
        places.append(place)
        place = take(level.parent, place)
    return places[::-1]
