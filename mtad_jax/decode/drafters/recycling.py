"""Token recycling: what the target found likely after a token before, as a tree."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from mtad_jax.decode.draft import DraftTree, take
from mtad_jax.decode.drafters.base import ancestors
from mtad_jax.decode.request import (
    UNKNOWN,
    Request,
    check_depth,
    check_nodes,
    check_trees,
    check_width,
)
from mtad_jax.decode.state import Controls, DecodeState
from mtad_jax.models.protocol import BoundLM
from mtad_jax.types import Array, Float, Int

_MANY = 1 << 12  # nodes: no rule takes so many
MOST_BYTES = 1 << 32
"""Of the tables of all rows of a call."""


@struct.dataclass
class Recycling:
    """A fixed tree, filled breadth first from a table of the target's own W likeliest next tokens.

    Each row has a table of its own, [V, W] token ids: the W largest logits that the target gave
    after a token, the last time that a node of a draft held it; none before. In every round all
    nodes that were drafted teach it, rejected ones too, and node 0; of several nodes with one token
    the first counts (node 0 is the text itself, and shallow nodes are nearer to it). The prompt
    teaches nothing: no logits are computed of it.

    A path of the tree that takes the r_1-th, the r_2-th, ... entry is drafted iff
    r_1 r_2 ... r_d <= W and d <= K. Children of a node that ended the text, or for whose token
    there is no such entry, are invalid. Nothing is drawn, and siblings differ: `PointRejection`
    judges it.

    The table takes 4 V W bytes a row. Rows share none: what a row decodes to would depend on the
    batch that it is in.

    Draws: none.

    Source: token recycling, arXiv 2408.08696. Its tree is found by a search on traces (80 nodes, 6
    deep, W = 8), its one table outlives a text; its repeated tokens are written in any order.

    Attributes:
      depth: K, at least 1; static.
      width: W, entries of a token, at least 1; static.
      table: [V, W] what every row's table begins with, -1 where there is no entry; None: empty.
        Traced.
    """

    depth: int = struct.field(pytree_node=False)
    width: int = struct.field(pytree_node=False)
    table: Int[Array | np.ndarray, "V W"] | None = None

    needs_draft = False
    chain = False  # it is run with a window, even with one entry a token
    candidate = False
    drawn = False
    deterministic = True

    @property
    def nodes(self) -> int:
        """Node 0 and the tree below it."""
        return len(self._tree[0])

    @property
    def _tree(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        return product_tree(self.depth, self.width)

    def check(self, request: Request) -> None:
        """Raise ValueError on a depth, width or table out of range, or tables that are too large.

        Also on a model that runs chains only.
        """
        check_depth(self.depth)
        check_width(self.width, request.vocab, 0)
        name = f"depth={self.depth} with width={self.width}"
        check_nodes(name, count_nodes(self.depth, self.width), "one of them")
        check_trees(request)
        size = 4 * request.rows * request.vocab * self.width
        if request.vocab < UNKNOWN and size > MOST_BYTES:
            raise ValueError(
                f"width={self.width}: a table of {4 * request.vocab * self.width} bytes (4 * "
                f"vocabulary={request.vocab} * width) for each of {request.rows} rows is more than "
                f"{MOST_BYTES}: decode fewer rows at once, or lower width"
            )
        if self.table is not None:
            self._check_table(np.asarray(self.table), request.vocab)

    def _check_table(self, table: np.ndarray, vocab: int) -> None:
        """Raise ValueError on a table that is none of this width and vocabulary."""
        rows = table.shape[0] if vocab == UNKNOWN and table.ndim else vocab
        if table.shape != (rows, self.width) or table.dtype.kind not in "iu":
            raise ValueError(
                f"table has shape {table.shape} and dtype {table.dtype}: give integers "
                f"[vocabulary, width={self.width}]"
            )
        if table.min() < -1 or table.max() >= rows:
            wrong = table.min() if table.min() < -1 else table.max()
            raise ValueError(f"table holds id {wrong}, outside [-1, {rows - 1}] (-1: no entry)")

    def start(self, rows: int, vocab: int) -> Int[Array, "B V W"]:
        """Return the tables before the first round; see `Learner`."""
        if self.table is None:
            return jnp.full((rows, vocab, self.width), -1, jnp.int32)
        return jnp.broadcast_to(jnp.asarray(self.table, jnp.int32), (rows, vocab, self.width))

    def propose(
        self, lm: BoundLM | None, state: DecodeState, controls: Controls
    ) -> tuple[DraftTree, Any]:
        """Return the tree that the tables give below the last committed tokens."""
        parent, rank, depth = (np.array(each) for each in self._tree)
        token = take(state.tokens, state.length - 1)[:, None]
        alive, tokens, valid = jnp.ones(token.shape, bool), [token], [jnp.zeros(token.shape, bool)]
        for level in range(1, self.depth + 1):
            here = np.flatnonzero(depth == level)
            above = parent[here] - np.flatnonzero(depth == level - 1)[0]
            entry = take(state.extra, token)[:, above, rank[here] - 1]  # --> [B, U]
            given = alive[:, above] & (entry >= 0)
            token = jnp.where(given, entry, 0)
            alive = given & ~controls.is_end(token)
            tokens, valid = [*tokens, token], [*valid, given]
        found, nodes = jnp.concatenate(tokens, axis=1), len(parent)
        batch = len(found)
        return DraftTree(
            tokens=found,
            parent=jnp.broadcast_to(jnp.asarray(parent), (batch, nodes)),
            valid=jnp.concatenate(valid, axis=1),
            filler=jnp.zeros(found.shape, bool),
            reference=jnp.zeros(found.shape, jnp.float32),
            length=sum(each[:, 0] for each in valid[1:]),  # type: ignore[arg-type]
            logq=None,
            window=jnp.broadcast_to(ancestors(parent), (batch, nodes, nodes)),
            slot=None,
            depth=self._tree[2],
            scratch=nodes,
        ), state.draft_cache

    def learn(
        self, memory: Int[Array, "B V W"], tree: DraftTree, logits: Float[Array, "B N V"]
    ) -> Int[Array, "B V W"]:
        """Return the tables after a round; see `Learner`."""
        likeliest = jax.lax.top_k(logits, self.width)[1]
        batch, nodes = tree.tokens.shape
        teaches = tree.valid | (jnp.arange(nodes) == 0)
        same = tree.tokens[:, :, None] == tree.tokens[:, None, :]
        before = np.tri(nodes, k=-1, dtype=bool)
        first = ~jnp.any(same & before & teaches[:, None, :], axis=2)
        # No two nodes write to one place: in which order they do would be the device's choice.
        token = jnp.where(teaches & first, tree.tokens, memory.shape[1])
        return memory.at[jnp.arange(batch)[:, None], token].set(likeliest, mode="drop")


@functools.cache
def product_tree(
    depth: int, width: int
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Return each node's parent, rank among its siblings (from 1) and level, breadth first.

    A node is there iff the ranks on its path multiply to at most `width`. Node 0 has rank 1.
    """
    parent, rank, level, product = [0], [1], [0], [1]
    first = 0
    for step in range(1, depth + 1):
        last = len(parent)
        for node in range(first, last):
            for r in range(1, width // product[node] + 1):
                parent.append(node)
                rank.append(r)
                level.append(step)
                product.append(product[node] * r)
        first = last
    return tuple(parent), tuple(rank), tuple(level)


def count_nodes(depth: int, width: int) -> int:
    """Return the nodes of `product_tree`; it stops counting where there are far too many."""
    if width > _MANY:
        return 1 + width
    level, total = {1: 1}, 1  # how many nodes of a level have each product
    for _ in range(depth):
        below: dict[int, int] = {}
        for product, count in level.items():
            for r in range(1, width // product + 1):
                below[product * r] = below.get(product * r, 0) + count
        level, total = below, total + sum(below.values())
        if total > _MANY:
            break
    return total
