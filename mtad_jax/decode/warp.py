"""Logits to log-probabilities, for all models: temperature, top-k, top-p, min-p."""

import jax
import jax.numpy as jnp
from flax import struct

from mtad_jax.decode.request import check_number, check_whole
from mtad_jax.types import Array, Bool, Float

_COLDEST = 1e-30  # far below any use; still smaller ones may be flushed to 0 and divided by


@struct.dataclass
class Warp:
    """How a next-token distribution is sharpened before anything is drawn from it.

    Attributes:
      temperature: logits are divided by it; 0: one-hot on the largest logit, the rest is skipped.
        Traced: changing it compiles nothing.
      top_p: in falling order a token is kept while the mass before it is below `top_p`; the first
        always; at or above 1: all. Traced.
      min_p: tokens less likely than `min_p` times the likeliest are cut; 0: none. Traced.
      top_k: exactly this many tokens are kept; 0 or at least V: all. Static.
    """

    temperature: float | Float[Array, ""] = 1.0
    top_p: float | Float[Array, ""] = 1.0
    min_p: float | Float[Array, ""] = struct.field(default=0.0, kw_only=True)
    top_k: int = struct.field(pytree_node=False, default=0)


def check_temperature(name: str, temperature: float | Float[Array, ""]) -> None:
    """Check a temperature on the host.

    Raises:
      ValueError: it is negative, not finite or vanishing.
      TypeError: it is no number.
    """
    value = check_number(name, temperature)
    if not 0.0 <= value < float("inf"):
        raise ValueError(f"{name}={value} must be finite and >= 0 (0 is greedy)")
    if 0.0 < value < _COLDEST:
        raise ValueError(f"{name}={value} must be 0 or at least {_COLDEST}: use 0 (greedy)")


def check_warp(warp: Warp) -> None:
    """Check a warp on the host.

    Raises:
      ValueError: negative, non-finite or vanishing temperature, `top_p` or `min_p` outside
        [0, 1], negative `top_k` or one that is no integer.
      TypeError: a setting that is no number.
    """
    check_temperature("temperature", warp.temperature)
    top_p, min_p = check_number("top_p", warp.top_p), check_number("min_p", warp.min_p)
    if not 0.0 <= top_p <= 1.0:
        raise ValueError(f"top_p={top_p} must be in [0, 1] (1 keeps every token)")
    if not 0.0 <= min_p <= 1.0:
        raise ValueError(f"min_p={min_p} must be in [0, 1] (0 keeps every token)")
    check_whole("top_k", warp.top_k)
    if warp.top_k < 0:
        raise ValueError(f"top_k={warp.top_k} must be >= 0 (0 keeps every token)")


def warped_logp(logits: Float[Array, "... V"], warp: Warp) -> Float[Array, "... V"]:
    """Return the warped log-probabilities, f32, minus infinity for tokens that were cut.

    Order: temperature, top-k, renormalise, top-p, renormalise, min-p (arXiv 2407.01082; it looks at
    ratios, so what was cut before does not matter), renormalise; ties go to the lowest id. Differs
    from Hugging Face, which keeps all ties at the k-th logit and the highest ids inside top-p.
    """
    vocab = logits.shape[-1]
    temperature = jnp.asarray(warp.temperature, jnp.float32)
    greedy = temperature == 0
    logits = logits.astype(jnp.float32)
    # Relative to the largest: a low temperature would otherwise magnify the rounding of logits
    # (50 / 0.001 is rounded to 0.004, and so would be every log-probability).
    scaled = logits - jnp.max(logits, axis=-1, keepdims=True)
    scaled /= jnp.where(greedy, 1.0, temperature)
    least = jnp.log(jnp.asarray(warp.min_p, jnp.float32))
    if 0 < warp.top_k < vocab:
        kept, norm = _top_k_top_p(scaled, warp.top_k, warp.top_p, least)
    else:
        # A sort of the whole vocabulary is dear; top_p = 1 needs none.
        kept, norm = jax.lax.cond(
            jnp.asarray(warp.top_p) < 1,
            lambda x: _top_k_top_p(x, vocab, warp.top_p, least),
            lambda x: (x >= least, jax.nn.logsumexp(jnp.where(x >= least, x, -jnp.inf), axis=-1)),
            scaled,
        )
    logp = jnp.where(kept, scaled - norm[..., None], -jnp.inf)
    best = jnp.argmax(logits, axis=-1)[..., None] == jnp.arange(vocab)
    return jnp.where(greedy, jnp.where(best, 0.0, -jnp.inf), logp)


def _top_k_top_p(
    scaled: Float[Array, "... V"],
    k: int,
    top_p: float | Float[Array, ""],
    least: Float[Array, ""],
) -> tuple[Bool[Array, "... V"], Float[Array, "..."]]:
    """Return which tokens stay, and the log of their mass (the normaliser)."""
    values, ids = jax.lax.top_k(scaled, k)  # falling; ties: lowest id first
    mass = jnp.cumsum(jax.nn.softmax(values, axis=-1), axis=-1)
    before = jnp.concatenate([jnp.zeros_like(mass[..., :1]), mass[..., :-1]], axis=-1)
    # At top_p >= 1 nothing is summed: the rounding of the sum would cut the tail.
    stays = (before < top_p) | (jnp.asarray(top_p) >= 1) | (jnp.arange(k) == 0)
    stays &= values >= least  # the largest is 0, and no min-p is above 1
    last = jnp.sum(stays, axis=-1, keepdims=True) - 1
    last_value = jnp.take_along_axis(values, last, axis=-1, mode="clip")
    last_id = jnp.take_along_axis(ids, last, axis=-1, mode="clip")
    # The kept set is all that sorts at or before its last member: no scatter needed.
    token = jnp.arange(scaled.shape[-1])
    kept = (scaled > last_value) | ((scaled == last_value) & (token <= last_id))
    # Up to `last`, not where `stays`: a parallel sum may fall by a rounding, and stay once more.
    norm = jax.nn.logsumexp(jnp.where(jnp.arange(k) <= last, values, -jnp.inf), axis=-1)
    return kept, norm
