"""A corpus of token ids, and where the end of a text last occurred in it.

Built once on the host, with NumPy alone; searched inside the compiled loop, whose
shapes then depend on its size.
"""

import zipfile
from collections.abc import Sequence
from os import PathLike
from os.path import expanduser
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from mtad_jax.decode.request import check_whole
from mtad_jax.types import Array, Bool, Int

MOST_TOKENS = 1 << 26
"""Tokens of a corpus, separators included: its tables take 12 bytes of each on every device."""

_LONGEST = 64  # tokens of a match: each is compared in every step of a search


@struct.dataclass
class Corpus:
    """Documents, and all their *places*: tokens that another token of the document follows.

    Places are sorted by the tokens that end there, read backwards, so that those which agree with
    a text's end in most tokens stand together. A suffix array of the reversed documents, cut at
    `longest` tokens.

    Attributes:
      tokens: [N] the documents, with -1 before, between and after them.
      newest: [2 n] a tree of maxima over the n sorted places, which are its leaves n ... 2 n - 1;
        node i above them is the larger of 2 i and 2 i + 1.
      largest: [] the largest token id.
      longest: tokens of a context by which places are sorted; static.
    """

    tokens: Int[Array, " N"]
    newest: Int[Array, " 2n"]
    largest: Int[Array, ""]
    longest: int = struct.field(pytree_node=False)


def check_longest(longest: int) -> None:
    """Raise ValueError on a longest match out of range."""
    check_whole("longest", longest)
    if not 1 <= longest <= _LONGEST:
        raise ValueError(
            f"longest={longest} must be in [1, {_LONGEST}]: so many tokens are compared in every "
            "step of a search"
        )


def build_corpus(documents: str | PathLike | Sequence[Any] | np.ndarray, longest: int) -> Corpus:
    """Return the corpus of some documents, as NumPy arrays.

    12 bytes a token; sorting takes `longest` passes over it, a few seconds for a million tokens.
    `jax.device_put(strategy)` moves the tables to the device once; else every call does it.

    Args:
      documents: a list of token ids a document; or all of them in one array of integers, in which
        a negative number ends a document; or the path of a .npy file that holds such an array.
      longest: tokens of a match that count.

    Raises:
      ValueError: they are none of these, too many, or nothing follows anything in them.
      OSError: the file cannot be read.
    """
    check_longest(longest)
    tokens = _flat(documents)
    if len(tokens) > MOST_TOKENS:
        raise ValueError(
            f"corpus has {len(tokens)} tokens > {MOST_TOKENS}: its tables take 12 bytes a token on "
            "every device: give fewer documents"
        )
    place = np.flatnonzero((tokens[:-1] >= 0) & (tokens[1:] >= 0)).astype(np.int32)
    if not place.size:
        raise ValueError("corpus has no document of two tokens: give documents of at least two")
    # Stable, so that of equal contexts the later place comes last; the last key counts first.
    keys = [tokens[np.maximum(place - back, 0)] for back in range(longest)]
    order = place[np.lexsort(keys[::-1])]
    return Corpus(tokens, _tree_of_maxima(order), np.int32(tokens.max()), longest)  # type: ignore


def read_ids(name: str, path: str | PathLike) -> np.ndarray:
    """Return the array of a .npy file; `name` is what it was given as, `~` the home folder.

    Raises:
      ValueError: it is no such file.
      OSError: it cannot be read.
    """
    with open(expanduser(path), "rb") as file:  # NumPy leaves a broken archive open
        try:
            found = np.load(file, allow_pickle=False)
        except (ValueError, EOFError, zipfile.BadZipFile):
            found = None
    if not isinstance(found, np.ndarray):
        raise ValueError(f"{name}={path}: no .npy file of token ids: write one by numpy.save")
    return found


def _flat(documents: Any) -> np.ndarray:
    """Return documents one after the other, a -1 before, between and after them.

    Raises:
      ValueError: they are no integers.
      OSError: the file cannot be read.
    """
    if isinstance(documents, str | PathLike):
        found = read_ids("corpus", documents)
    elif isinstance(documents, Sequence):
        ends = [[-1]] * len(documents)
        parts = [np.asarray(part) for pair in zip(documents, ends, strict=True) for part in pair]
        if any(part.ndim != 1 or (part.size and part.dtype.kind not in "iu") for part in parts):
            raise ValueError("corpus must be lists of token ids, one a document")
        found = np.concatenate([part.astype(np.int64) for part in parts] or [np.zeros(0, int)])
    else:
        found = np.asarray(documents)
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise ValueError(
            f"corpus has shape {found.shape} and dtype {found.dtype}: give integers [N], a "
            "negative one after each document"
        )
    if found.size and found.max() >= 2**31:
        raise ValueError(f"corpus holds id {found.max()}: give token ids")
    inner = np.maximum(found.astype(np.int64), -1)
    return np.pad(inner, 1, constant_values=-1).astype(np.int32)


def _tree_of_maxima(leaves: np.ndarray) -> np.ndarray:
    """Return the tree [2 n] over n leaves; node 0 is not used."""
    count = len(leaves)
    tree = np.concatenate([np.full(count, -1, np.int32), leaves])
    done = count  # nodes from here on are known, and so are the children of those from half of it
    while done > 1:
        first = (done + 1) // 2
        tree[first:done] = np.maximum(
            tree[2 * first : 2 * done : 2], tree[2 * first + 1 : 2 * done : 2]
        )
        done = first
    return tree


def last_match(corpus: Corpus, end: Int[Array, "B M"]) -> tuple[Int[Array, " B"], Int[Array, " B"]]:
    """Return the last place whose context agrees with a text's end in most tokens, and how many.

    Args:
      corpus: M is at most its `longest`.
      end: the last M tokens of each text, the last one first; -1 before the text's begin.
    """
    most = end.shape[1]
    # Where the end itself would stand: one of its two neighbours agrees with it best.
    at = _rank(corpus, end, jnp.full(end.shape[:1], most), jnp.zeros(end.shape[:1], bool))
    matched = jnp.zeros_like(at)
    for near in (at - 1, at):  # past either end `_context` reads another place
        own = _context(corpus, near, most)
        agree = jnp.sum(jnp.cumprod((own == end) & (end >= 0), axis=1), axis=1)
        matched = jnp.maximum(matched, agree)
    low, high = (_rank(corpus, end, matched, jnp.full(at.shape, upper)) for upper in (False, True))
    return _largest(corpus.newest, low, high), matched


def _context(corpus: Corpus, rank: Int[Array, " B"], most: int) -> Int[Array, "B M"]:
    """Return the tokens that end at sorted places, the last one first."""
    place = corpus.newest.at[corpus.newest.shape[0] // 2 + rank].get(mode="clip")
    return corpus.tokens[jnp.maximum(place[:, None] - jnp.arange(most), 0)]


def _rank(
    corpus: Corpus, end: Int[Array, "B M"], length: Int[Array, " B"], upper: Bool[Array, " B"]
) -> Int[Array, " B"]:
    """Return how many places stand before an end's first tokens, or (`upper`) equal them."""
    count, index = corpus.newest.shape[0] // 2, jnp.arange(end.shape[1])

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) // 2
        own = _context(corpus, middle, end.shape[1])
        differs = (own != end) & (index < length[:, None])
        first = jnp.argmax(differs, axis=1)[:, None]
        less = jnp.take_along_axis(own < end, first, axis=1)[:, 0]
        before = (low < high) & jnp.where(jnp.any(differs, axis=1), less, upper)
        return jnp.where(before, middle + 1, low), jnp.where(before, high, middle)

    start = jnp.zeros_like(length), jnp.full_like(length, count)
    return jax.lax.fori_loop(0, count.bit_length(), halve, start)[0]


def _largest(
    tree: Int[Array, " 2n"], low: Int[Array, " B"], high: Int[Array, " B"]
) -> Int[Array, " B"]:
    """Return the largest of the leaves low ... high - 1; -1 of none."""
    count = tree.shape[0] // 2

    def climb(_, carry):
        left, right, best = carry
        odd = (left < right) & (left % 2 == 1)  # a right child: its parent holds too much
        best = jnp.where(odd, jnp.maximum(best, tree.at[left].get(mode="clip")), best)
        left += odd
        odd = (left < right) & (right % 2 == 1)
        right -= odd
        best = jnp.where(odd, jnp.maximum(best, tree.at[right].get(mode="clip")), best)
        return left // 2, right // 2, best

    start = low + count, high + count, jnp.full_like(low, -1)
    return jax.lax.fori_loop(0, (2 * count).bit_length(), climb, start)[2]
