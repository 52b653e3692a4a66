"""All drafts that a stochastic beam search can make, with their probabilities, by the engine.

The probabilities are those of the definition: texts drawn from q one after the other, without
replacement. The engine's noise is replaced by one under which it must make a given draft.
"""

import functools

import numpy as np
import reference as ref
from exact_start import first_step, looking_at, start_of
from jitted import jit_of_rule

_APART, _NEVER = 3.0, -1e4  # between two scores, and noise that no place survives

Draft = tuple[tuple[ref.Text, ...], ...]  # the paths of each depth, in draw order


def propose_beams(drafter, setting, texts: list[ref.Text]):
    """Make all drafts after each of `texts`, [B] in all, and run the target on them.

    Returns:
      weight: [B] the probability of each row's draft; 0 for rows that fill up.
      draft, logp, logits, controls: what the verifier of a round is given.
    """
    law, depth, width = setting.draft(), drafter.depth, drafter.width
    each = _most_drafts(setting.vocab, depth, width)
    weight, noise, wanted = [], [], []
    for text in texts:
        drafts = _drafts(law, text, depth, width, setting.ends)
        assert len(drafts) <= each
        for levels, chance in drafts.items():
            weight.append(chance)
            wanted.append(levels)
            noise.append(_noise_for(levels, law, text, width, setting.vocab))
        for _ in range(each - len(drafts)):
            weight.append(0.0)
            wanted.append(wanted[-1])
            noise.append(noise[-1])
    start = start_of(drafter, setting, texts, each)
    steps = [np.stack(step).astype(np.float32) for step in zip(*noise, strict=True)]
    draft, logp, logits = _propose(looking_at(drafter), *start, steps)
    for row, levels in enumerate(wanted):
        _check(draft, row, levels, width)
    return np.array(weight), draft, logp, logits, start[2]


def _drafts(
    law: ref.Law, text: ref.Text, depth: int, width: int, ends: frozenset
) -> dict[Draft, float]:
    """Every draft with its probability."""
    found: dict[Draft, float] = {}
    for levels, weight in ref.every(
        lambda chance: ref.drawn_beams(law, text, depth, width, ends, chance)
    ):
        key = tuple(map(tuple, levels))
        found[key] = found.get(key, 0.0) + weight
    return found


@functools.cache
def _most_drafts(vocab: int, depth: int, width: int) -> int:
    """How many drafts there can be: where all tokens have mass and none ends a text."""
    flat = np.full(vocab, -np.log(vocab))
    return len(_drafts(lambda text: flat, (), depth, width, frozenset()))


def _noise_for(
    levels: Draft, law: ref.Law, text: ref.Text, width: int, vocab: int
) -> list[np.ndarray]:
    """Noise [U, V] of each step that leads to `levels`; tokens of other paths get none."""
    scores = _scores(levels)
    noise, above = [], [()]
    for step, level in enumerate(levels):
        here = np.full((1 if step == 0 else width, vocab), _NEVER)
        for path in level:
            if len(path) == step + 1:  # a path that has ended is its own child, whatever its noise
                log_q = sum(law(text + path[:i])[token] for i, token in enumerate(path))
                here[above.index(path[:-1]), path[-1]] = scores[step][path] - log_q
        noise.append(here)
        above = list(level)
    return noise


def _scores(levels: Draft) -> list[dict[ref.Text, float]]:
    """Scores of the paths of each depth: they fall, and the largest child has its parent's."""
    low = _APART
    scores: list[dict[ref.Text, float]] = [{} for _ in levels]
    for step in reversed(range(len(levels))):
        below = scores[step + 1] if step + 1 < len(levels) else {}
        for path in levels[step]:
            children = [score for child, score in below.items() if child[: len(path)] == path]
            if not children:
                low -= _APART
            scores[step][path] = max(children, default=low)
    return scores


@jit_of_rule
def _propose(strategy, target, draft, controls, ids, length, steps):
    """Prefill and one step up to the verifier; the noise is that of `steps`."""
    left = iter(steps)

    def gumbel(keys, shape):
        noise = next(left)
        assert noise.shape == (len(keys), *shape), "the documented draws"
        return noise

    return first_step(strategy, target, draft, controls, ids, length, gumbel)


def _check(draft, row: int, levels: Draft, width: int) -> None:
    """The row's draft has the paths of `levels` at their places, and no others."""
    tokens, parent, valid = (np.asarray(x)[row] for x in (draft.tokens, draft.parent, draft.valid))
    paths: dict[int, ref.Text] = {0: ()}
    for node in range(1, len(tokens)):
        step, place = divmod(node - 1, width)
        path = levels[step][place] if place < len(levels[step]) else ()
        assert valid[node] == (len(path) == step + 1), (row, node, levels)
        if valid[node]:
            paths[node] = (*paths[parent[node]], int(tokens[node]))
            assert paths[node] == path, (row, node, levels)
