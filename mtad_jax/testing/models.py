"""The promises of `CausalLM`, checked on a model: one context, one result, however it got there."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from mtad_jax.models.protocol import BoundLM
from mtad_jax.testing.forms import check_forms

# A tree with a fork at its root and one below it; node 0 is the last committed token.
_PARENT = np.array([0, 0, 0, 1, 2, 2, 5])
_DEPTH = np.array([0, 1, 1, 2, 2, 2, 3])
_LEVELS = ((0, 1), (1, 3), (3, 6), (6, 7))
_PREFIX = np.array([6, 3])  # committed slots of the two rows before node 0
_TOKENS, _SLOTS = 14, 24  # of a whole text, and of nearly every cache here


def check_causal_lm(
    lm: BoundLM, *, partner: BoundLM | None = None, seed: int = 0, atol: float = 1e-4
) -> None:
    """Check that a model keeps the promises of `CausalLM`; needs 16 positions.

    Wrong shapes and dtypes are found before anything is compiled. A model that runs chains only
    (`trees` is False) is checked as one.

    Args:
      lm: the model, in f32 for the tolerance to make sense.
      partner: the model that it is to work with, as its target or its draft.
      seed: of the random texts.
      atol: largest difference of two logits of one context.

    Raises:
      AssertionError: on one line, what breaks and by how much, and what is known of the reason:
        another vocabulary than the partner's; shapes or dtypes of logits or cache; logits that are
        not finite, or that depend on padding, on other rows or on the size of the cache; a prefill
        and single steps that differ from the whole call; a cache that cannot be rolled back; rows
        that cannot write at different slots; a tree that differs from its paths, in one call or
        level by level; a `keep` that does not leave the cache of the path that it kept.
    """
    check_forms(lm, partner)
    texts = np.random.default_rng(seed).integers(0, lm.vocab_size, (2, _TOKENS))
    checks = [_check_padding, _check_steps, _check_rollback, _check_rows]
    try:
        for check in checks + [_check_tree] * lm.model.trees:
            check(lm, texts, atol)
    except AssertionError as error:
        raise AssertionError(f"{error}{_known(lm, texts)}") from None


@jax.jit
def _apply(lm: BoundLM, tokens, positions, write_at, prefix, window, cache):
    return lm.model.apply(
        lm.params, tokens, positions=positions, write_at=write_at, prefix=prefix, window=window,
        cache=cache,
    )  # fmt: skip


def _empty(lm: BoundLM, rows: int, slots: int = _SLOTS):
    return lm.model.init_cache(rows, slots, lm.dtype)


def _run(lm: BoundLM, cache, tokens, at, positions=None):
    """Run `tokens[b]` causally from slot and position `at[b]` on; logits, new cache."""
    at = np.broadcast_to(np.asarray(at, np.int32), tokens.shape[:1])
    if positions is None:
        positions = at[:, None] + np.arange(tokens.shape[1])
    return _apply(lm, tokens, positions.astype(np.int32), at, at, None, cache)


def _whole(lm: BoundLM, texts, slots: int = _SLOTS):
    """Run whole texts from an empty cache; logits, cache."""
    return _run(lm, _empty(lm, len(texts), slots), texts, 0)


def _last(lm: BoundLM, text):
    """Return the logits after one text, [V], from an empty cache."""
    padded = np.pad(text, (0, _TOKENS - len(text)))[None]  # one shape: one compilation
    return _whole(lm, padded)[0][0, len(text) - 1]


def _gap(got, want) -> float:
    return float(jnp.max(jnp.abs(jnp.asarray(got) - jnp.asarray(want))))


def _close(got, want, atol: float, what: str) -> None:
    worst = _gap(got, want)
    if not worst <= atol:  # NaN fails as well
        raise AssertionError(f"{what}: logits differ by {worst:.3g} > {atol:.3g}")


def _check_padding(lm: BoundLM, texts, atol: float) -> None:
    """A row is the same alone, beside another, before other tokens, and with more slots."""
    want, _ = _whole(lm, texts)
    if not bool(jnp.all(jnp.isfinite(want))):
        raise AssertionError("logits are not finite: a token that sees nothing but itself must be")
    for row in range(len(texts)):
        alone, _ = _whole(lm, texts[row : row + 1])
        _close(want[row], alone[0], atol, f"logits depend on the batch: row {row} beside another")
    length = np.array([4, 11])
    padded = np.where(np.arange(_TOKENS) < length[:, None], texts, 1)
    got, _ = _whole(lm, padded)
    for row, n in enumerate(length):
        what = f"logits depend on padding or on tokens to come: row of {n} tokens, padded with 1s"
        _close(got[row, :n], want[row, :n], atol, what)
    more, _ = _whole(lm, texts, slots=33)
    _close(more, want, atol, f"logits depend on the cache's size: 33 slots against {_SLOTS}")


def _check_steps(lm: BoundLM, texts, atol: float) -> None:
    """Prefill, a second chunk and single steps give what one call gives."""
    want, _ = _whole(lm, texts)
    got, cache = _run(lm, _empty(lm, 2), texts[:, :5], 0)
    _close(got, want[:, :5], atol, "prefill against the whole call")
    got, cache = _run(lm, cache, texts[:, 5:10], 5)
    _close(got, want[:, 5:10], atol, "a second chunk against the whole call")
    for i in range(10, _TOKENS):
        got, cache = _run(lm, cache, texts[:, i : i + 1], i)
        _close(got[:, 0], want[:, i], atol, f"single step {i} against the whole call")


def _check_rollback(lm: BoundLM, texts, atol: float) -> None:
    """What lies in slots from `write_at` on, of a draft that failed, is as good as gone."""
    _, cache = _whole(lm, texts)
    got, _ = _run(lm, cache, texts[:, ::-1][:, :5], 5)
    want, _ = _whole(lm, np.concatenate([texts[:, :5], texts[:, ::-1]], axis=1)[:, :_TOKENS])
    what = f"the cache cannot be rolled back: another text from slot 5 on, after {_TOKENS} tokens"
    _close(got, want[:, 5:10], atol, what)


def _check_rows(lm: BoundLM, texts, atol: float) -> None:
    """Rows go on from lengths of their own."""
    length = np.array([4, 11])
    want, cache = _whole(lm, texts)
    got, _ = _run(lm, cache, np.take_along_axis(texts, length[:, None], axis=1), length)
    for row, n in enumerate(length):
        what = f"rows cannot write at different slots: row {row} at slot {n} of {length.tolist()}"
        _close(got[row, 0], want[row, n], atol, what)


def _path(node: int) -> list[int]:
    """Return the nodes from node 0 to `node`."""
    path = [node]
    while path[0]:
        path.insert(0, int(_PARENT[path[0]]))
    return path


def _tree(lm: BoundLM):
    """Return random tokens [B, N], positions [B, N] and the window [B, N, N] of the tree."""
    tokens = np.random.default_rng(1).integers(0, lm.vocab_size, (2, len(_PARENT)))
    window = np.array([[i in _path(n) for i in range(len(_PARENT))] for n in range(len(_PARENT))])
    positions = (_PREFIX[:, None] + _DEPTH).astype(np.int32)
    return tokens, positions, np.broadcast_to(window, (2, *window.shape))


def _check_tree(lm: BoundLM, texts, atol: float) -> None:
    """A tree's nodes see their ancestors alone, and `keep` leaves the path as a chain."""
    tokens, positions, window = _tree(lm)
    at = _PREFIX.astype(np.int32)
    _, before = _whole(lm, texts)
    got, cache = _apply(lm, tokens, positions, at, at, window, before)
    for row, prefix in enumerate(_PREFIX):
        for node in range(len(_PARENT)):
            want = _last(lm, np.concatenate([texts[row, :prefix], tokens[row, _path(node)]]))
            what = f"trees=True, but tree node {node} does not get the logits of its path"
            _close(got[row, node], want, atol, what)
    parts = []
    for first, last in _LEVELS:  # as a beam runs them: level by level, later slots still junk
        part, before = _apply(
            lm, tokens[:, first:last], positions[:, first:last], at + first, at,
            window[:, first:last], before,
        )  # fmt: skip
        parts.append(part)
    _close(jnp.concatenate(parts, axis=1), got, atol, "a tree level by level against one call")
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


def _known(lm: BoundLM, texts) -> str:
    """Say which arguments of a faulty model change nothing."""
    known = []
    forward = np.broadcast_to(np.arange(_TOKENS), texts.shape)
    two = (_run(lm, _empty(lm, 2), texts, 0, p)[0] for p in (forward, forward[:, ::-1]))
    if _gap(*two) == 0:
        known.append("positions are ignored: the logits are the same for any")
    if lm.model.trees:
        tokens, positions, window = _tree(lm)
        at, (_, cache) = _PREFIX.astype(np.int32), _whole(lm, texts)
        two = (_apply(lm, tokens, positions, at, at, w, cache)[0] for w in (window, window | True))
        if _gap(*two) == 0:
            known.append("the window (an adapter's mask) is ignored: give trees=False, for chains")
    return "".join(f"; {fact}" for fact in known)
