"""A Gemma 3 that sees images, of which we run the language model: as transformers does on texts."""

import json

import numpy as np
import pytest
from hf_families import MODELS
from hf_reference import VOCAB, check_whole_sequence, logits_of, randomize, transformers

from checkpoints_convert import engine
from mtad_jax.checkpoints import load as checkpoint
from mtad_jax.checkpoints.hf.families import model_of

pytestmark = pytest.mark.slow

VISION = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 14,
}  # fmt: skip
IMAGES = {"mm_tokens_per_image": 4, "image_token_index": VOCAB - 1}


@pytest.mark.parametrize("tied", [True, False])
def test_texts_and_the_way_back(tied, tmp_path):
    config = transformers.Gemma3Config(
        text_config=MODELS["gemma3"][1] | {"tie_word_embeddings": tied}, vision_config=VISION,
        tie_word_embeddings=tied, **IMAGES,
    )  # fmt: skip
    config._attn_implementation = "eager"
    theirs = transformers.Gemma3ForConditionalGeneration(config).float().eval()
    randomize(theirs)
    theirs.save_pretrained(tmp_path / "hf")
    tokens = np.random.default_rng(1).integers(0, VOCAB - 1, (2, 40))
    loaded = checkpoint.load(tmp_path / "hf")
    assert loaded.eos_ids == (2,)
    check_whole_sequence(loaded, tokens, logits_of(theirs, tokens))
    engine.from_hf(tmp_path / "hf", tmp_path / "ours")
    engine.to_hf(tmp_path / "ours", tmp_path / "back")
    for name in ("model.safetensors", "config.json"):  # what sees images is there again
        assert (tmp_path / "back" / name).read_bytes() == (tmp_path / "hf" / name).read_bytes()
    assert checkpoint.load(tmp_path / "ours").lm.model == loaded.lm.model


def test_published_configs_leave_out_what_is_the_default():
    """As google/gemma-3-4b-it's does."""
    text = {
        "hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
        "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    }  # fmt: skip
    config = {"model_type": "gemma3", "text_config": text, "eos_token_id": [1, 106]}
    theirs = transformers.Gemma3Config.from_dict(json.loads(json.dumps(config)))
    assert model_of(config) == model_of(theirs.text_config.to_dict()) == model_of(theirs.to_dict())
