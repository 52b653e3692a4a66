"""Writes a sentencepiece `tokenizer.model` out of pieces with scores.

Its library reads such files and trains them, but does not write them; the format is a small
protobuf message.

Source: https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto
"""

import struct
from collections.abc import Mapping, Sequence

import sentencepiece

from mtad_jax.errors import one_line

UNKNOWN, CONTROL, USER_DEFINED, BYTE = 2, 3, 4, 6
"""Types of pieces, as far as they are not ordinary (1) or unused (5); GGUF's are the same."""

# Numbers of the fields.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_PIECE, _SCORE, _TYPE = 1, 2, 3
_MODEL_TYPE, _VOCAB_SIZE, _BYTE_FALLBACK = 3, 4, 35
_ROLES = {
    "unk_token": (40, 45),
    "bos_token": (41, 46),
    "eos_token": (42, 47),
    "pad_token": (43, 48),
}
_NAME, _DUMMY_PREFIX, _REMOVE_SPACES, _ESCAPE_SPACES = 1, 3, 4, 5
_BPE = 2
_VARINT, _LENGTH, _FIXED32 = 0, 2, 5  # protobuf's wire types


def model_proto(
    pieces: Sequence[tuple[str, float, int]], roles: Mapping[str, str], *, adds_space: bool
) -> bytes:
    """Return the bytes of a BPE model.

    Args:
      pieces: text, score and type of each, by id.
      roles: text by `bos_token` and so on; a role that is not there is none.
      adds_space: whether a text gets a space in front.

    Raises:
      ValueError: sentencepiece does not take such pieces.
    """
    message = b"".join(
        _bytes(_PIECES, _bytes(_PIECE, text.encode()) + _float(_SCORE, score) + _int(_TYPE, kind))
        for text, score, kind in pieces
    )
    ids = {text: index for index, (text, _, _) in enumerate(pieces)}
    trainer = _int(_MODEL_TYPE, _BPE) + _int(_VOCAB_SIZE, len(pieces))
    trainer += _int(_BYTE_FALLBACK, any(kind == BYTE for _, _, kind in pieces))
    for role, (index_field, text_field) in _ROLES.items():
        text = roles.get(role)
        trainer += _int(index_field, -1 if text is None else ids[text])
        trainer += b"" if text is None else _bytes(text_field, text.encode())
    # As Llama's own file: nothing is normalized, runs of spaces stay.
    normalizer = _bytes(_NAME, b"identity") + _int(_DUMMY_PREFIX, adds_space)
    normalizer += _int(_REMOVE_SPACES, False) + _int(_ESCAPE_SPACES, True)
    message += _bytes(_TRAINER, trainer) + _bytes(_NORMALIZER, normalizer)
    try:
        sentencepiece.SentencePieceProcessor(model_proto=message)
    except Exception as error:  # the library raises several kinds, RuntimeError among them
        raise ValueError(f"no sentencepiece model: {one_line(error)}") from error
    return message


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1  # a negative number is its two's complement
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _int(field: int, value: int) -> bytes:
    return _varint(field << 3 | _VARINT) + _varint(int(value))


def _float(field: int, value: float) -> bytes:
    return _varint(field << 3 | _FIXED32) + struct.pack("<f", value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | _LENGTH) + _varint(len(value)) + value
