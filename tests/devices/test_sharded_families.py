"""Families with windows, head norms and norms after layers: one device and eight decode alike."""

from pathlib import Path

import numpy as np
import pytest
from hf_folders import GEMMA3, LLAMA, QWEN2, random_tensors, write_folder

from mtad_jax import Pipeline, recipes
from mtad_jax.decode.warp import Warp
from mtad_jax.devices.sharding import make_mesh

pytestmark = pytest.mark.slow

SIZES = {"vocab_size": 64, "hidden_size": 32, "num_attention_heads": 8, "num_key_value_heads": 2}
SIZES |= {"max_position_embeddings": 256, "num_hidden_layers": 3}
LENGTHS = (20, 1, 7, 12)
IDS = [np.random.default_rng(0).integers(3, 64, n).tolist() for n in LENGTHS]


def folder(path: Path, config: dict) -> Path:
    """A random model whose logits are of the size of a trained one's."""
    tensors = random_tensors(config)
    return write_folder(path, config, {name: 0.3 * x for name, x in tensors.items()})


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (GEMMA3 | SIZES, "data:2,model:4"),  # each key/value head on two devices
        pytest.param(
            GEMMA3 | SIZES | {"attention_bias": True}, "fsdp:4,model:2", marks=pytest.mark.heavy
        ),
        pytest.param(QWEN2 | SIZES, "data:2,fsdp:2,model:2", marks=pytest.mark.heavy),
    ],
    ids=["gemma3", "gemma3-fsdp", "qwen2"],
)
def test_one_device_and_eight_give_the_same_tokens(tmp_path, config, shape):
    target = folder(tmp_path / "target", config)
    draft = folder(tmp_path / "draft", LLAMA | SIZES)
    call = {
        "strategy": recipes.mmtad(2, 2), "max_new_tokens": 12, "seed": 3,
        "warp": Warp(temperature=1.0, top_k=10, top_p=0.9), "eos_id": (),
    }  # fmt: skip
    want, got = (
        Pipeline.load(target, draft, mesh=mesh)(IDS, **call) for mesh in (None, make_mesh(shape))
    )
    assert [row.tokens for row in got] == [row.tokens for row in want]
    for ours, theirs in zip(got, want, strict=True):
        np.testing.assert_allclose(ours.logp_raw, theirs.logp_raw, atol=1e-4)
