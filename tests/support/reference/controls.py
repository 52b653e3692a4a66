"""What the controls make of a model's logits, as a law of the whole context."""

import dataclasses
import math

import numpy as np

from reference.tables import TableModel
from reference.warping import Text, warp, warp_gap


@dataclasses.dataclass(frozen=True)
class ControlledLaw:
    """The law of the next token under the controls; `gap(text)` is `warp_gap` there.

    penalty: logits of tokens that the context holds are divided by it where positive, multiplied
    where negative; 1: none. banned: tokens that never come. min_length: contexts shorter than it
    are followed by no token of `ends`. Then the warp.
    """

    model: TableModel
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    penalty: float = 1.0
    banned: frozenset = frozenset()
    ends: frozenset = frozenset()
    min_length: int = 0

    def logits(self, context: Text) -> np.ndarray:
        """Logits after penalty, ban and minimum length, before the warp."""
        values = np.array(self.model.logits(context), dtype=float)
        for token in set(context):
            seen = values[token]
            values[token] = seen / self.penalty if seen > 0 else seen * self.penalty
        for token in self.banned:
            values[token] = -math.inf
        if len(context) < self.min_length:
            for token in self.ends:
                values[token] = -math.inf
        return values

    def __call__(self, context: Text) -> np.ndarray:
        setting = self.temperature, self.top_k, self.top_p
        return warp(self.logits(context), *setting, min_p=self.min_p)

    def gap(self, context: Text) -> float:
        """How far the support is from changing sides."""
        setting = self.temperature, self.top_k, self.top_p
        return warp_gap(self.logits(context), *setting, min_p=self.min_p)
