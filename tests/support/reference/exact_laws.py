"""Exact laws of the first tokens, by enumeration of all draws."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable

import numpy as np

from reference.acceptance import Verdict, mmtad_accept, mtad_accept
from reference.blocks import block
from reference.lattices import draft_search
from reference.speculation import cut_at_end, speculative_round
from reference.warping import Law, Outcomes, Text


def chains(model: Law, text: Text, depth: int, ends: frozenset) -> Outcomes:
    """Every chain of `depth` tokens drawn from `model`, cut after an end -> its probability."""
    done: Outcomes = {(): 1.0}
    for _ in range(depth):
        grown: Outcomes = {}
        for path, weight in done.items():
            if path and path[-1] in ends:
                grown[path] = weight
                continue
            for token, logp in enumerate(model(text + path)):
                if logp > -np.inf:
                    grown[path + (token,)] = weight * math.exp(logp)
        done = grown
    return done


def _followed(accepted: Text, weight: float, follow: np.ndarray | None) -> Iterable:
    """The outcomes (committed, probability) of `accepted` and a draw from `follow`."""
    if follow is None:
        yield accepted, weight
        return
    for token, logp in enumerate(follow):
        if logp > -np.inf:
            yield accepted + (token,), weight * math.exp(logp)


def sampling_outcomes(target: Law, ends: frozenset = frozenset()) -> Callable[[Text], Outcomes]:
    """One round of ancestral sampling: one token from the target."""
    return lambda text: chains(target, text, 1, ends)


def speculative_outcomes(
    target: Law, draft: Law, *, depth: int, ends: frozenset = frozenset()
) -> Callable[[Text], Outcomes]:
    """One round of speculative sampling, all drafts and all tests enumerated.

    Token i passes with probability min(1, p_i/q_i). The law that follows j passes comes from
    `speculative_round`, given j uniforms of 0 and then one that fails (1).
    """

    def outcomes(text: Text) -> Outcomes:
        total: Outcomes = defaultdict(float)
        for chain, weight in chains(draft, text, depth, ends).items():
            steps = block(target, draft, text, chain, ends)
            chances = np.exp(np.minimum(0, steps.step_p - steps.step_q))
            for j in range(len(chain) + 1):
                stop = 1 - chances[j] if j < len(chain) else 1.0
                here = weight * math.prod(chances[:j]) * stop
                if here > 0:
                    uniforms = [0.0] * j + [1.0] * (len(chain) - j)
                    accepted, follow = speculative_round(target, draft, text, chain, uniforms, ends)
                    for committed, mass in _followed(accepted, here, follow):
                        total[committed] += mass
        return dict(total)

    return outcomes


def mtad_round(
    target: Law,
    draft: Law,
    *,
    depth: int,
    width: int,
    tau: float,
    many: bool = False,
    ends: frozenset = frozenset(),
) -> Callable[[Text], Verdict]:
    """One round of MTAD (`many`: MMTAD) with a `search` draft, as a function of the text."""
    accept = mmtad_accept if many else mtad_accept

    def round_(text: Text) -> Verdict:
        lattice = draft_search(draft, text, depth=depth, width=width, ends=ends)
        return accept(lattice, target, text, tau)

    return round_


def round_outcomes(round_: Callable[[Text], Verdict]) -> Callable[[Text], Outcomes]:
    """The outcomes of a round that draws nothing but its bonus."""

    def outcomes(text: Text) -> Outcomes:
        verdict = round_(text)
        return dict(_followed(verdict.tokens, 1.0, verdict.bonus))

    return outcomes


def exact_law(
    outcomes: Callable[[Text], Outcomes],
    prompt: Text,
    *,
    length: int = 2,
    ends: frozenset = frozenset(),
) -> Outcomes:
    """The probability of every text of the first `length` tokens, over all draws.

    Rounds go on until `length` tokens are there or the text has ended (then it is shorter).
    """
    total: Outcomes = defaultdict(float)
    pending: Outcomes = {(): 1.0}
    while pending:
        later: Outcomes = defaultdict(float)
        for new, weight in pending.items():
            for more, chance in outcomes(prompt + new).items():
                text = cut_at_end(new + more, ends)[:length]
                over = len(text) == length or text[-1] in ends
                (total if over else later)[text] += weight * chance
        pending = later
    return dict(total)


def target_law(target: Law, prompt: Text, length: int = 2, ends: frozenset = frozenset()):
    """The exact law of the first tokens under ancestral sampling from the target."""
    return exact_law(sampling_outcomes(target, ends), prompt, length=length, ends=ends)


def speculative_law(
    target: Law,
    draft: Law,
    prompt: Text,
    depth: int,
    length: int = 2,
    ends: frozenset = frozenset(),
) -> Outcomes:
    """The exact law of the first tokens under speculative sampling with K = `depth`."""
    outcomes = speculative_outcomes(target, draft, depth=depth, ends=ends)
    return exact_law(outcomes, prompt, length=length, ends=ends)


def distance(a: Outcomes, b: Outcomes) -> float:
    """The largest difference of a probability between two laws."""
    return max(abs(a.get(key, 0.0) - b.get(key, 0.0)) for key in a.keys() | b.keys())
