"""The exact law of one round of the engine, by its own arithmetic, all its draws enumerated.

The engine's drafter and verifier run; only their noise is replaced. `random.gumbel` makes a drafter
draw prescribed tokens: every draft that it can draw is one row of a batch, and the weight of a row
comes from the drafter's own `logq`. The tests of chance are those of `exact_tests`.
"""

import dataclasses
import functools
import itertools
from collections import defaultdict
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
import reference as ref
from exact_beams import propose_beams
from exact_start import first_step, looking_at, start_of
from exact_tests import Judge
from jitted import jit_of_rule

from mtad_jax.decode import random
from mtad_jax.decode.draft import DraftTree
from mtad_jax.decode.draft_verify import DraftVerify
from mtad_jax.decode.drafters.stochastic import StochasticBeams
from mtad_jax.decode.state import Controls
from mtad_jax.decode.warp import Warp

_LOUD = 1e6  # noise that decides a draw


@dataclasses.dataclass(frozen=True, eq=False)
class Setting:
    """What a round is asked: two tables of logits [2, rows, V] and the controls of a call.

    `least` is the length (prompt included) below which no end may come. All but the warps' top-k
    and V is traced: settings share one program.
    """

    tables: np.ndarray
    warp: Warp = dataclasses.field(default_factory=Warp)
    draft_warp: Warp | None = None
    ends: frozenset = frozenset()
    banned: frozenset = frozenset()
    penalty: float = 1.0
    least: int = 0

    @property
    def vocab(self) -> int:
        """V."""
        return self.tables.shape[2]

    def controls(self, rows: int) -> Controls:
        """The same for the engine; without an end, the end token is one that never comes."""
        assert len(self.ends) <= 1
        both = jax.tree.map(jnp.float32, (self.warp, self.draft_warp or self.warp))
        banned = jnp.asarray(np.isin(np.arange(self.vocab), list(self.banned)))
        least = jnp.full((rows,), self.least, jnp.int32)
        ends = jnp.asarray([*self.ends] or [-1], jnp.int32)
        return Controls(
            warp=both[0], draft_warp=both[1], eos_ids=ends, banned=banned,
            penalty=jnp.float32(self.penalty), min_length=least,
        )  # fmt: skip

    def target(self) -> ref.Law:
        """The target's law of the next token, penalty, bans and minimum length included."""
        return self._law(self.tables[0], self.warp)

    def draft(self) -> ref.Law:
        """The draft's."""
        return self._law(self.tables[1], self.draft_warp or self.warp)

    def _law(self, table: np.ndarray, warp: Warp) -> ref.Law:
        law = ref.ControlledLaw(
            ref.TableModel(table.astype(float)),
            float(warp.temperature),
            warp.top_k,
            float(warp.top_p),
            float(warp.min_p),
            penalty=self.penalty,
            banned=self.banned,
            ends=self.ends,
            min_length=self.least,
        )
        return functools.cache(law)


@dataclasses.dataclass(frozen=True, eq=False)
class Rounds:
    """One round after each of T texts, all that can happen in it with its probability.

    Attributes:
      texts: [T] what the rounds start from; each has D = B / T rows, one a draft.
      tokens, parent, ended: [B, N] the drafts: a node's token, its parent, whether it is an end.
      mass: [B, N, V] probability of a draft, its accepted leaf (0: none) and the bonus.
    """

    texts: list[ref.Text]
    tokens: np.ndarray
    parent: np.ndarray
    ended: np.ndarray
    mass: np.ndarray

    def outcomes(self, text: ref.Text) -> ref.Outcomes:
        """Every text that a round commits after `text`, with its probability."""
        total: ref.Outcomes = defaultdict(float)
        for row, leaf in self._kept(text):
            path, mass = self._path(row, leaf), self.mass[row, leaf]
            if leaf and self.ended[row, leaf]:
                total[path] += mass.sum()
                continue
            for token in np.flatnonzero(mass):
                total[(*path, int(token))] += mass[token]
        return dict(total)

    def accepted(self, text: ref.Text) -> float:
        """The expected number of drafted tokens that a round keeps after `text`."""
        return sum(
            len(self._path(row, leaf)) * self.mass[row, leaf].sum()
            for row, leaf in self._kept(text)
        )

    def _kept(self, text: ref.Text) -> Iterable[tuple[int, int]]:
        """Every row of a text and leaf of it that can be."""
        drafts = len(self.tokens) // len(self.texts)
        first = self.texts.index(text) * drafts
        row, leaf = np.nonzero(self.mass[first : first + drafts].sum(axis=2))
        return zip((first + row).tolist(), leaf.tolist(), strict=True)

    def _path(self, row: int, node: int) -> ref.Text:
        path: ref.Text = ()
        while node:
            path, node = (int(self.tokens[row, node]), *path), int(self.parent[row, node])
        return path


def propose(drafter, setting: Setting, texts: list[ref.Text]):
    """Make all drafts after each of `texts`, [B] in all, and run the target on them.

    Returns:
      wanted: [B, n] the tokens that each row's drafter was made to draw.
      draft, logp, logits, controls: what the verifier of a round is given.
    """
    wanted = _all_drafts(drafter, setting.vocab)
    given = start_of(drafter, setting, texts, len(wanted))
    wanted = np.tile(wanted, (len(texts), 1))
    shown = _propose(looking_at(drafter), *given, wanted)
    controls = given[2]
    return wanted, *shown, controls


def run_rounds(strategy: DraftVerify, setting: Setting, texts: list[ref.Text]) -> Rounds:
    """Run one round after each of `texts` on all drafts, under all outcomes of the tests."""
    if isinstance(strategy.drafter, StochasticBeams):
        weight, draft, logp, logits, controls = propose_beams(strategy.drafter, setting, texts)
    else:
        wanted, draft, logp, logits, controls = propose(strategy.drafter, setting, texts)
        weight = _weights(strategy.drafter, draft, wanted)
    np.testing.assert_allclose(weight.reshape(len(texts), -1).sum(axis=1), 1, atol=2e-6)
    mass = Judge(strategy.verifier, draft, logp, logits, controls).mass(weight)
    drawn = np.asarray(draft.valid) | (np.asarray(draft.depth) == 0)
    assert not mass[~drawn].any(), "a node that was not drawn is accepted"
    ended = np.asarray(controls.is_end(draft.tokens))
    return Rounds(texts, np.asarray(draft.tokens), np.asarray(draft.parent), ended, mass)


def distance(
    strategy: DraftVerify, setting: Setting, texts: list[ref.Text], *, length: int | None = None
) -> float:
    """How far the first tokens are from the target's law, after the worst of `texts`.

    A round of the engine starts at each of `texts`; elsewhere tokens are sampled one by one, until
    there are K + 1 of them (or `length`). That they have the target's law after every text is what
    makes any number of rounds lossless, by induction.
    """
    target = setting.target()
    rounds = run_rounds(strategy, setting, texts)
    plain = ref.sampling_outcomes(target, setting.ends)
    length = strategy.depth + 1 if length is None else length

    def outcomes(text: ref.Text) -> ref.Outcomes:
        return rounds.outcomes(text) if text in texts else plain(text)

    worst = 0.0
    for text in texts:
        got = ref.exact_law(outcomes, text, length=length, ends=setting.ends)
        want = ref.target_law(target, text, length, setting.ends)
        worst = max(worst, ref.distance(got, want), abs(sum(got.values()) - 1))
    return worst


def _branching(drafter) -> tuple[int, ...]:
    """Children of a node of each level; a chain is a tree; nothing where nothing is drawn."""
    if not (drafter.drawn and drafter.needs_draft):
        return ()
    return getattr(drafter, "branching", (1,) * drafter.depth)


def _sizes(drafter) -> list[int]:
    """Nodes of levels 1, 2, ..., K."""
    return [int(n) for n in np.cumprod(_branching(drafter), dtype=int)]


def _all_drafts(drafter, vocab: int) -> np.ndarray:
    """Every assignment of tokens to nodes 1, 2, ...: [D, N - 1]; one row if nothing is drawn."""
    every = itertools.product(range(vocab), repeat=sum(_sizes(drafter)))
    return np.array(list(every), np.int32)  # one row () has the shape [1, 0]


@jit_of_rule
def _propose(strategy, target, draft, controls, ids, length, wanted):
    """Prefill and one step up to the verifier; the drafts are those wanted, where q gives them.

    Where no draft is wanted (a beam chooses, a lookup finds) the noise is the engine's own.
    """
    sizes = _sizes(strategy.drafter)
    levels = iter(jnp.split(wanted, np.cumsum(sizes)[:-1], axis=1) if sizes else ())

    def gumbel(keys, shape):
        level = next(levels)
        places, vocab = (shape[0] if len(shape) > 1 else 1), shape[-1]
        token = level.reshape(len(level), places, -1)  # --> [B, U, children]
        loud = _LOUD * (token[..., None] == jnp.arange(vocab))
        if len(shape) != 2:  # a row of noise for each child, or the one row of a chain
            return loud.reshape(-1, *shape)
        # Without replacement: the first child is the loudest.
        return jnp.max(loud * (token.shape[2] - jnp.arange(token.shape[2])[:, None]), axis=2)

    return first_step(
        strategy, target, draft, controls, ids, length, gumbel if sizes else random.gumbel
    )


def _weights(drafter, draft: DraftTree, wanted: np.ndarray) -> np.ndarray:
    """The probability of each row's draft, [B]; 0 for rows that repeat another one's draft.

    A wanted token that q cannot give is not drawn, and tokens below an end do not matter: of all
    rows with one draft the one counts whose wishes were met, with 0 where nothing was drawn.
    """
    weight = np.ones(len(wanted))
    if not wanted.shape[1]:
        return weight
    tokens, parent, valid = (np.asarray(x) for x in (draft.tokens, draft.parent, draft.valid))
    assert draft.logq is not None
    q = np.exp(np.asarray(draft.logq, float))
    rows = np.arange(len(wanted))
    left = q.sum(axis=2)  # mass at each parent that is still to be drawn from
    for node in range(1, tokens.shape[1]):
        token, above = tokens[:, node], parent[:, node]
        met = np.where(valid[:, node], token == wanted[:, node - 1], wanted[:, node - 1] == 0)
        share = q[rows, above, token] / np.where(valid[:, node], left[rows, above], 1)
        weight *= met * np.where(valid[:, node], share, 1)
        if not getattr(drafter, "replace", True):
            left[rows, above] -= valid[:, node] * q[rows, above, token]
    return weight
