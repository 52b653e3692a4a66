"""Log-likelihoods of continuations under a model: its own law, not warped, batch by batch."""

import functools
import logging
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh

from mtad_jax.batches import make_batches
from mtad_jax.decode.loop import bucket
from mtad_jax.devices.sharding import by_rows, replicated
from mtad_jax.models.protocol import BoundLM
from mtad_jax.types import Array, Float, Int

Pair = tuple[list[int], list[int]]
"""Token ids of a context and of what continues it, neither empty."""

_CHUNK = 128
"""Tokens a row run at once: logits of whole texts over a large vocabulary fill a device."""

_log = logging.getLogger(__name__)


def log_likelihoods(
    lm: BoundLM, pairs: Sequence[Pair], *, longest: int, batch_size: int
) -> Iterator[tuple[int, float, bool]]:
    """Yield each pair's index, log-likelihood in nats, and whether greedy decoding would say it.

    The longest come first, and in a call of the model no two rows are the same: continuations that
    differ in their last token only, as the letters of a multiple choice do, share one.

    Args:
      lm: the model.
      pairs: what is scored.
      longest: most tokens that the model sees; what is longer loses tokens from the left.
      batch_size: rows of a call, rounded up to what the mesh splits evenly.

    Raises:
      ValueError: a continuation that is empty or longer than `longest`, or an id that the model
        does not have.
    """
    rows = _shared_rows(lm, pairs, longest)
    order = sorted(rows, key=len, reverse=True)
    batches = make_batches(len(order), batch_size, 1, seed=0, row_ids=None, mesh=lm.mesh)
    for batch in batches if order else ():
        texts = [order[i] for i in batch.index]
        logp, best, last = _scores(lm, texts)
        for place, text in enumerate(texts[: batch.rows]):
            for index in rows[text]:
                wanted, end = np.asarray(pairs[index][1]), len(text)
                begin = end - len(wanted)
                total = logp[place, begin : end - 1].sum(dtype=np.float64)
                greedy = bool((best[place, begin:end] == wanted).all())
                yield index, float(total + last[place, wanted[-1]]), greedy


def _shared_rows(
    lm: BoundLM, pairs: Sequence[Pair], longest: int
) -> dict[tuple[int, ...], list[int]]:
    """Return what the model reads, and which pairs each such row scores."""
    rows: dict[tuple[int, ...], list[int]] = {}
    cut = 0
    for index, (context, continuation) in enumerate(pairs):
        ids = context + continuation
        if not 0 < len(continuation) <= longest:
            raise ValueError(
                f"request {index}: its continuation has {len(continuation)} tokens, which must be "
                f"from 1 to max_length={longest}"
            )
        if max(ids) >= lm.vocab_size or min(ids) < 0:
            raise ValueError(f"request {index} holds an id outside [0, {lm.vocab_size - 1}]")
        cut += len(ids) > longest + 1
        rows.setdefault(tuple(ids[-(longest + 1) :][:-1]), []).append(index)
    if cut:
        _log.warning(
            "%d of %d requests are longer than max_length=%d tokens: they lose the tokens on the "
            "left", cut, len(pairs), longest,
        )  # fmt: skip
    return rows


def _scores(
    lm: BoundLM, texts: Sequence[tuple[int, ...]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return as `_forward`, of texts of different lengths."""
    length = np.array([len(text) for text in texts], np.int32)
    tokens = np.zeros((len(texts), bucket(int(length.max()))), np.int32)
    for row, text in zip(tokens, texts, strict=True):
        row[: len(text)] = text
    mesh = lm.mesh
    given = (tokens, length)
    if mesh is not None:
        given = tuple(jax.device_put(x, by_rows(mesh, x)) for x in given)
    logp, best, last = jax.device_get(_forward(lm, *given, mesh=mesh))
    return logp, best, last


@functools.partial(jax.jit, static_argnames="mesh")
def _forward(
    lm: BoundLM,
    tokens: Int[Array, "B T"],
    length: Int[Array, " B"],
    *,
    mesh: Mesh | None,
) -> tuple[Float[Array, "B T"], Int[Array, "B T"], Float[Array, "B V"]]:
    """Run texts through a model.

    Returns:
      At each place the log-probability of the token that follows in the text (at the last place
      of a row anything), and the likeliest one; and all log-probabilities at each row's end.
    """
    batch, width = tokens.shape
    chunk = next(size for size in range(min(width, _CHUNK), 0, -1) if width % size == 0)
    follow = jnp.roll(tokens, -1, axis=1)

    def in_chunks(x: Array) -> Array:
        return x.reshape(batch, -1, chunk).swapaxes(0, 1)

    def one_chunk(carry, part):
        cache, last = carry
        tokens, follow, start = part
        at = jnp.full((batch,), start)
        # Padding may lie past the last position, where a table of positions has no row.
        positions = jnp.minimum(at[:, None] + jnp.arange(chunk), lm.model.max_positions - 1)
        logits, cache = lm.model.apply(
            lm.params, tokens, positions=positions, write_at=at, prefix=at, window=None, cache=cache
        )
        logp = jax.nn.log_softmax(logits.astype(jnp.float32))
        end = (length - 1 - start)[:, None]
        there = jnp.take_along_axis(logp, jnp.clip(end, 0, chunk - 1)[..., None], axis=1)[:, 0]
        last = jnp.where((end >= 0) & (end < chunk), there, last)
        own = jnp.take_along_axis(logp, follow[..., None], axis=2)[..., 0]
        return (cache, last), (own, jnp.argmax(logits, axis=-1))

    cache = lm.model.init_cache(batch, width, lm.dtype)
    last = jnp.zeros((batch, lm.model.vocab_size), jnp.float32)
    starts = jnp.arange(0, width, chunk, dtype=jnp.int32)
    parts = (in_chunks(tokens), in_chunks(follow), starts)
    (_, last), (logp, best) = lax.scan(one_chunk, (cache, last), parts)
    logp, best = (x.swapaxes(0, 1).reshape(batch, width) for x in (logp, best))
    found = (logp, best, last)
    return found if mesh is None else lax.with_sharding_constraint(found, replicated(mesh))
