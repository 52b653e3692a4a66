"""Folders with a few settings changed at random: they load, or are refused in one line, quickly."""

import json
import time

import jax.numpy as jnp
import numpy as np
import pytest
from hf_folders import GEMMA3, LLAMA, OPT, QWEN2, random_tensors, write_folder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_tokenizers import byte_level_folder

from mtad_jax.checkpoints import load as checkpoint
from mtad_jax.checkpoints.hf.configs import LLAMA_FIELDS, OPT_FIELDS, TOKEN_FIELDS
from mtad_jax.checkpoints.hf.gemma import GEMMA3_FIELDS
from mtad_jax.checkpoints.hf.llama_like import QWEN2_FIELDS
from mtad_jax.text.settings import TOKENIZER_FIELDS

pytestmark = pytest.mark.slow

ROPE = {
    "rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
TOKENIZER = {"bos_token": "</s>", "eos_token": "</s>", "add_bos_token": True}
TOKENS = jnp.arange(8)[None]
LIMIT_S = 5.0  # of the processor; a case takes milliseconds, or 0.1 s where it loads

VALUES = st.sampled_from(
    [
        None, True, False, -1, 0, 1, 2, 3, 4, 5, 16, 24, 39, 41, 64, 1000, 4096, 2**24, 2147483648,
        2**63, 10**4000, -(2**63), 0.0, 0.5, 1.0, 1e-30, 1e300, float("nan"), float("inf"), "", "x",
        "40", "</s>", "llama", [], [1], [[]], ["</s>"], [2**40], {}, {"content": "</s>"},
        ["full_attention", "sliding_attention"], {"full_attention": ROPE},
        {"content": 1}, {"a": {"b": 1}}, {"0": {"content": "<s>"}}, ROPE, ROPE | {"factor": "4"},
    ]
)  # fmt: skip


def names(family_fields, more=()):
    rope = ("rope_theta", "rope_scaling", "rope_parameters", "original_max_position_embeddings")
    files = {
        "config.json": [*family_fields, *TOKEN_FIELDS, "model_type", *rope, *more],
        "generation_config.json": list(TOKEN_FIELDS),
        "tokenizer_config.json": list(TOKENIZER_FIELDS),
    }
    return st.sampled_from([(file, name) for file, names in files.items() for name in names])


@pytest.fixture(scope="module", params=["llama", "qwen2", "gemma3", "opt"])
def subject(request, tmp_path_factory):
    """A folder that loads, the contents of its JSON files, and what to change in them."""
    config = {
        "llama": LLAMA | {"rope_scaling": ROPE},
        "qwen2": QWEN2 | {"rope_scaling": YARN},
        "gemma3": GEMMA3 | {"rope_scaling": YARN},
        "opt": OPT,
    }[request.param]
    config = config | {"vocab_size": 400}
    folder = byte_level_folder(tmp_path_factory.mktemp(request.param) / "hf")
    write_folder(folder, config, random_tensors(config, np.float32))
    files = {
        "config.json": config,
        "generation_config.json": {"eos_token_id": [2]},
        "tokenizer_config.json": TOKENIZER,
    }
    fields = {
        "llama": LLAMA_FIELDS,
        "qwen2": QWEN2_FIELDS,
        "gemma3": [*GEMMA3_FIELDS, "rope_local_base_freq"],
        "opt": OPT_FIELDS,
    }[request.param]
    write(folder, files)
    assert checkpoint.load(folder).eos_ids == (2,)
    more = ("partial_rotary_factor", "quantization_config", "torch_dtype")
    return folder, files, names(fields, more)


def write(folder, files):
    for file, data in files.items():
        (folder / file).write_text(json.dumps(data))


def test_changed_settings_load_or_are_refused_in_one_line(subject):
    folder, files, some_names = subject
    counts = {"loaded": 0, "refused": 0}
    seen = set()

    @settings(
        max_examples=200, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.dictionaries(some_names, VALUES, min_size=1, max_size=3))
    def check(changes):
        changed = {file: dict(data) for file, data in files.items()}
        for (file, name), value in changes.items():
            changed[file][name] = value
        write(folder, changed)
        start = time.process_time()
        try:
            lm = checkpoint.load(folder).lm
            assert time.process_time() - start < LIMIT_S, changes
            if lm.model not in seen:
                seen.add(lm.model)
                assert np.isfinite(lm.model.train_logits(lm.params, TOKENS)).all()
            counts["loaded"] += 1
        except ValueError as error:
            counts["refused"] += 1
            text = str(error)
            assert "\n" not in text and len(text.replace(str(folder), "")) < 500, text
            named = [name for _, name in changes if name in text]
            assert named or "json" in text, text
            assert time.process_time() - start < LIMIT_S, changes

    check()
    assert min(counts.values()) > 5, counts  # both ways are tried
