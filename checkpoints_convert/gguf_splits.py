"""How byte-level tokenizers split a text before they merge, by llama.cpp's names.

Source: the published `tokenizer.json` of SmolLM2, Llama 3 and Mistral Nemo; the names and what they
imply: llama.cpp's `llama-vocab.cpp`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tokenizers as hf

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Split:
    """What a name implies.

    Attributes:
      digits: every digit is a part of its own.
      pattern: of a part; None: GPT-2's.
      whole: a part that is a token is not built by merges.
      starts: a text gets a start token unless the file says otherwise.
    """

    digits: bool = False
    pattern: str | None = None
    whole: bool = False
    starts: bool = False

    def splitters(self) -> list[Any]:
        """Return the steps of the library's that do it."""
        steps: list[Any] = []
        if self.digits:
            steps.append(hf.pre_tokenizers.Digits(individual_digits=True))
        if self.pattern is not None:
            steps.append(hf.pre_tokenizers.Split(hf.Regex(self.pattern), "isolated"))
        plain = self.pattern is None
        return [*steps, hf.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=plain)]


_SMOLLM = Split(digits=True)
_LLAMA_BPE = Split(pattern=_LLAMA3, whole=True, starts=True)

SPLITS: Mapping[str, Split] = {
    "gpt-2": Split(),
    **dict.fromkeys(("smollm", "starcoder", "refact", "codeshell", "command-r"), _SMOLLM),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3"), _LLAMA_BPE),
    "tekken": Split(pattern=_TEKKEN, whole=True, starts=True),
}
"""By `tokenizer.ggml.pre`."""
