"""The promises of `CausalLM`, checked on a model: one context, one result, however it got there."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np

from mtad_jax.models.protocol import BoundLM

# A tree with a fork at its root and one below it; node 0 is the last committed token.
_PARENT = np.array([0, 0, 0, 1, 2, 2, 5])
_DEPTH = np.array([0, 1, 1, 2, 2, 2, 3])
_LEVELS = ((0, 1), (1, 3), (3, 6), (6, 7))
_PREFIX = np.array([6, 3])  # committed slots of the two rows before node 0


def check_causal_lm(lm: BoundLM, *, seed: int = 0, atol: float = 1e-4) -> None:
    """Check that a model keeps the promises of `CausalLM`; needs 16 positions.

    Args:
      lm: the model, in f32 for the tolerance to make sense.
      seed: of the random texts.
      atol: largest difference of two logits of one context.

    Raises:
      AssertionError: a prefill and single steps differ from the whole call; a row depends on its
        neighbours, on padding or on the size of its cache; a tree differs from its paths, in one
        call or level by level; `keep` does not leave the cache of the path that it kept.
    """
    texts = np.random.default_rng(seed).integers(0, lm.vocab_size, (2, 14))
    _check_steps(lm, texts, atol)
    _check_padding(lm, texts, atol)
    _check_tree(lm, texts, atol)


@jax.jit
def _apply(lm: BoundLM, tokens, positions, write_at, prefix, window, cache):
    return lm.model.apply(
        lm.params, tokens, positions=positions, write_at=write_at, prefix=prefix, window=window,
        cache=cache,
    )  # fmt: skip


def _run(lm: BoundLM, cache, tokens, at):
    """Run `tokens[b]` causally from slot and position `at[b]` on; logits, new cache."""
    at = np.broadcast_to(np.asarray(at, np.int32), tokens.shape[:1])
    positions = at[:, None] + np.arange(tokens.shape[1])
    return _apply(lm, tokens, positions.astype(np.int32), at, at, None, cache)


def _whole(lm: BoundLM, texts, slots: int | None = None):
    """Run whole texts from an empty cache; logits, cache."""
    cache = lm.model.init_cache(len(texts), slots or texts.shape[1], lm.dtype)
    return _run(lm, cache, texts, 0)


def _last(lm: BoundLM, text):
    """Return the logits after one text, [V], from an empty cache."""
    padded = np.pad(text, (0, 14 - len(text)))[None]  # one shape: one compilation
    return _whole(lm, padded)[0][0, len(text) - 1]


def _close(got, want, atol: float, what: str) -> None:
    worst = float(jnp.max(jnp.abs(jnp.asarray(got) - jnp.asarray(want))))
    if not worst <= atol:  # NaN fails as well
        raise AssertionError(f"{what}: logits differ by {worst:.3g} > {atol:.3g}")


def _check_steps(lm: BoundLM, texts, atol: float) -> None:
    """Prefill, a second chunk and single steps give what one call gives."""
    want, _ = _whole(lm, texts)
    chex.assert_shape(want, (*texts.shape, lm.model.vocab_size), custom_message="logits")
    chex.assert_type(want, jnp.float32)
    got, cache = _run(lm, lm.model.init_cache(2, texts.shape[1], lm.dtype), texts[:, :5], 0)
    _close(got, want[:, :5], atol, "prefill against the whole call")
    got, cache = _run(lm, cache, texts[:, 5:10], 5)
    _close(got, want[:, 5:10], atol, "a second chunk against the whole call")
    for i in range(10, texts.shape[1]):
        got, cache = _run(lm, cache, texts[:, i : i + 1], i)
        _close(got[:, 0], want[:, i], atol, f"single step {i} against the whole call")


def _check_padding(lm: BoundLM, texts, atol: float) -> None:
    """A row is the same alone, beside another length, padded, and with more slots."""
    length = np.array([4, 11])
    padded = np.where(np.arange(14) < length[:, None], texts, 1)
    got, cache = _whole(lm, padded, slots=33)
    step, _ = _run(lm, cache, np.take_along_axis(texts, length[:, None], axis=1), length)
    for row, n in enumerate(length):
        want, _ = _whole(lm, texts[row : row + 1, : n + 1])
        _close(got[row, :n], want[0, :n], atol, f"row of {n} tokens, padded, against itself alone")
        _close(step[row, 0], want[0, n], atol, f"a step after {n} padded tokens")


def _path(node: int) -> list[int]:
    """Return the nodes from node 0 to `node`."""
    path = [node]
    while path[0]:
        path.insert(0, int(_PARENT[path[0]]))
    return path


def _check_tree(lm: BoundLM, texts, atol: float) -> None:
    """A tree's nodes see their ancestors alone, and `keep` leaves the path as a chain."""
    tokens = np.random.default_rng(1).integers(0, lm.vocab_size, (2, len(_PARENT)))
    window = np.array([[i in _path(n) for i in range(len(_PARENT))] for n in range(len(_PARENT))])
    window = np.broadcast_to(window, (2, *window.shape))
    at, positions = _PREFIX.astype(np.int32), (_PREFIX[:, None] + _DEPTH).astype(np.int32)
    _, before = _whole(lm, texts, slots=24)
    got, cache = _apply(lm, tokens, positions, at, at, window, before)
    parts = []
    for first, last in _LEVELS:  # as a beam runs them: level by level, later slots still junk
        part, before = _apply(
            lm, tokens[:, first:last], positions[:, first:last], at + first, at,
            window[:, first:last], before,
        )  # fmt: skip
        parts.append(part)
    _close(jnp.concatenate(parts, axis=1), got, atol, "a tree level by level against one call")
    for row, prefix in enumerate(_PREFIX):
        for node in range(len(_PARENT)):
            want = _last(lm, np.concatenate([texts[row, :prefix], tokens[row, _path(node)]]))
            _close(got[row, node], want, atol, f"tree node {node} against its path")
    for start, name in ((cache, "one call"), (before, "level by level")):
        _check_keep(lm, texts, tokens, start, atol, name)


def _check_keep(lm: BoundLM, texts, tokens, cache, atol: float, name: str) -> None:
    """Keep one path a row, sources and destinations overlapping, and go on from it."""
    paths = [_path(6)[1:], [*_path(3)[1:], 0]]  # the second is shorter: its last slot is scratch
    source = (_PREFIX[:, None] + np.array(paths)).astype(np.int32)
    keep = jax.jit(functools.partial(lm.model.keep, span=len(_PARENT)))
    cache = keep(cache, source, (_PREFIX + 1).astype(np.int32))
    length = _PREFIX + 1 + np.array([3, 2])
    follow = texts[:, -1:]
    got, _ = _run(lm, cache, follow, length)
    for row, prefix in enumerate(_PREFIX):
        path = [0, *paths[row]][: length[row] - prefix]
        want = _last(lm, np.concatenate([texts[row, :prefix], tokens[row, path], follow[row]]))
        _close(got[row, 0], want, atol, f"row {row} after keep ({name})")
