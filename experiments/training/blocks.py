"""Blocks that a model in training drafts by itself after places of a batch's text, as MTAD does.

Blocks are appended to the rows of text as further tokens: each sees its own path and the text up to
the place that it follows, so that one call of a model scores all of them beside the text. They are
drafted anew at each step, by beams over the un-warped model; no gradient goes through the choice.

A model without a cache runs the text again for each depth of the beams. Of a draft that is little
beside the one call of the target.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.training.losses import Rule
from mtad_jax.decode.beams import Lattice, beam_step, first_beam, first_window, lattice_window
from mtad_jax.decode.draft import take
from mtad_jax.decode.request import check_draw
from mtad_jax.decode.state import Controls
from mtad_jax.decode.verifiers.base import check_tau
from mtad_jax.decode.warp import Warp
from mtad_jax.models.linen import in_documents
from mtad_jax.types import Array, Bool, Float, Int, Key


@dataclass(frozen=True)
class Blocks:
    """How a recipe has blocks drafted: its section `block`.

    Attributes:
      depth: K, tokens of a block.
      width: W, beams; 1 with draw="sample": a sample of the model itself.
      draw: "search" or "sample", as of MTAD's draft.
      tau, softness: of `Rule`.
      anchors: A, places of each row that blocks follow, in proportion to their weights.
    """

    depth: int
    width: int
    draw: str
    tau: float
    softness: float
    anchors: int

    @property
    def rule(self) -> Rule:
        """The rule that the blocks are drafted for."""
        return Rule(self.depth, self.tau, self.softness)


def read_blocks(section: Any, vocab: int) -> Blocks:
    """Return a recipe's section `block`, checked.

    Args:
      section: `config.block`.
      vocab: real tokens of the model.

    Raises:
      ValueError: a setting is missing, unknown or out of range.
    """
    try:
        blocks = Blocks(**section)
        check_tau(blocks.tau)
        check_draw(blocks.draw)
    except (TypeError, ValueError) as error:
        raise ValueError(f"config.block: {error}") from error
    for name, most in (("depth", None), ("width", vocab), ("anchors", None)):
        size = getattr(blocks, name)
        if size < 1 or (most is not None and size > most):
            bound = ">= 1" if most is None else f"from 1 to the vocabulary's {most}"
            raise ValueError(f"config.block.{name}={size} must be {bound}")
    if not blocks.softness > 0:
        raise ValueError(f"config.block.softness={blocks.softness} must be above 0")
    return blocks


class Text(NamedTuple):
    """Rows of text that blocks follow, as a model reads them.

    Attributes:
      tokens: [B, T] the rows.
      documents: [B, T] which document of its row a token belongs to.
      at: [B, A] the place that each block follows.
    """

    tokens: Int[Array, "B T"]
    documents: Int[Array, "B T"]
    at: Int[Array, "B A"]


class Drafted(NamedTuple):
    """A block after each place.

    Attributes:
      tokens: [B, A, K] its tokens.
      inside: [B, A, K] whether each is text, and no filler after an end.
    """

    tokens: Int[Array, "B A K"]
    inside: Bool[Array, "B A K"]


Score = Callable[[Int[Array, "B S"], Int[Array, "B S"], Bool[Array, "B S S"]], Array]
"""Logits of tokens at positions, each of which sees what its row of the window allows."""


def choose_places(
    weight: Float[Array, "B T"], count: int, key: Key[Array, ""]
) -> tuple[Int[Array, "B A"], Bool[Array, "B A"]]:
    """Draw `count` places a row without replacement, in proportion to their weights.

    Returns the places, and whether each weighs anything: a row may have fewer.
    """
    noise = jax.random.gumbel(key, weight.shape)
    score, at = jax.lax.top_k(jnp.log(weight) + noise, count)
    return at, score > -jnp.inf


def draft_blocks(
    score: Score, text: Text, blocks: Blocks, ends: tuple[int, ...], key: Key[Array, ""]
) -> Drafted:
    """Return the likeliest beam after each place: MTAD's candidate x*.

    Args:
      score: the model that drafts.
      text: what the blocks follow.
      blocks: how to draft.
      ends: end tokens, which a block ends with.
      key: of draw="sample".
    """
    rows, count = text.at.shape
    flat, width, depth = rows * count, blocks.width, blocks.depth
    plain = Warp()
    controls = Controls(plain, plain, jnp.asarray(ends, jnp.int32))
    lattice = Lattice([], [first_window(flat, 1 + depth * width)], [], [])
    beams, logits = first_beam(flat), _after(score, text, [], [])[:, :, :1]
    seen: list[Bool[Array, "F W N"]] = []
    for step in range(depth):
        logq = jax.nn.log_softmax(logits.reshape(flat, *logits.shape[2:]))
        noise = None
        if blocks.draw == "sample":
            noise = jax.random.gumbel(jax.random.fold_in(key, step), logq.shape)
        beams = beam_step(beams, logq, width, noise, controls)
        lattice.levels.append(beams)
        if step + 1 < depth:
            first = 1 + step * width
            lattice.windows.append(lattice_window(lattice.windows[-1], beams.parent, first))
            seen.append(lattice.windows[-1])
            nodes = [level.token.reshape(rows, count, width) for level in lattice.levels]
            logits = _after(score, text, nodes, seen)[:, :, -width:]
    places = list(zip(lattice.levels, lattice.best, strict=True))
    tokens, filler = (
        jnp.stack([take(getattr(level, name), place) for level, place in places], axis=1)
        for name in ("token", "filler")
    )
    shape = (rows, count, depth)
    return Drafted(tokens.reshape(shape), ~filler.reshape(shape))


def block_logits(
    score: Score, text: Text, block: Int[Array, "B A K"]
) -> tuple[Float[Array, "B T V"], Float[Array, "B A K V"]]:
    """Return a model's logits of the text, and those of every token of the blocks after it."""
    rows, count, depth = block.shape
    # The last token's own logits say nothing of the block.
    nodes = block[:, :, :-1]
    path = jnp.tril(jnp.ones((depth - 1, depth - 1), bool))
    path = jnp.broadcast_to(path, (rows, count, depth - 1, depth - 1))
    levels = jnp.broadcast_to(1 + jnp.arange(depth - 1), nodes.shape)
    logits = score(*_appended(text, nodes, levels, path))
    return logits[:, : text.tokens.shape[1]], _of_nodes(logits, text, depth - 1)


def _after(
    score: Score, text: Text, nodes: list[Int[Array, "B A W"]], seen: list[Bool[Array, "F W N"]]
) -> Float[Array, "B A N+1 V"]:
    """Return the logits after each place, and after each node of the lattices that follow them."""
    rows, count = text.at.shape
    if not nodes:
        none = jnp.zeros((rows, count, 0), jnp.int32)
        window = jnp.zeros((rows, count, 0, 0), bool)
        return _of_nodes(score(*_appended(text, none, none, window)), text, 0)
    tokens, width = jnp.concatenate(nodes, axis=2), nodes[0].shape[2]
    size = tokens.shape[2]
    # Node 0 of a lattice is the place itself, which is text.
    window = jnp.concatenate(seen, axis=1)[:, :, 1 : 1 + size].reshape(rows, count, size, size)
    levels = jnp.repeat(1 + jnp.arange(len(nodes)), width)
    levels = jnp.broadcast_to(levels, tokens.shape)
    return _of_nodes(score(*_appended(text, tokens, levels, window)), text, size)


def _of_nodes(logits: Float[Array, "B S V"], text: Text, size: int) -> Float[Array, "B A N+1 V"]:
    """Return the logits of each place, and of the `size` nodes after it."""
    rows, count = text.at.shape
    own = take(logits, text.at)[:, :, None]
    after = logits[:, text.tokens.shape[1] :].reshape(rows, count, size, logits.shape[-1])
    return jnp.concatenate([own, after], axis=2)


def _appended(
    text: Text,
    nodes: Int[Array, "B A N"],
    levels: Int[Array, "B A N"],
    window: Bool[Array, "B A N N"],
) -> tuple[Int[Array, "B S"], Int[Array, "B S"], Bool[Array, "B S S"]]:
    """Return tokens, positions and window of rows with nodes after the text.

    Args:
      text: T tokens a row.
      nodes: N tokens after each of A places, parents first.
      levels: how far each is from its place.
      window: which nodes of its own place each sees.
    """
    rows, count, size = nodes.shape
    positions, same = in_documents(text.documents)
    ahead = take(positions, text.at)[..., None] + levels
    before = take(same, text.at) & (jnp.arange(same.shape[2]) <= text.at[..., None])
    before = jnp.repeat(before, size, axis=1)
    own = jnp.eye(count, dtype=bool)[:, None, :, None] & window[:, :, :, None, :]
    own = own.reshape(rows, count * size, count * size)
    text_sees = jnp.pad(same, ((0, 0), (0, 0), (0, count * size)))
    sees = jnp.concatenate([text_sees, jnp.concatenate([before, own], axis=2)], axis=1)
    flat = (rows, count * size)
    return (
        jnp.concatenate([text.tokens, nodes.reshape(flat)], axis=1),
        jnp.concatenate([positions, ahead.reshape(flat)], axis=1),
        sees,
    )
