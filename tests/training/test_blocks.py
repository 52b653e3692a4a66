"""Blocks drafted in training are those of MTAD, and take in the text that they follow, no more."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import train_target
from experiments.training import losses
from experiments.training.blocks import (
    Blocks,
    Text,
    block_logits,
    choose_places,
    draft_blocks,
    read_blocks,
)
from experiments.training.data import Corpus
from experiments.training.losses import Places
from experiments.training.objective import Objective, read_objective
from mtad_jax import Warp, generate, recipes
from mtad_jax.models.linen import LinenLM
from mtad_jax.models.llama import Llama, LlamaConfig
from mtad_jax.models.mistral import Mistral, MistralConfig
from mtad_jax.models.protocol import BoundLM

pytestmark = pytest.mark.slow

VOCAB, END = 7, 2
SHAPE = {
    "vocab_size": VOCAB, "embed_dim": 16, "mlp_dim": 16, "num_layers": 1, "num_heads": 2,
    "num_kv_heads": 1, "head_dim": 8, "max_positions": 64, "norm_eps": 1e-5,
    "rope_theta": 100.0, "rope_scaling": None, "tied_head": False,
}  # fmt: skip
BLOCKS = Blocks(depth=3, width=2, draw="search", tau=0.8, softness=0.5, anchors=4)
DOCUMENTS = [[1, 3, 4, 5, 3], [1, 6, 5, 4]]  # in one row, with padding after them
TEXTS = [(0, place) for place in range(4)] + [(1, place) for place in range(3)]
"""Document and place of everything that a block can follow."""


def bold(model, seed):
    """A model of few doubts, so that its beams are no matter of rounding."""
    params = model.init(jax.random.key(seed))
    return BoundLM(jax.tree.map(lambda x: 8 * x if x.ndim > 1 else x, params), model)


@pytest.fixture(scope="module")
def pair():
    """A target that sees three positions, and a draft that sees all."""
    target = LinenLM(Mistral(MistralConfig(**SHAPE, window=3)))
    draft = LinenLM(Llama(LlamaConfig(**SHAPE, attention_bias=False, mlp_bias=False)))
    return bold(target, 0), bold(draft, 1)


@pytest.fixture(scope="module")
def batch():
    """Both documents in one row of 11 tokens, and in another the second alone."""
    tokens = np.array([token for document in DOCUMENTS for token in document])
    corpus = Corpus(tokens, np.ones(len(tokens), bool))
    rows = [np.array([[0, 5], [5, 9]]), np.array([[5, 9]])]
    return corpus.batch(rows, 12, 1.0)


def text_of(batch, at):
    return Text(batch.tokens[:, :-1], batch.documents[:, :-1], at)


def score_of(lm):
    return functools.partial(lm.model.window_logits, lm.params)


AT = jnp.asarray([[0, 1, 2, 3, 5, 6, 7], [0, 1, 2, 0, 1, 2, 0]])
"""All of `TEXTS` in the first row; of the second row the lone document's."""


@pytest.fixture(scope="module")
def drafted(pair, batch):
    draft = jax.jit(
        lambda at: draft_blocks(score_of(pair[1]), text_of(batch, at), BLOCKS, (END,), None)
    )
    return jax.tree.map(np.asarray, draft(AT))


def prompts():
    return [DOCUMENTS[document][: place + 1] for document, place in TEXTS]


def decoded(pair, strategy):
    """The engine's first round on every text, at temperature 1 and nothing cut."""
    ids = prompts()
    length = [len(prompt) for prompt in ids]
    padded = [prompt + [0] * (5 - len(prompt)) for prompt in ids]
    result = generate(
        pair[0], padded, length, strategy=strategy, draft=pair[1], warp=Warp(),
        max_new_tokens=8, eos_id=END,
    )  # fmt: skip
    return np.asarray(result.tokens), [row[0] for row in result.blocks()]


def test_blocks_are_the_engines_own_candidates(pair, drafted):
    """A threshold that lets all pass shows the whole of each candidate."""
    tokens, rounds = decoded(pair, recipes.mtad(depth=3, width=2, tau=1e-30))
    ended = 0
    for row, first in enumerate(rounds):
        length = drafted.inside[0, row].sum()
        assert first.accepted == length
        assert tokens[row, :length].tolist() == drafted.tokens[0, row, :length].tolist()
        ended += length < 3
    assert 0 < ended < len(rounds)  # the text's end is among what is drafted
    alone = [4, 5, 6, 4, 5, 6, 4]  # the same document in a row of its own
    np.testing.assert_array_equal(drafted.tokens[1], drafted.tokens[0, alone])


def test_logits_are_those_of_each_text_with_its_block_alone(pair, batch, drafted):
    """With a sliding window, too; and those of the text are as without blocks."""
    block = jnp.asarray(drafted.tokens)
    for lm in pair:
        plain = lm.model.train_logits(lm.params, batch.tokens[:, :-1], batch.documents[:, :-1])
        text, after = block_logits(score_of(lm), text_of(batch, AT), block)
        np.testing.assert_allclose(text, plain, atol=1e-4)
        whole = np.zeros((len(TEXTS), 8), int)
        for row, prompt in enumerate(prompts()):
            whole[row, : len(prompt) + 3] = [*prompt, *drafted.tokens[0, row]]
        alone = lm.model.train_logits(lm.params, jnp.asarray(whole))
        for row, prompt in enumerate(prompts()):
            last = len(prompt) - 1
            np.testing.assert_allclose(after[0, row], alone[row, last : last + 3], atol=1e-4)


def test_accepted_is_what_mtad_takes_in_one_round(pair, batch, drafted):
    logq, logp = (
        jax.nn.log_softmax(
            block_logits(score_of(lm), text_of(batch, AT), jnp.asarray(drafted.tokens))[1]
        )
        for lm in pair[::-1]
    )
    taken = set()
    for tau in (0.05, 0.8):
        _, rounds = decoded(pair, recipes.mtad(depth=3, width=2, tau=tau))
        for row, first in enumerate(rounds):
            weight = jnp.zeros(drafted.tokens.shape).at[0, row].set(1.0)
            places = Places(
                logq, logp, jnp.asarray(drafted.tokens), weight, jnp.asarray(drafted.inside)
            )
            rule = dataclasses.replace(BLOCKS, tau=tau).rule
            assert float(losses.accepted(places, rule)) == first.accepted
            taken.add(first.accepted)
    assert len(taken) > 2


def test_one_sampled_beam_has_the_models_own_law(pair, batch):
    """Width 1 and draw="sample": tokens of the draft itself, so that losses are on its policy."""
    blocks = dataclasses.replace(BLOCKS, depth=2, width=1, draw="sample")
    text = text_of(batch, AT[:, :1])
    draw = jax.jit(
        jax.vmap(lambda key: draft_blocks(score_of(pair[1]), text, blocks, (END,), key).tokens)
    )
    found = np.asarray(draw(jax.random.split(jax.random.key(0), 4000)))[:, 0, 0]
    lm = pair[1]
    first = jax.nn.softmax(lm.model.train_logits(lm.params, batch.tokens[:1, :1])[0, 0])
    likeliest = int(np.argmax(first.at[END].set(0)))
    two = jnp.asarray([[1, likeliest]])
    second = jax.nn.softmax(lm.model.train_logits(lm.params, two)[0, 1])
    for law, tokens in ((first, found[:, 0]), (second, found[found[:, 0] == likeliest, 1])):
        share = np.bincount(tokens, minlength=VOCAB) / len(tokens)
        np.testing.assert_allclose(share, law, atol=4 * np.sqrt(0.25 / len(tokens)))


def test_places_are_drawn_by_weight_and_never_twice():
    weight = jnp.asarray([[0.0, 1.0, 0.1, 1.0, 0.0, 0.1]])
    draw = jax.jit(jax.vmap(lambda key: choose_places(weight, 5, key)))
    at, weighs = map(np.asarray, draw(jax.random.split(jax.random.key(0), 500)))
    assert (weighs[:, 0].sum(1) == 4).all()
    assert {tuple(sorted(row[:4])) for row in at[:, 0].tolist()} == {(1, 2, 3, 5)}
    first = np.bincount(at[:, 0, 0], minlength=6) / 500
    np.testing.assert_allclose(first, [0, 1 / 2.2, 0.1 / 2.2, 1 / 2.2, 0, 0.1 / 2.2], atol=0.09)


def objective(target, vocab=VOCAB, **weights):
    weights = weights or dict.fromkeys(losses.LOSSES, 1.0)
    return Objective(weights, BLOCKS, target, vocab, (END,))


def padded(lm, rows, seed):
    """The same model with more rows, of arbitrary numbers, in its token table and its head."""
    model = LinenLM(
        lm.model.module.clone(config=dataclasses.replace(lm.model.config, vocab_size=rows))
    )
    params = jax.tree.map(lambda x: x, lm.params)
    noise = 9 * jax.random.normal(jax.random.key(seed), (rows, SHAPE["embed_dim"]))
    params["embed"] = {"table": noise.at[:VOCAB].set(params["embed"]["table"])}
    params["head"] = {"kernel": noise.T.at[:, :VOCAB].set(params["head"]["kernel"])}
    return BoundLM(params, model, VOCAB)


def test_padded_rows_count_nowhere(pair, batch):
    """Target and draft of one tokenizer, padded to different sizes: every loss is the same."""
    found = []
    for target, draft in (pair, (padded(pair[0], 9, 3), padded(pair[1], 12, 4))):
        aim = objective(target)
        measure = jax.jit(
            lambda p, t, aim=aim, draft=draft: aim.measure(
                draft.model, p, t, batch, jax.random.key(0)
            )
        )
        found.append(measure(draft.params, target.params))
    for name, number in found[0].items():
        assert float(found[1][name]) == pytest.approx(float(number), rel=1e-4), name
    assert {"overlap", "accepted", *losses.LOSSES} == set(found[0])
    assert float(found[0]["overlap"]) == pytest.approx(1 - float(found[0]["tv"]), rel=1e-5)


def test_no_gradient_goes_to_the_target_or_through_the_choice(pair, batch):
    """The gradient of a block's loss is that at tokens that were fixed before."""
    aim, (target, draft) = objective(pair[0], block=1.0), pair
    key = jax.random.key(5)

    def total(params):
        return aim.total(aim.measure(draft.model, params, target.params, batch, key))

    place_key, draw_key = jax.random.split(key)
    at, weighs = choose_places(batch.weight, BLOCKS.anchors, place_key)
    text = text_of(batch, at)
    block = draft_blocks(score_of(draft), text, BLOCKS, (END,), draw_key)

    def fixed(params):
        score = functools.partial(draft.model.window_logits, params)
        logq = jax.nn.log_softmax(block_logits(score, text, block.tokens)[1])
        logp = jax.nn.log_softmax(block_logits(score_of(target), text, block.tokens)[1])
        weight = (weighs[..., None] & block.inside).astype(jnp.float32)
        places = Places(logq, logp, block.tokens, weight, block.inside)
        return losses.block_depth(places, BLOCKS.rule)

    got, wanted = jax.jit(jax.grad(total))(draft.params), jax.jit(jax.grad(fixed))(draft.params)
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(wanted)) > 1e-3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, wanted)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 0}, "config.block.depth=0 must be >= 1"),
        ({"width": 8}, "config.block.width=8 must be from 1 to the vocabulary's 7"),
        ({"anchors": 0}, "config.block.anchors=0 must be >= 1"),
        ({"softness": 0.0}, "config.block.softness=0.0 must be above 0"),
        ({"tau": 0.0}, "config.block: tau=0.0 must be > 0"),
        ({"draw": "all"}, "config.block: draw='all' must be search or sample"),
        ({"deep": 3}, "config.block: .*'deep'"),
    ],
)
def test_a_section_that_cannot_be_is_one_line(change, message):
    section = dict(train_target.get_config().block) | change
    with pytest.raises(ValueError, match=message) as error:
        read_blocks(section, VOCAB)
    assert "\n" not in str(error.value)


def test_what_does_not_go_together_is_one_line(pair):
    config = train_target.get_config()
    config.phases = ((1, 2, 8),)
    for given, rows, target, message in (
        ((("kl", 1.0),), VOCAB, None, "--target goes with losses that compare"),
        ((("cross_entropy", 1.0),), VOCAB, pair[0], "config.losses has cross_entropy"),
        ((("tv", 1.0),), VOCAB - 1, pair[0], "config.model.vocab_size=6 must be >= 7"),
        ((("block", 1.0),), VOCAB, pair[0], "config.block.anchors=16 must be <= 8"),
    ):
        config.losses = given
        with pytest.raises(ValueError, match=message) as error:
            read_objective(config, rows, target, (END,))
        assert "\n" not in str(error.value)
