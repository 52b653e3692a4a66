"""Log-likelihoods of continuations against whole runs of the model without a cache."""

import hf_folders
import jax
import numpy as np
import pytest

from mtad_jax.checkpoints.hf.families import model_of
from mtad_jax.integrations.lm_eval.scoring import log_likelihoods
from mtad_jax.models.protocol import BoundLM

LONGEST, VOCAB = 150, 40  # 150 tokens are padded to 192, past the last position: two chunks


@pytest.fixture(scope="module")
def lm() -> BoundLM:
    config = hf_folders.OPT | {"max_position_embeddings": LONGEST}  # has a table of positions
    params = jax.tree.map(lambda x: 0.4 * x, hf_folders.random_params(config))
    return BoundLM(params, model_of(config))


def plain(lm: BoundLM, pairs) -> list[tuple[float, bool]]:
    """What one run of all texts says, each token by token on the host in float64."""
    texts = [(context + continuation)[-(LONGEST + 1) :] for context, continuation in pairs]
    tokens = np.array([text[:-1] + [0] * (LONGEST + 1 - len(text)) for text in texts])
    logits = np.asarray(jax.jit(lm.model.train_logits)(lm.params, tokens), np.float64)
    found = []
    for text, own, (_, continuation) in zip(texts, logits, pairs, strict=True):
        last = len(text) - 1
        places = range(last - len(continuation), last)
        total = 0.0
        for place, token in zip(places, continuation, strict=True):
            total += np.log(np.exp(own[place] - own[place, token]).sum())
        found.append((-total, [own[place].argmax() for place in places] == continuation))
    return found


def test_every_pair_is_scored_as_if_alone(lm):
    rng = np.random.default_rng(0)
    sizes = [(5, 3), (120, 30), (149, 1), (170, 9), (1, 150), (60, 1), (1, 1)]
    pairs = [tuple(rng.integers(0, VOCAB, n).tolist() for n in size) for size in sizes]
    context = pairs[0][0]
    pairs += [(context, [token]) for token in range(VOCAB)]  # one of them is what greedy says
    pairs += [(context[:2], [*context[2:], 7]), pairs[0]]  # the same text, divided elsewhere
    found = list(log_likelihoods(lm, pairs, longest=LONGEST, batch_size=3))
    assert sorted(index for index, *_ in found) == list(range(len(pairs)))
    wanted_all = plain(lm, pairs)
    for index, logp, greedy in found:
        wanted, wanted_greedy = wanted_all[index]
        assert logp == pytest.approx(wanted, abs=1e-3), index
        assert greedy == wanted_greedy
    assert sum(greedy for *_, greedy in found) == 1


def test_nothing_is_scored_in_no_time(lm):
    assert list(log_likelihoods(lm, [], longest=LONGEST, batch_size=3)) == []


@pytest.mark.parametrize(
    ("context", "continuation", "message"),
    [
        ([1], [], "has 0 tokens, which must be from 1 to max_length=150"),
        ([1], [2] * 151, "has 151 tokens"),
        ([1], [40], r"holds an id outside \[0, 39\]"),
    ],
)
def test_what_cannot_be_scored(lm, context, continuation, message):
    pairs = [([1], [2]), (context, continuation)]
    with pytest.raises(ValueError, match=f"request 1.*{message}"):
        list(log_likelihoods(lm, pairs, longest=LONGEST, batch_size=3))
