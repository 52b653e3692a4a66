"""The bytes that each token of a vocabulary adds to a text."""

import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

SPACE = "\u2581"
"""How sentencepiece spells a space inside a piece."""

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def byte_piece(token: str) -> bytes | None:
    """The byte that a piece such as `<0x0A>` stands for, or None."""
    match = _BYTE.fullmatch(token)
    return bytes([int(match[1], 16)]) if match else None


@functools.cache
def _byte_letters() -> dict[str, int]:
    """GPT-2's alphabet: a printable letter for each of the 256 bytes."""
    kept = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in kept]
    return {chr(b): b for b in kept} | {chr(256 + i): b for i, b in enumerate(others)}


def _letters_to_bytes(token: str) -> bytes:
    letters = _byte_letters()
    try:
        return bytes(letters[letter] for letter in token)
    except KeyError:
        return token.encode()


def decoder_bytes(
    path: Path, decoder: Mapping[str, Any] | None
) -> tuple[Callable[[str], bytes], int, bool]:
    """Reads the decoder of a `tokenizer.json`.

    Returns:
      A function from token to bytes; the leading spaces that decoding drops from a text; and
      whether added tokens are text as they are, not spelt in the letters of a byte level. Every
      other decoder runs over them too: Gemma adds runs of `▁`.

    Raises:
      ValueError: the decoder does more than join bytes (WordPiece's, for one, looks at
        neighbours).
    """
    if decoder is None:  # the library then joins tokens with spaces
        return (lambda token: b" " + token.encode()), 1, False
    steps = decoder.get("decoders", []) if decoder.get("type") == "Sequence" else [decoder]
    kinds = [step.get("type") for step in steps]
    replaced: list[tuple[str, str]] = []
    strip = 0
    for step, kind in zip(steps, kinds, strict=True):
        pattern = (step.get("pattern") or {}).get("String")
        if kind == "Replace" and pattern:
            replaced.append((pattern, str(step.get("content", ""))))
        elif kind == "Metaspace":
            replaced.append((step.get("replacement", SPACE), " "))
            strip += step.get("prepend_scheme", "always") != "never"
        elif kind == "Strip" and step.get("content") == " " and not step.get("stop"):
            strip += int(step.get("start", 0))
        elif kind not in ("ByteLevel", "ByteFallback", "Fuse"):
            raise ValueError(f"{path}: decoder {kind} is not supported: it does not join bytes")
    if "ByteLevel" in kinds:
        return _letters_to_bytes, strip, True

    def to_bytes(token: str) -> bytes:
        byte = byte_piece(token) if "ByteFallback" in kinds else None
        if byte is not None:
            return byte
        for old, new in replaced:
            token = token.replace(old, new)
        return token.encode()

    return to_bytes, strip, False
