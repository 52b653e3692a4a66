"""Drafts of one row that are small enough to judge by hand."""

import jax.numpy as jnp
import numpy as np

from mtad_jax.decode.draft import DraftTree


def log(rows):
    """Natural logarithms in f32; of 0 minus infinity."""
    with np.errstate(divide="ignore"):
        return jnp.log(jnp.asarray(rows, jnp.float32))


def draft_of(tokens, branching, q=None, *, valid=None, reference=None, filler=None, raw=None):
    """One row: nodes 1, 2, ... of a tree; q, and the raw q, after each node above the last."""
    sizes = [int(np.prod(branching[:d])) for d in range(len(branching) + 1)]
    depth = tuple(d for d, size in enumerate(sizes) for _ in range(size))
    parent, first = [0], 0
    for size, count in zip(sizes, branching, strict=False):
        parent += [first + i // count for i in range(size * count)]
        first += size
    nodes = len(depth)
    filler = np.zeros(nodes, bool) if filler is None else np.array([False, *filler])
    valid = np.ones(nodes - 1, bool) if valid is None else np.array(valid, bool)
    if reference is None:
        reference = [0.0] * nodes
    chain = len(branching) == nodes - 1
    text = valid & ~filler[1:]
    return DraftTree(
        tokens=jnp.asarray([[0, *tokens]]), parent=jnp.asarray([parent]),
        valid=jnp.asarray([[False, *valid]]), filler=jnp.asarray(filler[None]),
        reference=jnp.asarray([reference], jnp.float32),
        length=jnp.asarray([text.sum() if chain else len(branching)]),
        logq=None if q is None else log([q]),
        window=None if chain else jnp.eye(nodes, dtype=bool)[None], slot=None,
        depth=depth, scratch=nodes, logits=None if raw is None else log([raw]),
    )  # fmt: skip
