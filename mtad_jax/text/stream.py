"""Text while it is generated, and stop strings that cut text and tokens together."""

import codecs
from collections.abc import Iterable, Sequence

from mtad_jax.text.tokenizer import Tokenizer

__all__ = ["StopTrimmer", "StreamDecoder", "find_stop", "tokens_covering", "trim_at_stop"]

_utf8_decoder = codecs.getincrementaldecoder("utf-8")


class StreamDecoder:
    """Decodes a continuation piece by piece, each token once.

    The pieces joined are `tokenizer.decode(ids, skip_special, continuation=continuation)`, however
    the ids were split. Half a character is held back until its other bytes arrive.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, continuation: bool = True, skip_special: bool = True
    ):
        """Starts a text.

        Args:
          tokenizer: what made the ids.
          continuation: the ids follow a prompt, so that a leading space is part of them.
          skip_special: leave out start, end and other special tokens.
        """
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._spaces_to_drop = 0 if continuation else tokenizer.leading_spaces
        self._utf8 = _utf8_decoder(errors="replace")

    def push(self, ids: Iterable[int]) -> str:
        """Takes more token ids and returns the text that became final."""
        data = b"".join(self._tokenizer.token_bytes(i, self._skip_special) for i in ids)
        while self._spaces_to_drop and data:
            if not data.startswith(b" "):
                self._spaces_to_drop = 0
                break
            data = data[1:]
            self._spaces_to_drop -= 1
        return self._utf8.decode(data)

    def pending(self) -> str:
        """What `flush` would return, without ending the text."""
        return self._utf8.getstate()[0].decode("utf-8", errors="replace")

    def flush(self) -> str:
        """Ends the text: a character still incomplete becomes U+FFFD."""
        return self._utf8.decode(b"", final=True)


def tokens_covering(
    tokenizer: Tokenizer,
    ids: Sequence[int],
    text_length: int,
    *,
    continuation: bool = True,
    skip_special: bool = True,
) -> int:
    """How many tokens make up the first `text_length` characters of a decoded text.

    It is the smallest n such that `decode(ids[:n])` begins with those characters: every token kept
    adds to them, save tokens without text among them, and the last one may reach past them.

    Raises:
      ValueError: the text of `ids` is shorter than `text_length`.
    """
    wanted = tokenizer.decode(ids, skip_special, continuation=continuation)[:text_length]
    if len(wanted) < text_length:
        raise ValueError(f"the tokens hold {len(wanted)} characters, not {text_length}")
    stream = StreamDecoder(tokenizer, continuation=continuation, skip_special=skip_special)
    final = 0
    for count, index in enumerate(ids):
        # A byte that is no UTF-8 counts as soon as it decodes to what is wanted, not only when the
        # next token, which may belong to the stop string, proves it wrong.
        pending = stream.pending()
        if final + len(pending) >= text_length and wanted[final:] == pending[: text_length - final]:
            return count
        final += len(stream.push([index]))
        if final >= text_length:
            return count + 1
    return len(ids)


def find_stop(text: str, stops: Iterable[str]) -> int | None:
    """Index where the stop string found first begins, or None.

    First is the one that ends first, the longer of two that end together. Reading the text letter
    by letter gives the same answer, so it does not depend on how many tokens one step brings.

    Raises:
      ValueError: a stop string is empty.
    """
    found = _find_stop(text, list(stops))
    return found[0] if found else None


def _find_stop(text: str, stops: list[str]) -> tuple[int, str] | None:
    if "" in stops:
        raise ValueError("a stop string must not be empty")
    hits = [(at, stop) for stop in stops if (at := text.find(stop)) >= 0]
    return min(hits, key=lambda hit: (hit[0] + len(hit[1]), hit[0]), default=None)


class StopTrimmer:
    """Streams text up to the first stop string, and says which tokens belong to it.

    Stop strings are looked for in the text with its special tokens, which are then left out of what
    is shown: `<|im_end|>` ends a text as Hugging Face's `stop_strings` does. Text that may turn out
    to begin a stop string is held back, so nothing returned is ever taken back. Tokens after the
    stop string are ignored, those of the same step included.

    Attributes:
      stop: the stop string that was found, or None so far.
      kept_tokens: tokens that belong to the text: all of them until a stop string is found, then
        `tokens_covering` the text before it. Ids, log-probabilities and counters are cut there.
      parts: the text that the last call returned, by the tokens that it came from: the index of
        each (what ends a text belongs to the last one) and its part, which may be empty.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stops: Iterable[str] = (),
        *,
        continuation: bool = True,
        skip_special: bool = True,
    ):
        """Starts a text.

        Args:
          tokenizer: what made the ids.
          stops: stop strings, none of them empty.
          continuation: see `StreamDecoder`.
          skip_special: see `StreamDecoder`; of what is shown.

        Raises:
          ValueError: a stop string is empty.
        """
        self._stops = list(stops)
        find_stop("", self._stops)
        self._tokenizer = tokenizer
        self._continuation = continuation
        self._skip_special = skip_special
        self._searched = StreamDecoder(tokenizer, continuation=continuation, skip_special=False)
        self._shown = StreamDecoder(tokenizer, continuation=continuation, skip_special=skip_special)
        self._ids: list[int] = []
        # Each token's index and its part of the text searched and of that shown, held back so far.
        self._held: list[tuple[int, str, str]] = []
        self._searched_length = self._shown_length = 0  # characters released of both
        self.stop: str | None = None
        self.parts: list[tuple[int, str]] = []

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found."""
        return self.stop is not None

    @property
    def kept_tokens(self) -> int:
        """See the class."""
        return len(self._ids)

    def push(self, ids: Iterable[int]) -> str:
        """Takes more token ids and returns the text that is certain to stay."""
        self.parts = []
        if self.stopped:
            return ""
        for index in ids:
            read, seen = self._searched.push([index]), self._shown.push([index])
            self._held.append((len(self._ids), read, seen))
            self._ids.append(index)
        return self._release(final=False)

    def flush(self) -> str:
        """Ends the text and returns what was held back."""
        self.parts = []
        if self.stopped:
            return ""
        last = max(len(self._ids) - 1, 0)
        self._held.append((last, self._searched.flush(), self._shown.flush()))
        return self._release(final=True)

    def _release(self, *, final: bool) -> str:
        # Text released earlier cannot be the beginning of a stop string, so what is held is enough.
        text = "".join(searched for _, searched, _ in self._held)
        found = _find_stop(text, self._stops)
        if not found:
            return self._take(len(text) if final else len(text) - _overlap(text, self._stops))
        cut, self.stop = found
        before, piece = self._shown_length, self._take(cut)
        length, how = self._searched_length, {"continuation": self._continuation}
        kept = tokens_covering(self._tokenizer, self._ids, length, skip_special=False, **how)
        del self._ids[kept:]
        cuts_special = (
            self._skip_special and self._ids[-1:] and self._ids[-1] in self._tokenizer.special_ids
        )
        if cuts_special or len(self._tokenizer.decode(self._ids, False, **how)) == length:
            # No shown token is cut: the text is that of the tokens, half a character at their end
            # included.
            whole = self._tokenizer.decode(self._ids, self._skip_special, **how)[before:]
            if whole != piece:
                self.parts.append((max(kept - 1, 0), whole[len(piece) :]))
            return whole
        return piece

    def _take(self, length: int) -> str:
        """Releases this many characters of the text searched; returns what is shown of them."""
        self._searched_length += length
        for at, (index, read, seen) in enumerate(self._held):
            if len(read) > length:
                # Of a token that is cut, the end stays held: its beginning may be a space dropped.
                cut = max(len(seen) - (len(read) - length), 0)
                self.parts.append((index, seen[:cut]))
                self._held[: at + 1] = [(index, read[length:], seen[cut:])]
                break
            length -= len(read)
            self.parts.append((index, seen))
        else:
            self._held = []
        piece = "".join(seen for _, seen in self.parts)
        self._shown_length += len(piece)
        return piece


def _overlap(text: str, stops: list[str]) -> int:
    """Length of the longest end of `text` that begins a stop string."""
    longest = min(len(text), max(map(len, stops), default=1) - 1)
    ends = range(longest, 0, -1)
    return next((n for n in ends if any(s.startswith(text[-n:]) for s in stops)), 0)


def trim_at_stop(
    tokenizer: Tokenizer, ids: Sequence[int], stops: Iterable[str]
) -> tuple[str, int, str | None]:
    """Text of a finished continuation before its first stop string.

    Returns:
      The text, the number of tokens that belong to it, and the stop string (None where there is
      none: the whole text and all tokens).

    Raises:
      ValueError: a stop string is empty.
    """
    trimmer = StopTrimmer(tokenizer, stops)
    text = trimmer.push(ids) + trimmer.flush()
    return text, trimmer.kept_tokens, trimmer.stop
