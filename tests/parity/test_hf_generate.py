"""Plain greedy against Hugging Face's `generate(do_sample=False)`, token for token, in f32."""

import numpy as np
import pytest
from hf_reference import randomize, torch, transformers

from mtad_jax import recipes
from mtad_jax.checkpoints import load as checkpoint
from mtad_jax.decode.engine import generate

pytestmark = pytest.mark.slow

TOLERANCE = 1e-4  # of log-probabilities; never to be relaxed
LENGTHS, NEW, VOCAB, POSITIONS = (1, 430, 17, 60), 24, 96, 512

_COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": POSITIONS,
}
_LLAMA = _COMMON | {"intermediate_size": 48, "num_key_value_heads": 2, "rms_norm_eps": 1e-5}
_WINDOWS = {"sliding_window": 20, "sliding_window_pattern": 2}
_OPT = _COMMON | {"ffn_dim": 48, "word_embed_proj_dim": 32}
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
    "rope_theta": 10000.0,
}
MODELS = {
    "llama_gqa": ("llama", _LLAMA | {"tie_word_embeddings": False}),
    "llama_llama3_tied": (
        "llama", _LLAMA | {"tie_word_embeddings": True, "rope_parameters": _LLAMA3}
    ),
    "mistral": ("mistral", _LLAMA | {"sliding_window": 20}),
    "gemma3": ("gemma3_text", _LLAMA | _WINDOWS | {"head_dim": 10, "query_pre_attn_scalar": 13}),
    "opt": ("opt", _OPT),
    "opt_350m": ("opt", _OPT | {"do_layer_norm_before": False, "word_embed_proj_dim": 20}),
}  # fmt: skip


def random_model(kind: str, config: dict):
    """A transformers model with weights large enough for one token to win clearly."""
    made = transformers.AutoConfig.for_model(kind, **config, eos_token_id=None, bos_token_id=0)
    model = transformers.AutoModelForCausalLM.from_config(made).float().eval()
    randomize(model, seed=1)
    return model


@pytest.fixture(scope="module", params=MODELS.values(), ids=MODELS)
def case(request, tmp_path_factory):
    """The transformers model, ours from its saved folder, prompts, and its greedy texts."""
    model = random_model(*request.param)
    folder = tmp_path_factory.mktemp("hf")
    model.save_pretrained(folder)
    prompts = np.random.default_rng(0).integers(0, VOCAB, (len(LENGTHS), max(LENGTHS)))
    texts = []
    for prompt, n in zip(prompts, LENGTHS, strict=True):
        ids = torch.tensor(prompt[None, :n])
        text = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=NEW,
            pad_token_id=0,
        )  # fmt: skip
        texts.append(text[0].numpy())
    return model, checkpoint.load(folder).lm, prompts, texts


def log_probs(model, text, n: int) -> np.ndarray:
    """transformers' log-probability of every token of `text` from the n-th on, in one call."""
    with torch.no_grad():
        logp = model(torch.tensor(text[None])).logits[0].log_softmax(-1).numpy()
    return logp[np.arange(n - 1, len(text) - 1), text[n:]]


def test_greedy_is_theirs(case):
    model, ours, prompts, texts = case
    result = generate(ours, prompts, LENGTHS, strategy=recipes.greedy(), max_new_tokens=NEW)
    for row, (n, text) in enumerate(zip(LENGTHS, texts, strict=True)):
        assert result.tokens[row].tolist() == text[n:].tolist(), f"prompt of {n} tokens"
        want = log_probs(model, text, n)
        np.testing.assert_allclose(result.trace.logp_raw[row], want, atol=TOLERANCE, rtol=0)


def test_greedy_stops_where_theirs_stops(case):
    model, ours, prompts, texts = case
    end = int(texts[1][LENGTHS[1] + 5])
    result = generate(
        ours, prompts, LENGTHS, strategy=recipes.greedy(), max_new_tokens=NEW, eos_id=end
    )
    for row, (n, text) in enumerate(zip(LENGTHS, texts, strict=True)):
        new = text[n:].tolist()
        want = new[: new.index(end) + 1] if end in new else new
        assert result.tokens[row, : len(want)].tolist() == want
        assert int(result.length[row]) == len(want)


def test_log_probabilities_of_samples_at_late_positions(case):
    """A sampled text goes where greedy never does."""
    model, ours, prompts, _ = case
    result = generate(ours, prompts, LENGTHS, strategy=recipes.sample(), max_new_tokens=NEW, seed=3)
    for row, n in enumerate(LENGTHS):
        text = np.concatenate([prompts[row, :n], np.asarray(result.tokens[row])])
        want = log_probs(model, text, n)
        np.testing.assert_allclose(result.trace.logp_raw[row], want, atol=TOLERANCE, rtol=0)
        np.testing.assert_allclose(result.trace.logp[row], want, atol=TOLERANCE, rtol=0)
