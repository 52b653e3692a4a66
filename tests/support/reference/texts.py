"""Whole texts, round after round."""

from collections.abc import Callable

import numpy as np

from reference.acceptance import Verdict
from reference.warping import Law, Text, argmax


def decode(
    round_: Callable[[Text], Verdict],
    prompt: Text,
    *,
    max_new_tokens: int,
    ends: frozenset = frozenset(),
    pick: Callable[[np.ndarray], int] = argmax,
) -> Text:
    """The new tokens of round after round; `pick` draws the bonus from its law.

    Nothing after an end, nothing past `max_new_tokens` (algorithms: MTAD, last paragraph).
    """
    new: Text = ()
    while len(new) < max_new_tokens and not (new and new[-1] in ends):
        verdict = round_(prompt + new)
        new = new + verdict.tokens
        if verdict.bonus is not None:
            new = new + (pick(verdict.bonus),)
    return new[:max_new_tokens]


def greedy(
    target: Law, prompt: Text, *, max_new_tokens: int, ends: frozenset = frozenset()
) -> Text:
    """The most probable token again and again, until an end or the limit."""
    new: Text = ()
    while len(new) < max_new_tokens and not (new and new[-1] in ends):
        new = new + (argmax(target(prompt + new)),)
    return new
