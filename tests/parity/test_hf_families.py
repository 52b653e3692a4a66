"""Qwen, Mistral, SmolLM3 and Gemma against Hugging Face transformers, and their way back to it."""

import jax
import numpy as np
import pytest
from draft_shapes import each
from hf_families import MODELS, ONE_EACH
from hf_reference import (
    VOCAB,
    check_prefill_then_single_steps,
    check_whole_sequence,
    logits_of,
    make_pair,
    transformers,
)

from checkpoints_convert import engine
from mtad_jax import recipes
from mtad_jax.checkpoints import load as checkpoint
from mtad_jax.decode.engine import generate
from mtad_jax.decode.warp import Warp
from mtad_jax.models.protocol import BoundLM
from mtad_jax.testing import check_causal_lm, check_strategy

pytestmark = pytest.mark.slow

PROMPTS = np.random.default_rng(5).integers(3, VOCAB, (2, 30))
LENGTHS = np.array([30, 17])


@pytest.fixture(scope="module", params=MODELS)
def pair(request, tmp_path_factory):
    """Return (our loaded model, tokens [2, LONGEST], transformers' logits)."""
    return make_pair(*MODELS[request.param], tmp_path_factory.mktemp("hf"))


def test_whole_sequence(pair):
    check_whole_sequence(*pair)


def test_prefill_then_single_steps(pair):
    check_prefill_then_single_steps(*pair)


def test_there_and_back(pair, tmp_path):
    """Through our format and back: transformers opens it and computes the same to the last bit."""
    loaded, tokens, theirs = pair
    engine.from_hf(loaded.folder, tmp_path / "ours")
    engine.to_hf(tmp_path / "ours", tmp_path / "hf")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "hf" / name).read_bytes() == (loaded.folder / name).read_bytes()
    again = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "hf", attn_implementation="eager"
    )
    np.testing.assert_array_equal(logits_of(again.eval(), tokens), theirs)
    own = checkpoint.load(tmp_path / "ours")
    assert own.lm.model == loaded.lm.model
    jax.tree.map(np.testing.assert_array_equal, own.lm.params, loaded.lm.params)


@pytest.fixture(scope="module", params=each(ONE_EACH, among=("mistral", "gemma3")))
def two(request, tmp_path_factory):
    """A target of each family, and a draft that agrees with it now and then."""
    return near_pair(request.param, tmp_path_factory.mktemp("hf"))


def near_pair(name: str, folder) -> tuple[BoundLM, BoundLM]:
    target = make_pair(*MODELS[name], folder)[0].lm
    noise = np.random.default_rng(0)

    def near(x):
        return x + 0.03 * noise.standard_normal(x.shape).astype(np.float32)

    return target, target.replace(params=jax.tree.map(near, target.params))


def test_keeps_the_promises_of_a_causal_lm(two):
    check_causal_lm(two[0])


@pytest.mark.parametrize("rule", ["speculative", "mmtad"])
def test_drafts_change_nothing_about_greedy_text(rule, two):
    """A chain and a tree, at prompts longer than every window."""
    target, draft = two
    call = {"max_new_tokens": 24, "warp": Warp(temperature=0.0)}
    want = generate(target, PROMPTS, LENGTHS, strategy=recipes.greedy(), **call)
    strategy = {"speculative": recipes.speculative(3), "mmtad": recipes.mmtad(3, 3)}[rule]
    got = generate(target, PROMPTS, LENGTHS, strategy=strategy, draft=draft, **call)
    np.testing.assert_array_equal(got.tokens, want.tokens)
    assert got.stats().accepted.sum() > 0


@pytest.mark.heavy
def test_conforms_with_windows_under_a_tree_rule(tmp_path):
    check_strategy(recipes.mmtad(2, 3), *near_pair("gemma3", tmp_path))
