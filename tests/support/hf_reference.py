"""Random transformers models, whose logits ours are compared with in f32, late ones included."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtad_jax.checkpoints import load as checkpoint
from mtad_jax.checkpoints.load import LoadedModel

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TOLERANCE = 1e-4  # of logits up to 5; never to be relaxed
LONGEST = 96  # all positions that the models have
VOCAB = 50


def reference(kind: str, config: dict, seed: int = 0):
    """Return a transformers model whose every parameter matters: none is 0 or 1 throughout."""
    hf_config = transformers.AutoConfig.for_model(kind, **config)
    hf_config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(hf_config).float().eval()
    randomize(model, seed)
    return model


def randomize(model, seed: int = 0) -> None:
    """Give every parameter random values, of norms' scales around 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = 0.2 * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + noise if "norm" in name and "weight" in name else noise)


def logits_of(model, tokens: np.ndarray) -> np.ndarray:
    """Return transformers' logits of whole rows."""
    with torch.no_grad():
        return model(torch.from_numpy(tokens)).logits.numpy()


def make_pair(kind: str, config: dict, folder: Path) -> tuple[LoadedModel, np.ndarray, np.ndarray]:
    """Return (our model, loaded from what transformers wrote, tokens [2, LONGEST], its logits)."""
    theirs = reference(kind, config)
    theirs.save_pretrained(folder)
    tokens = np.random.default_rng(1).integers(0, VOCAB, (2, LONGEST))
    logits = logits_of(theirs, tokens)
    assert logits.std() > 0.1  # otherwise agreement would mean nothing
    return checkpoint.load(folder), tokens, logits


def assert_near(ours, theirs) -> None:
    """Assert that two arrays of logits agree to the tolerance."""
    difference = np.abs(np.asarray(ours) - theirs).max()
    assert difference <= TOLERANCE, f"{difference} at logits up to {np.abs(theirs).max()}"


def check_whole_sequence(loaded: LoadedModel, tokens: np.ndarray, theirs: np.ndarray) -> None:
    """Assert that a call without a cache gives their logits."""
    assert_near(jax.jit(loaded.lm.model.train_logits)(loaded.lm.params, tokens), theirs)


def check_prefill_then_single_steps(
    loaded: LoadedModel, tokens: np.ndarray, theirs: np.ndarray
) -> None:
    """Assert that a long prompt and then single steps give their logits."""
    lm = loaded.lm

    @jax.jit
    def step(chunk, start, cache):
        at = jnp.full((2,), start, jnp.int32)
        positions = at[:, None] + jnp.arange(chunk.shape[1])
        return lm.model.apply(
            lm.params, chunk, positions=positions, write_at=at, prefix=at, window=None, cache=cache
        )

    cache = lm.model.init_cache(2, LONGEST + 8, jnp.float32)  # the last 8 slots stay scratch
    prompt = LONGEST - 12
    logits, cache = step(tokens[:, :prompt], 0, cache)
    assert_near(logits, theirs[:, :prompt])
    for i in range(prompt, LONGEST):
        logits, cache = step(tokens[:, i : i + 1], i, cache)
        assert_near(logits[:, 0], theirs[:, i])
