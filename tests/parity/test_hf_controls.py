"""Greedy under all controls against Hugging Face's `generate`, token for token."""

import numpy as np
import pytest

from mtad_jax import recipes
from mtad_jax.checkpoints import load as checkpoint
from mtad_jax.decode.engine import generate
from mtad_jax.decode.warp import Warp

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.slow

VOCAB, LENGTHS, NEW = 48, (1, 11, 5), 20
BANNED, PENALTY, LEAST = (3, 4, 5), 1.4, 9
CONFIG = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "eos_token_id": None,
    "bos_token_id": 0,
}
RULES = {
    "greedy": recipes.greedy(),
    "speculative": recipes.speculative(3),
    "mtad": recipes.mtad(3, 3),
    "mmtad": recipes.mmtad(3, 2),
    "beam": recipes.beam(2),
}


def random_model(layers: int, seed: int, folder):
    """A transformers Llama whose weights are large enough for one token to win clearly; ours."""
    config = transformers.LlamaConfig(**CONFIG, num_hidden_layers=layers)
    model = transformers.LlamaForCausalLM(config).float().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = 0.2 * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + noise if "norm" in name else noise)
    model.save_pretrained(folder)
    return model, checkpoint.load(folder).lm


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Target and draft, prompts, end tokens, and transformers' texts."""
    folder = tmp_path_factory.mktemp("hf")
    model, target = random_model(2, 1, folder / "target")
    _, draft = random_model(1, 2, folder / "draft")
    prompts = np.random.default_rng(0).integers(0, VOCAB, (len(LENGTHS), max(LENGTHS)))

    def texts(ends: list[int]) -> list[list[int]]:
        found = []
        for prompt, n in zip(prompts, LENGTHS, strict=True):
            ids = torch.tensor(prompt[None, :n])
            text = model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=NEW,
                pad_token_id=0, repetition_penalty=PENALTY, bad_words_ids=[[i] for i in BANNED],
                eos_token_id=ends, min_new_tokens=LEAST,
            )  # fmt: skip
            found.append(text[0, n:].tolist())
        return found

    free = texts([])
    # Two that come in them: one that may come early, and is then held back, and a late one.
    ends = [free[0][LEAST - 3], free[1][LEAST + 2]]
    return target, draft, prompts, ends, texts(ends), free


@pytest.mark.parametrize("name", RULES)
def test_greedy_with_controls_is_theirs(case, name):
    target, draft, prompts, ends, want, free = case
    assert want != free and min(map(len, want)) < NEW  # the controls and the ends act
    result = generate(
        target, prompts, LENGTHS, strategy=RULES[name], max_new_tokens=NEW, eos_id=ends,
        draft=draft if RULES[name].needs_draft else None, warp=Warp(temperature=0.0),
        repetition_penalty=PENALTY, banned_ids=BANNED, min_new_tokens=LEAST,
    )  # fmt: skip
    for row, text in enumerate(want):
        assert result.tokens[row, : int(result.length[row])].tolist() == text
