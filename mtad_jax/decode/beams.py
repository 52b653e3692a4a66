"""One step of a beam over any model, and the lattice that the steps leave behind.

Beams are never copied: each step's places become nodes of a lattice whose keys and values stay in
scratch slots, and a window says which of them a place's path went through.
"""

import jax
import jax.numpy as jnp
from flax import struct

from mtad_jax.decode.state import Controls
from mtad_jax.tree import pick, take
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


def beam_step(
    beams: Beams,
    logq: Float[Array, "B U V"],
    width: int,
    noise: Float[Array, "B U V"] | None,
    controls: Controls,
) -> Beams:
    """Keep `width` pairs of one of U beams and a token, by weight plus noise, ties lowest first.

    Each valid beam offers its tokens with q > 0; an ended one offers exactly one pair, itself with
    its weight unchanged, at column 0 of its row.
    """
    stay = jnp.where(jnp.arange(logq.shape[2]) == 0, 0.0, -jnp.inf)
    pairs = beams.logq[:, :, None] + jnp.where(beams.ended[:, :, None], stay, logq)
    pairs = jnp.where(beams.valid[:, :, None], pairs, -jnp.inf)
    if noise is None:
        weight, parent, token = _top_pairs(pairs, width)
    else:
        # Gumbel top-W: draws without replacement in proportion to exp(pairs).
        score = jnp.where(pairs > -jnp.inf, pairs + noise, -jnp.inf)
        _, parent, token = _top_pairs(score, width)
        weight = pick(pairs, parent, token)
    valid, filler = weight > -jnp.inf, take(beams.ended, parent)
    filler &= valid
    ended = filler | (valid & controls.is_end(token))
    return Beams(token, parent, weight, valid, ended, filler)


def _top_pairs(
    score: Float[Array, "B U V"], width: int
) -> tuple[Float[Array, "B W"], Int[Array, "B W"], Int[Array, "B W"]]:
    """Return the largest scores with their beam and token; ties go to the lowest beam * V + token.

    First within each beam, then among the winners: 200 times less to sort than all U * V pairs at
    once, and the same answer, ties included.
    """
    batch = score.shape[0]
    best, token = jax.lax.top_k(score, width)  # --> [B, U, W]
    value, index = jax.lax.top_k(best.reshape(batch, -1), width)
    return value, index // width, take(token.reshape(batch, -1), index)


def first_window(batch: int, nodes: int) -> Bool[Array, "B 1 N"]:
    """Return the window of node 0: itself."""
    return jnp.broadcast_to(jnp.arange(nodes) == 0, (batch, 1, nodes))


def lattice_window(
    window: Bool[Array, "B U N"], parent: Int[Array, "B W"], first: int | Int[Array, ""]
) -> Bool[Array, "B W N"]:
    """Return the window of W places that are nodes `first ...`: the parent's, and the node."""
    node = first + jnp.arange(parent.shape[1])
    own = node[:, None] == jnp.arange(window.shape[2])
    return take(window, parent) | own


def ancestors(levels: list[Beams], place: Int[Array, " B"]) -> list[Int[Array, " B"]]:
    """Return the place at every depth of the path that ends in `place` at the last depth."""
    places = []
    for level in reversed(levels):
        places.append(place)
        place = take(level.parent, place)
    return places[::-1]
