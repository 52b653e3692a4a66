"""Replays a decoded batch round by round: the engine's own noise, and the reference's laws."""

import functools
import math
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import reference as ref

from mtad_jax.decode import random
from mtad_jax.decode.result import DecodeResult
from mtad_jax.decode.state import DEPTH, END, LENGTH, REJECTED

EDGE = 1e-4  # a decision nearer than this may fall otherwise in f32: the round is skipped


@dataclass
class WatchedLaw:
    """A law of the reference that remembers how near its supports came to an edge."""

    law: ref.ControlledLaw
    gap: float = math.inf
    known: dict = field(default_factory=dict)

    def __call__(self, text: ref.Text) -> np.ndarray:
        if text not in self.known:
            self.known[text] = self.law(text), self.law.gap(text)
        law, gap = self.known[text]
        self.gap = min(self.gap, gap)
        return law

    def raw(self, text: ref.Text) -> np.ndarray:
        """The un-warped law, which no control touches."""
        return ref.warp(self.law.model.logits(text))


@dataclass(frozen=True)
class Round:
    """One round as the engine ran it.

    row: of the batch. text: before the round. tokens, place, logp, logp_raw: what it committed.
    candidate, log_ratio, ending: what the trace says of it. room: tokens before the row's limit.
    """

    row: int
    text: ref.Text
    tokens: ref.Text
    place: list[int]
    logp: np.ndarray
    logp_raw: np.ndarray
    candidate: int
    log_ratio: float
    ending: int
    room: int

    @property
    def drafted(self) -> ref.Text:
        return tuple(t for t, i in zip(self.tokens, self.place, strict=True) if i > 0)

    @property
    def bonus(self) -> int | None:
        return self.tokens[-1] if self.place[-1] == 0 else None


def rounds_of(result: DecodeResult, prompts, lengths, limit: int) -> list[Round]:
    """All rounds of a batch, row after row."""
    found, got = [], jax.tree.map(np.asarray, result)
    for row, n in enumerate(got.length):
        trace = jax.tree.map(lambda x, row=row, n=n: x[row, :n], got.trace)
        text = tuple(prompts[row][: lengths[row]].tolist()) + tuple(got.tokens[row, :n].tolist())
        for index in range(trace.round.max() + 1):
            at = np.flatnonzero(trace.round == index)
            start = int(lengths[row] + at[0])
            found.append(
                Round(
                    row, text[:start], text[start : start + len(at)], trace.place[at].tolist(),
                    trace.logp[at], trace.logp_raw[at], int(trace.candidate[at[0]]),
                    float(trace.log_ratio[at[0]]), int(trace.ending[at[0]]), limit - int(at[0]),
                )
            )  # fmt: skip
    return found


def noise_of(seed: int, rounds: list[Round], draw, most: int) -> list:
    """`draw(row keys, length)` of every round, computed in one call of `most` rows."""
    rows = np.resize([r.row for r in rounds], most).astype(np.int32)
    length = np.resize([len(r.text) for r in rounds], most).astype(np.int32)
    drawn = jax.tree.map(np.asarray, draw(random.row_keys(seed, rows), length))
    return [jax.tree.map(lambda x, i=i: x[i], drawn) for i in range(len(rounds))]


@functools.cache
def beam_noise(depth: int, width: int, vocab: int):
    """Gumbel noise [K, W, V] of the beam draft `sample`; at depth 1 there is beam 0 only."""

    @jax.jit
    def draw(keys, length):
        def of(step, beams):
            return random.gumbel(
                random.round_keys(keys, length, random.DRAFT, step), (beams, vocab)
            )

        first = jnp.pad(of(0, 1), ((0, 0), (0, width - 1), (0, 0)), constant_values=jnp.nan)
        return jnp.stack([first, *(of(step, width) for step in range(1, depth))], axis=1)

    return draw


@functools.cache
def chain_noise(depth: int, vocab: int):
    """Gumbel noise [K, V] of a chain draft, and the uniforms [K] of its tests."""

    @jax.jit
    def draw(keys, length):
        chain = [
            random.gumbel(random.round_keys(keys, length, random.DRAFT, step), (vocab,))
            for step in range(depth)
        ]
        uniform = random.uniform(random.round_keys(keys, length, random.ACCEPT), (depth,))
        return jnp.stack(chain, axis=1), uniform

    return draw


@functools.cache
def lattice_noise(depth: int, width: int, vocab: int):
    """Gumbel noise [K, W, V] of a stochastic beam search, and the uniforms [K W] of its tests."""
    of_beams = beam_noise(depth, width, vocab)

    @jax.jit
    def draw(keys, length):
        keys_of_tests = random.round_keys(keys, length, random.ACCEPT)
        return of_beams(keys, length), random.uniform(keys_of_tests, (depth * width,))

    return draw


@functools.cache
def tree_noise(branching: tuple[int, ...], replace: bool, vocab: int):
    """Gumbel noise of the children of every node of every level, and the uniforms [N - 1]."""
    sizes = [math.prod(branching[:d]) for d in range(len(branching) + 1)]

    @jax.jit
    def draw(keys, length):
        levels = []
        for level, count in enumerate(branching):
            shape = (sizes[level], count, vocab) if replace else (sizes[level], vocab)
            levels.append(
                random.gumbel(random.round_keys(keys, length, random.DRAFT, level), shape)
            )
        return levels, random.uniform(
            random.round_keys(keys, length, random.ACCEPT), (sum(sizes) - 1,)
        )

    return draw


@jax.jit
def _bonus(keys, length, logp):
    keys = random.round_keys(keys, length, random.BONUS)
    return random.categorical(keys, logp), random.gumbel(keys, logp.shape[1:])


def check_bonus(seed: int, rounds: list[Round], laws: list[np.ndarray], most: int) -> int:
    """Each round's bonus is what the engine's keys draw from the reference's law; the checked."""
    stacked = np.stack([laws[i % len(laws)] for i in range(most)]).astype(np.float32)
    drawn = noise_of(seed, rounds, lambda keys, length: _bonus(keys, length, stacked), most)
    checked = 0
    for round_, law, (token, noise) in zip(rounds, laws, drawn, strict=True):
        best = np.sort(law + noise)[::-1]
        if best[0] - best[1] > EDGE:
            checked += 1
            assert round_.bonus == token, round_
    return checked


def check_trace(round_: Round, target: WatchedLaw) -> None:
    """The log-probabilities of the trace are those of the table."""
    for i, token in enumerate(round_.tokens):
        text = round_.text + round_.tokens[:i]
        np.testing.assert_allclose(round_.logp_raw[i], target.raw(text)[token], atol=2e-5)
        logp, known = target(text)[token], target.gap > EDGE
        if known:
            np.testing.assert_allclose(round_.logp[i], logp, atol=2e-5)


def check_committed(round_: Round, accepted: ref.Text, candidate: int, more: bool) -> None:
    """The round committed `accepted` and (if `more`) a bonus, up to its room."""
    assert round_.drafted == accepted[: round_.room], (round_, accepted)
    assert round_.candidate == min(candidate, round_.room), (round_, candidate)
    assert (round_.bonus is not None) == (more and len(accepted) < round_.room), round_
    assert round_.place[: len(round_.drafted)] == list(range(1, len(round_.drafted) + 1))


def check_ending(round_: Round, ends: frozenset, rejected: bool) -> int:
    """The trace says why the round ended; returns it."""
    want = REJECTED if rejected else DEPTH
    if round_.tokens[-1] in ends:
        want = END
    elif len(round_.tokens) == round_.room:
        want = LENGTH
    assert round_.ending == want, (round_, want)
    return want
