"""What is asked of one next-token law, and what Hugging Face's own processors make of it."""

import dataclasses

import numpy as np
import torch
from transformers.generation import logits_process as hf

from mtad_jax.decode.warp import Warp


@dataclasses.dataclass(frozen=True)
class Asked:
    """Controls of a call; a field that is None or empty asks for nothing.

    penalty: of repetitions. banned: tokens that never come. least: tokens before an end may come.
    ends: end tokens. The others are a warp's.
    """

    penalty: float | None = None
    banned: tuple[int, ...] = ()
    least: int = 0
    ends: tuple[int, ...] = ()
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def settings(self) -> dict:
        """Return keywords of `generate`."""
        return {
            "warp": Warp(self.temperature, self.top_p, self.top_k, min_p=self.min_p),
            "repetition_penalty": self.penalty,
            "banned_ids": self.banned or None,
            "min_new_tokens": self.least,
            "eos_id": self.ends or None,
        }

    def processors(self, prompt: int) -> list:
        """Return Hugging Face's processors in the order of its `generate`."""
        found = []
        if self.penalty is not None:
            found.append(hf.RepetitionPenaltyLogitsProcessor(self.penalty))
        if self.banned:
            found.append(hf.NoBadWordsLogitsProcessor([[i] for i in self.banned]))
        if self.least and self.ends:
            found.append(
                hf.MinNewTokensLengthLogitsProcessor(int(prompt), self.least, list(self.ends))
            )
        if self.temperature not in (0.0, 1.0):
            found.append(hf.TemperatureLogitsWarper(self.temperature))
        if self.top_k and self.temperature:
            found.append(hf.TopKLogitsWarper(self.top_k))
        if self.top_p < 1 and self.temperature:
            found.append(hf.TopPLogitsWarper(self.top_p))
        if self.min_p and self.temperature:
            found.append(hf.MinPLogitsWarper(self.min_p))
        return found

    def logp(self, logits: np.ndarray, text: tuple[int, ...], prompt: int) -> np.ndarray:
        """Return log-probabilities [V] after `text`, of which `prompt` tokens are the prompt."""
        scores = torch.tensor(np.asarray(logits, np.float32))[None]
        ids = torch.tensor([text], dtype=torch.long)
        for process in self.processors(prompt):
            scores = process(ids, scores)
        if self.temperature == 0:
            best = int(scores[0].argmax())
            return np.where(np.arange(scores.shape[1]) == best, 0.0, -np.inf)
        return scores[0].log_softmax(-1).numpy()
