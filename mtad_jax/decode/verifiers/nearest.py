"""The law of mentored decoding: q, kept between two multiples of p.

Of all laws r that are 0 where p is, r = min(max(q, low p), high p) with low <= 1 <= high has the
largest sum min(q, r) for its KL(p || r), and the smallest KL(p || r) for its sum: where r < q the
Lagrangian's derivative 1 + l p/r - m is 0 at r = l p/(m - 1), where r > q it is l p/r - m, 0 at
r = l p/m, and both problems are concave. What is cut above q's bound, sum max(0, q - high p), must
be what is filled below, sum max(0, low p - q); that mass is what is rejected, and names the law.
"""

import jax.numpy as jnp
from flax import struct
from jax import lax

from mtad_jax.types import Array, Float

_STEPS = 24  # of the bisection of a probability: f32


@struct.dataclass
class _Sorted:
    """Sums over the tokens with p > 0 in rising order of q/p; all others follow them.

    Attributes:
      filled: [..., V] sum max(0, low p - q) at low = q/p of a token, rising; inf where p is 0.
      cut: [..., V] sum max(0, q - high p) at high = q/p of a token, falling; -inf where p is 0.
      p_up_to, q_up_to, kl_up_to: [..., V] sums of p, q and p log(p/q) up to and with a token; of
        the last only where q > 0.
      p_from, q_from: [..., V] sums from a token on; q's has all that is drafted where p is 0.
    """

    filled: Float[Array, "... V"]
    cut: Float[Array, "... V"]
    p_up_to: Float[Array, "... V"]
    q_up_to: Float[Array, "... V"]
    kl_up_to: Float[Array, "... V"]
    p_from: Float[Array, "... V"]
    q_from: Float[Array, "... V"]


def nearest_law(
    p: Float[Array, "... V"],
    q: Float[Array, "... V"],
    limit: float | Float[Array, ""],
    *,
    share: bool,
) -> Float[Array, "... V"]:
    """Return r, with sum 1 up to rounding.

    Args:
      p, q: the target's and the draft's law.
      limit: the most that KL(p || r) may be; with `share` the least that sum min(q, r) may be.
      share: what `limit` is of.
    """
    table = _sorted(p, q)
    never = jnp.sum(jnp.where(p > 0, 0.0, q), axis=-1)  # must be rejected whatever the limit
    most = jnp.maximum(jnp.sum(jnp.maximum(p - q, 0.0), axis=-1), never)  # r = p
    if share:
        mass = jnp.clip(1 - limit, never, most)
    else:
        mass = _least_mass(table, never, most, limit)
    low, high, _, _ = _bounds(table, mass)
    r = jnp.minimum(jnp.maximum(q, low * p), jnp.where(p > 0, high * p, 0.0))
    return jnp.where((mass < most)[..., None], r, p)


def _least_mass(
    table: _Sorted,
    never: Float[Array, "..."],
    most: Float[Array, "..."],
    limit: float | Float[Array, ""],
) -> Float[Array, "..."]:
    """Return the least rejected mass whose law is within the limit; KL falls as it grows."""
    # At limit 0 nothing but p will do, whatever rounding says of its neighbours.
    limit = jnp.where(limit > 0, limit, -jnp.inf)

    def halve(_, ends):
        less, enough = ends
        middle = (less + enough) / 2
        fits = _divergence(table, middle) <= limit
        return jnp.where(fits, less, middle), jnp.where(fits, middle, enough)

    start = never, jnp.where(_divergence(table, never) <= limit, never, most)
    return lax.fori_loop(0, _STEPS, halve, start)[1]


def _divergence(table: _Sorted, mass: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return KL(p || r) of the law that rejects `mass`."""
    low, high, last, first = _bounds(table, mass)
    below, above = _at(table.p_up_to, last), _at(table.p_from, first)
    between = _before(table.kl_up_to, first) - _at(table.kl_up_to, last)
    lost = jnp.where(above > 0, above * jnp.log(high), 0.0)  # high may be infinite
    total = between - below * jnp.log(low) - lost
    return jnp.squeeze(total, axis=-1)


def _bounds(table: _Sorted, mass: Float[Array, "..."]):
    """Return low and high, the last token that low fills, and the first that high cuts; [..., 1].

    Between two tokens' ratios both sums are linear, so that the bounds follow from the tokens.
    """
    mass = mass[..., None]
    last = jnp.maximum(jnp.sum(table.filled <= mass, axis=-1, keepdims=True) - 1, 0)
    first = jnp.sum(table.cut > mass, axis=-1, keepdims=True)
    low = (mass + _at(table.q_up_to, last)) / _at(table.p_up_to, last)
    above = _at(table.p_from, first)
    high = (_at(table.q_from, first) - mass) / jnp.where(above > 0, above, 1.0)
    high = jnp.where(above > 0, high, jnp.inf)  # nothing but what p cannot take is cut
    # 1 is between them; only rounding says otherwise.
    return jnp.minimum(low, 1.0), jnp.maximum(high, 1.0), last, first


def _sorted(p: Float[Array, "... V"], q: Float[Array, "... V"]) -> _Sorted:
    """Return the sums."""
    ratio = jnp.where(p > 0, q / jnp.where(p > 0, p, 1.0), jnp.inf)
    ratio, p, q = lax.sort((ratio, p, q), num_keys=1)
    both = (p > 0) & (q > 0)
    kl = jnp.where(both, -p * jnp.log(jnp.where(both, ratio, 1.0)), 0.0)
    p_up_to, q_up_to, kl_up_to = (jnp.cumsum(x, axis=-1) for x in (p, q, kl))
    p_from, q_from = (lax.cumsum(x, axis=x.ndim - 1, reverse=True) for x in (p, q))
    ratio = jnp.where(p > 0, ratio, 0.0)
    filled = jnp.where(p > 0, ratio * p_up_to - q_up_to, jnp.inf)
    cut = jnp.where(p > 0, q_from - ratio * p_from, -jnp.inf)
    return _Sorted(filled, cut, p_up_to, q_up_to, kl_up_to, p_from, q_from)


def _at(sums: Float[Array, "... V"], index: Array) -> Float[Array, "... 1"]:
    """Return a sum at a token; 0 past the last."""
    inside = index < sums.shape[-1]
    value = jnp.take_along_axis(sums, jnp.where(inside, index, 0), axis=-1, mode="clip")
    return jnp.where(inside, value, 0.0)


def _before(sums: Float[Array, "... V"], index: Array) -> Float[Array, "... 1"]:
    """Return a sum up to, and without, a token."""
    return jnp.where(index > 0, _at(sums, jnp.maximum(index - 1, 0)), 0.0)
