"""The target's beams below the committed text, and the one step that extends them."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from mtad_jax.decode.beams import Beams, beam_step, lattice_window
from mtad_jax.decode.draft import pick, pick_logp, take
from mtad_jax.decode.logits import History, extend, history, law
from mtad_jax.decode.state import Controls, DecodeState
from mtad_jax.types import Array, Bool, Float, Int


@struct.dataclass
class LiveBeams:
    """W beams and how they came about; R steps at most, S scratch slots.

    Place w of step r has cache slot r W + w, counted from the last committed token's; step 0 is
    that token, W times. The places of the last step are not in the caches yet.

    Attributes:
      beams: the places of the last step; before the first one place 0 is the empty path.
      window: [B, W, S] the scratch slots that each place's path went through.
      token, parent: [B, R, W] last token and parent place of every place, of steps 1 ... R.
      logp, logp_raw: [B, R, W] log-probability of that token, warped and un-warped.
      past: what the controls know of each place's path.
      count: [B, W] tokens of each place's path, fillers not counted.
      steps: [B] steps that the row took.
    """

    beams: Beams
    window: Bool[Array, "B W S"]
    token: Int[Array, "B R W"]
    parent: Int[Array, "B R W"]
    logp: Float[Array, "B R W"]
    logp_raw: Float[Array, "B R W"]
    past: History
    count: Int[Array, "B W"]
    steps: Int[Array, " B"]

    @property
    def over(self) -> Bool[Array, " B"]:
        """Whether no place can be extended: all have ended, or were never valid."""
        return jnp.all(self.beams.ended | ~self.beams.valid, axis=1)


def empty_beams(
    state: DecodeState, controls: Controls, vocab: int, *, width: int, steps: int, slots: int
) -> LiveBeams:
    """Return W places of which the first is the empty path; the others are invalid."""
    batch = state.tokens.shape[0]
    root = take(state.tokens, jnp.repeat(state.length[:, None] - 1, width, axis=1))
    past = jax.tree.map(lambda x: jnp.repeat(x, width, axis=1), history(state, controls, vocab))
    whole = jnp.zeros((batch, steps, width), jnp.int32)
    real = whole.astype(jnp.float32)
    count = jnp.zeros((batch, width), jnp.int32)
    return LiveBeams(
        first_places(root), own_slots(batch, width, slots), whole, whole, real, real, past, count,
        jnp.zeros((batch,), jnp.int32),
    )  # fmt: skip


def first_places(root: Int[Array, "B W"]) -> Beams:
    """Return W places of which the first is the empty path after `root`."""
    first = jnp.broadcast_to(jnp.arange(root.shape[1]) == 0, root.shape)
    no = jnp.zeros(root.shape, bool)
    # Weakly typed, it would make the second call of the loop another program.
    logq = jnp.where(first, 0.0, -jnp.inf).astype(jnp.float32)
    return Beams(root, jnp.zeros(root.shape, jnp.int32), logq, first, no, no)


def own_slots(batch: int, width: int, slots: int) -> Bool[Array, "B W S"]:
    """Return the window of the places of step 0: each its own slot."""
    own = jnp.arange(width)[:, None] == jnp.arange(slots)
    return jnp.broadcast_to(own, (batch, width, slots))


def advance(
    old: LiveBeams,
    logits: Float[Array, "B W V"],
    noise: Float[Array, "B W V"] | None,
    controls: Controls,
) -> LiveBeams:
    """Extend every beam by one token, given the target's logits after each place."""
    width = old.count.shape[1]
    logp = law(logits, old.past, controls, controls.warp)
    beams = beam_step(old.beams, logp, width, noise, controls)
    # A select: a batched update of one step would be a scatter, a loop on CPU.
    now = (jnp.arange(old.token.shape[1]) == old.steps[:, None])[:, :, None]

    def put(history: Array, values: Array) -> Array:
        return jnp.where(now, values[:, None], history)

    steps = old.steps + 1
    return LiveBeams(
        beams=beams,
        window=lattice_window(old.window, beams.parent, steps * width),
        token=put(old.token, beams.token),
        parent=put(old.parent, beams.parent),
        logp=put(old.logp, _of_token(logp, beams)),
        logp_raw=put(old.logp_raw, _of_token(logits, beams, pick_logp)),
        past=extend(old.past, beams.parent, beams.token, ~beams.filler),
        count=take(old.count, beams.parent) + ~beams.filler,
        steps=steps,
    )


def best_place(score: Float[Array, "B W"], live: LiveBeams) -> Int[Array, " B"]:
    """Return the valid place with the largest score."""
    return jnp.argmax(jnp.where(live.beams.valid, score, -jnp.inf), axis=1)


def path_back(live: LiveBeams, place: Int[Array, " B"]) -> Int[Array, "B R"]:
    """Return the places at steps 1 ... R of the path that ends in `place`; 0 past its steps."""

    def back(place, r):
        here = r < live.steps
        parent = take(live.parent[:, r], place)
        return jnp.where(here, parent, place), jnp.where(here, place, 0)

    steps = jnp.arange(live.parent.shape[1])
    _, path = jax.lax.scan(back, place, steps, reverse=True)
    return path.T


def along(history: Array, path: Int[Array, "B R"]) -> Array:
    """Return the values [B, R] of a history [B, R, W] at the places of a path."""
    return jnp.take_along_axis(history, path[:, :, None], axis=2)[:, :, 0]


def where_rows(rows: Bool[Array, " B"], new: Any, old: Any) -> Any:
    """Return new's rows where `rows`, else old's; of every array in a tree."""

    def choose(new: Array, old: Array) -> Array:
        return jnp.where(rows.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

    return jax.tree.map(choose, new, old)


def _of_token(values: Float[Array, "B U V"], beams: Beams, read=pick) -> Float[Array, "B W"]:
    """Return the log-probability of each place's token after its parent; 0 for fillers."""
    return jnp.where(beams.filler, 0.0, read(values, beams.parent, beams.token))
