"""The engine's first round on tables, up to what its verifier is given; its noise is replaced."""

from typing import Any
from unittest import mock

import jax.numpy as jnp
import numpy as np
import reference as ref
from flax import struct

from mtad_jax.decode import draft_verify, loop, random
from mtad_jax.decode.draft_verify import DraftVerify
from mtad_jax.testing import table_lm

WIDTH, SLOTS = 8, 32  # of the texts, and of a cache


@struct.dataclass
class _Look:
    """A verifier that only shows what it was given; `commit` is replaced while it is traced."""

    lossless = False

    def check(self, drafter, request) -> None:
        """Nothing can be out of range."""

    def verify(self, draft, logp, logits, keys, controls) -> Any:
        """Return the draft and the target's laws."""
        return draft, logp, logits


def looking_at(drafter) -> DraftVerify:
    """A strategy that shows what a verifier is given."""
    return DraftVerify(drafter, _Look())


def start_of(drafter, setting, texts: list[ref.Text], each: int) -> tuple:
    """What `first_step` takes for `each` rows after each text: pair, controls, texts, lengths."""
    ids = np.array([text + (0,) * (WIDTH - len(text)) for text in texts], np.int32)
    length = np.array([len(text) for text in texts], np.int32)
    target, draft = (table_lm(table) for table in setting.tables)
    controls = setting.controls(len(texts) * each)
    draft = draft if drafter.needs_draft else None
    return target, draft, controls, np.repeat(ids, each, axis=0), np.repeat(length, each)


def first_step(strategy, target, draft, controls, ids, length, gumbel) -> Any:
    """Prefill and one step up to the verifier, with `gumbel` in place of the engine's noise."""
    with (
        mock.patch.object(random, "gumbel", gumbel),
        mock.patch.object(draft_verify, "commit", lambda state, tree, verdict, **_: verdict),
    ):
        state = loop.empty_state(
            target, draft, strategy, controls, ids, length, length + 9, jnp.uint32(0),
            jnp.arange(len(ids)), kinds=loop.kinds_of(strategy), slots=SLOTS,
        )  # fmt: skip
        # Not through `run`, whose compiled programs outlive the patches.
        state = loop._prefill(target, draft, state, WIDTH)
        return strategy.step(target, draft, state, controls)
