"""Compares the logits of a converted checkpoint with those of Hugging Face transformers."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from checkpoints_convert.gguf_file import open_gguf
from checkpoints_convert.gguf_llama import read_llama
from mtad_jax.checkpoints import load as checkpoint
from mtad_jax.checkpoints.hf.families import model_of
from mtad_jax.checkpoints.hf.read import open_folder
from mtad_jax.checkpoints.load import is_ours, read_metadata
from mtad_jax.errors import install_hint
from mtad_jax.models.linen import LinenLM
from mtad_jax.models.protocol import BoundLM
from mtad_jax.types import Array

_CHUNK = 256  # positions whose logits are held at once
_TAIL = 16  # positions compared at each length
_WORKING_BYTES = 1 << 30  # beside the weights: libraries, activations, logits of a chunk
_MEMINFO = Path("/proc/meminfo")  # of Linux


@dataclass(frozen=True)
class Row:
    """Agreement over the last positions of a prompt.

    Attributes:
      length: tokens in the prompt.
      max_abs: largest absolute difference of two logits.
      scale: largest absolute logit.
      top10: share of Hugging Face's ten best tokens that are among our ten best.
      kl: mean Kullback-Leibler divergence of ours from Hugging Face's, in nats.
    """

    length: int
    max_abs: float
    scale: float
    top10: float
    kl: float

    def passes(self, tolerance: float) -> bool:
        """Say whether the logits agree, up to `tolerance` times their largest (at least 1)."""
        near = self.max_abs <= tolerance * max(1.0, self.scale)
        return near and self.top10 >= 0.99 and self.kl <= tolerance  # NaN fails all three


def compare(
    source: str | Path, converted: str | Path, *, max_tokens: int = 2048, seed: int = 0
) -> list[Row]:
    """Run both models in float32 on the CPU over the same random tokens.

    One model is in memory at a time. The source's weights are first rounded to the dtype that was
    converted to. Our side reads the prompt in chunks through the cache, as decoding does.

    Args:
      source: the Hugging Face folder, or the GGUF file.
      converted: what `from_hf` or `from_gguf` made of it, or any folder that `checkpoint.load`
        opens.
      max_tokens: longest prompt; the model's positions bound it too.
      seed: of the tokens.

    Raises:
      ValueError: a folder cannot be opened, torch or transformers is missing, there is not enough
        memory, or the two have other vocabularies.
    """
    source, converted = Path(source), Path(converted)
    model = _check_source(source)
    longest = max(2, min(max_tokens, model.max_positions))
    tokens = np.random.default_rng(seed).integers(0, model.vocab_size, (1, longest))
    lengths = _lengths(longest)
    positions = [i for end in lengths for i in range(max(0, end - _TAIL), end)]
    theirs = _their_logits(source, tokens, positions, _stored_dtype(converted))
    loaded = checkpoint.load(converted, dtype=jnp.float32)
    if loaded.lm.model.vocab_size != model.vocab_size:
        rows = loaded.lm.model.vocab_size
        raise ValueError(f"{converted}: {rows} logits, {source} has {model.vocab_size}")
    ours = _our_logits(loaded.lm, tokens, positions)
    out, start = [], 0
    for end in lengths:
        stop = start + min(_TAIL, end)
        out.append(_row(end, theirs[start:stop], ours[start:stop]))
        start = stop
    return out


def table(rows: Sequence[Row], tolerance: float) -> str:
    """Return the rows as text, each with PASS or FAIL."""
    lines = [f"{'length':>7} {'max |diff|':>11} {'max |logit|':>11} {'top-10':>7} {'mean KL':>9}"]
    for row in rows:
        verdict = "PASS" if row.passes(tolerance) else "FAIL"
        lines.append(
            f"{row.length:7} {row.max_abs:11.2e} {row.scale:11.3g} {row.top10:7.2%} "
            f"{row.kl:9.1e}  {verdict}"
        )
    return "\n".join(lines)


def _check_source(source: Path) -> LinenLM:
    """Open the source before transformers does, whose own errors have many lines; its model."""
    if source.is_file():
        config, tensors = read_llama(open_gguf(source))
    else:
        folder = open_folder(source)
        config, tensors = folder.config, folder.tensors
    _check_memory(sum(4 * tensor.size for tensor in tensors.values()))
    return model_of(config)


def _lengths(longest: int) -> list[int]:
    """Return 1, 16, 128, 1024 as far as they go, and the longest."""
    return [n for n in (1, 16, 128, 1024) if n < longest] + [longest]


def _stored_dtype(converted: Path) -> str:
    if is_ours(converted):
        return read_metadata(converted).dtype
    return "mixed"  # a Hugging Face folder: compare its weights as they are


def _free_memory() -> int | None:
    """Return how many bytes of memory are free; None where the system does not say."""
    if _MEMINFO.exists():  # counts the page cache, which can be dropped, as available
        lines = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf, macOS not this name
        return None


def _check_memory(weights: int) -> None:
    need, free = weights + _WORKING_BYTES, _free_memory()
    if free is not None and need > free:
        raise ValueError(
            f"about {need / 1e9:.1f} GB of memory needed (float32), {free / 1e9:.1f} GB free: "
            "verify on a larger machine"
        )


def _their_logits(source: Path, tokens: np.ndarray, positions: list[int], dtype: str) -> np.ndarray:
    """Return transformers' logits at the positions, [len(positions), V]."""
    try:
        import torch
        from transformers import AutoModelForCausalLM
    except ImportError as error:
        raise ValueError(
            f"verify needs torch and transformers: {install_hint('convert')}"
        ) from error
    folder, how = (source.parent, {"gguf_file": source.name}) if source.is_file() else (source, {})
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, attn_implementation="eager", **how
    ).eval()
    with torch.no_grad():
        if dtype in ("bfloat16", "float16"):
            for parameter in model.parameters():
                parameter.copy_(parameter.to(getattr(torch, dtype)))
        keep = torch.tensor(positions)
        return model(torch.from_numpy(tokens), logits_to_keep=keep).logits[0].numpy()


def _our_logits(lm: BoundLM, tokens: np.ndarray, positions: list[int]) -> np.ndarray:
    """Return our logits at the positions, [len(positions), V]."""
    longest = tokens.shape[1]
    cache = lm.model.init_cache(1, longest, jnp.dtype(jnp.float32))
    wanted, out = np.array(positions), []
    for start in range(0, longest, _CHUNK):
        chunk = jnp.asarray(tokens[:, start : start + _CHUNK])
        logits, cache = _step(lm, chunk, start, cache)
        inside = wanted[(wanted >= start) & (wanted < start + chunk.shape[1])]
        out.append(np.asarray(logits[0])[inside - start])
    # Positions of short prompts overlap, so chunks bring them in sorted order, not in ours.
    order = np.argsort(np.argsort(wanted, kind="stable"), kind="stable")
    return np.concatenate([part for part in out if part.size])[order]


def _step(lm: BoundLM, chunk: Array, start: int, cache: Any) -> tuple[Array, Any]:
    at = jnp.full((1,), start, jnp.int32)
    positions = start + jnp.arange(chunk.shape[1])[None]
    return lm.model.apply(
        lm.params, chunk, positions=positions, write_at=at, prefix=at, window=None, cache=cache
    )


def _row(length: int, theirs: np.ndarray, ours: np.ndarray) -> Row:
    p, q = (_log_softmax(logits.astype(np.float64)) for logits in (theirs, ours))
    best = min(10, theirs.shape[1])
    a, b = (np.argsort(-logits, axis=1)[:, :best] for logits in (theirs, ours))
    shared = [len(set(x) & set(y)) / best for x, y in zip(a, b, strict=True)]
    kl = float(np.mean(np.sum(np.exp(p) * (p - q), axis=1)))
    return Row(
        length=length,
        max_abs=float(np.abs(theirs - ours).max()),
        scale=float(np.abs(theirs).max()),
        top10=math.fsum(shared) / len(shared),
        kl=kl,
    )


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits - logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
