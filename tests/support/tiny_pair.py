"""A random target and draft as Hugging Face folders, for tests that need no quality."""

import json
import shutil
from pathlib import Path

import jax
from tiny_tokenizers import sentencepiece_folder

from mtad_jax.checkpoints.hf import families
from mtad_jax.checkpoints.hf.write import write_hf

IDS_ONLY_VOCAB = 40


def write_llama(folder: Path, seed: int, vocab: int, *, tokenizer: Path | None = None) -> Path:
    """One random Llama of two layers; 256 positions, end token 2."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    params = families.model_of(config).init(jax.random.key(seed))
    write_hf(folder, params, config)
    if tokenizer:
        shutil.copy(tokenizer / "tokenizer.model", folder)
        settings = {"add_bos_token": True, "bos_token": "<s>", "eos_token": "</s>"}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def write_pair(folder: Path) -> tuple[Path, Path]:
    """A target and a draft that share a tokenizer."""
    tokenizer = sentencepiece_folder(folder / "tokenizer")
    vocab = 400
    return (
        write_llama(folder / "target", 0, vocab, tokenizer=tokenizer),
        write_llama(folder / "draft", 1, vocab, tokenizer=tokenizer),
    )


def write_ids_only_pair(folder: Path) -> tuple[Path, Path]:
    """A target and a draft without tokenizer files."""
    return (
        write_llama(folder / "target", 0, IDS_ONLY_VOCAB),
        write_llama(folder / "draft", 1, IDS_ONLY_VOCAB),
    )
