"""Where the chance of a round comes from: numbers that are given, or all outcomes in turn.

A rule asks `Chance` for its tests and its draws by slot, so that one transcription serves both the
replay of a decoded round and the exact enumeration of its law.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

import numpy as np

from reference.warping import Law, Outcomes, Text, _falling

Kept = tuple[Text, np.ndarray | None]  # accepted tokens, law of the next token (None after an end)
T = TypeVar("T")


class Chance(Protocol):
    """Decides every test of chance and every draw of a round."""

    def test(self, slot: int, ratio: float) -> bool:
        """Whether u < `ratio`, u uniform on [0, 1), its own for every slot."""
        ...

    def draws(self, slot: Hashable, logp: np.ndarray, count: int, replace: bool) -> Text:
        """`count` indices drawn in proportion to exp(logp), in draw order.

        Without replacement there are at most as many as have mass.
        """
        ...


class Given:
    """Chance from uniforms and Gumbel noise; remembers how near a decision came to its edge.

    uniforms: by slot. noise: by slot, one row of noise a draw (with replacement), or one for all
    (without: Gumbel top-k, in falling order of the perturbed score).
    """

    def __init__(
        self,
        uniforms: Sequence[float] | np.ndarray = (),
        noise: Mapping[Hashable, np.ndarray] | None = None,
    ):
        self.uniforms, self.noise, self.gap = uniforms, {} if noise is None else noise, math.inf

    def test(self, slot: int, ratio: float) -> bool:
        if ratio <= 0:
            return False  # p = 0 never passes, not even u = 0
        u = float(self.uniforms[slot])
        self.gap = min(self.gap, abs(math.log(max(u, 1e-30)) - math.log(ratio)))
        return u < ratio

    def draws(self, slot: Hashable, logp: np.ndarray, count: int, replace: bool) -> Text:
        rows = np.reshape(self.noise[slot], (-1, len(logp)))
        if not replace:
            return self._top(logp + rows[0], count)
        return tuple(self._top(logp + row, 1)[0] for row in rows[:count])

    def _top(self, score: np.ndarray, count: int) -> Text:
        order = [i for i in _falling(score) if score[i] > -np.inf]
        ranked = [float(score[i]) for i in order[: count + 1]]
        for a, b in zip(ranked, ranked[1:], strict=False):
            self.gap = min(self.gap, a - b)
        return tuple(order[:count])


class _Script:
    """Takes the branches of a list, then the first possible ones; notes the others."""

    def __init__(self, known: list[int]):
        self.known, self.taken, self.weight = known, [], 1.0
        self.others: list[list[int]] = []

    def _branch(self, chances: Sequence[float]) -> int:
        n = len(self.taken)
        possible = [i for i, chance in enumerate(chances) if chance > 0]
        pick = self.known[n] if n < len(self.known) else possible[0]
        if n >= len(self.known):
            self.others += [[*self.taken, other] for other in possible[1:]]
        self.taken.append(pick)
        self.weight *= chances[pick]
        return pick

    def test(self, slot: int, ratio: float) -> bool:
        chance = min(1.0, max(0.0, ratio))
        return self._branch([chance, 1 - chance]) == 0

    def draws(self, slot: Hashable, logp: np.ndarray, count: int, replace: bool) -> Text:
        left, found = np.exp(logp), []
        for _ in range(count):
            if left.sum() == 0:
                break
            found.append(self._branch((left / left.sum()).tolist()))
            if not replace:
                left[found[-1]] = 0
        return tuple(found)


def every(round_: Callable[[Chance], T]) -> Iterator[tuple[T, float]]:
    """Every result of `round_` with its probability, over all tests and draws."""
    pending: list[list[int]] = [[]]
    while pending:
        script = _Script(pending.pop())
        result = round_(script)
        pending += script.others
        yield result, script.weight


def rule_outcomes(round_: Callable[[Text, Chance], Kept]) -> Callable[[Text], Outcomes]:
    """What a round commits -> its probability, over all drafts, tests and bonus tokens."""

    def outcomes(text: Text) -> Outcomes:
        total: Outcomes = defaultdict(float)
        for (accepted, follow), weight in every(lambda chance: round_(text, chance)):
            if follow is None:
                total[accepted] += weight
                continue
            for token, share in enumerate(np.exp(follow)):
                if share > 0:
                    total[accepted + (token,)] += weight * share
        return dict(total)

    return outcomes


def draw_chain(draft: Law, text: Text, depth: int, ends: frozenset, chance: Chance) -> Text:
    """`depth` tokens drawn one after the other from the draft, cut after an end; slots 0, 1, ..."""
    chain: Text = ()
    for step in range(depth):
        chain += chance.draws(step, draft(text + chain), 1, True)
        if chain[-1] in ends:
            break
    return chain
