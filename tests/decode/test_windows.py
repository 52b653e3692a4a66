"""A sliding window that counts what a query sees is one over positions, under every rule."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draft_shapes import each

from mtad_jax import recipes
from mtad_jax.decode.engine import generate
from mtad_jax.decode.warp import Warp
from mtad_jax.models.cache import last_seen, visible_slots
from mtad_jax.models.protocol import BoundLM
from mtad_jax.testing.fakes import TableCache, TableLM

WIDTH = 4  # positions: fewer than a prompt, and than most paths with the text before them
PROMPTS, LENGTHS = np.random.default_rng(1).integers(0, 8, (3, 9)), np.array([9, 2, 6])


RULES = {
    "sample": recipes.sample(),
    "beam": recipes.beam(3),
    "mtjd": recipes.mtjd(2, 3),
    "speculative_beam": recipes.speculative_beam(2, 2, 3),
    "speculative_mtjd": recipes.speculative_mtjd(3, 2, 2, 3),
    "speculative": recipes.speculative(3),
    "bild": recipes.bild(3),
    "lookup": recipes.lookup(3, 1),
    "recycle": recipes.recycle(3, 2),
    "suffix": recipes.suffix(3, 4, np.arange(99) % 11 % 8),
    "specinfer": recipes.specinfer((2, 2)),
    "dsbd": recipes.dsbd(2, 2),
    "mmtad": recipes.mmtad(3, 2),
}


@dataclasses.dataclass(frozen=True)
class Windowed(TableLM):
    """A table whose row is picked by the last positions alone, found in one of two ways."""

    counted: bool = True

    def apply(self, params, tokens, *, positions, write_at, prefix, window, cache):
        slot = write_at[:, None] + jnp.arange(tokens.shape[1])
        row = jnp.arange(len(tokens))[:, None]
        cache = TableCache(
            cache.token.at[row, slot].set(tokens, mode="drop"),
            cache.position.at[row, slot].set(positions, mode="drop"),
        )
        slots = cache.token.shape[1]
        seen = visible_slots(slots, tokens.shape[1], write_at, prefix, window)
        if self.counted:
            seen = last_seen(seen, WIDTH)
        else:  # by the positions that the slots were written with
            seen &= cache.position[:, None] > positions[:, :, None] - WIDTH
        value = (cache.token + 1) * ((cache.position + 1) ** 2 % self.rows) % self.rows
        found = jnp.sum(jnp.where(seen, value[:, None], 0), axis=-1) % self.rows
        return params["table"][found].astype(jnp.float32), cache


def model(table: np.ndarray, counted: bool) -> BoundLM:
    return BoundLM({"table": jnp.asarray(table, jnp.float32)}, Windowed(31, 8, counted=counted))


@pytest.mark.parametrize("name", each(RULES, among=("specinfer", "speculative_mtjd", "mmtad")))
def test_counting_is_by_position(name):
    rng = np.random.default_rng(0)
    table = rng.normal(scale=1.5, size=(31, 8))
    table[:, 5] -= 3  # few ends
    near = table + rng.normal(scale=0.5, size=table.shape)
    counted, by_position = (
        generate(
            model(table, how), PROMPTS, LENGTHS, strategy=RULES[name], draft=model(near, how),
            max_new_tokens=24, eos_id=5, warp=Warp(1.0, 0.9, 6), seed=2,
        )
        for how in (True, False)
    )  # fmt: skip
    jax.tree.map(np.testing.assert_array_equal, counted, by_position)
    assert counted.stats().rounds.sum() > 6


def test_fewer_slots_than_a_window_are_all_seen():
    seen = jnp.tri(5, dtype=bool)[None]
    assert last_seen(seen, 5) is seen
    np.testing.assert_array_equal(last_seen(seen, 2)[0], np.tri(5) - np.tri(5, k=-2))
