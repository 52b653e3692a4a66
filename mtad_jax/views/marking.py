"""A text with what the draft proposed and what the target added, readable without colours."""

from collections.abc import Iterator, Sequence

from mtad_jax.views.escaping import safe

CSS = """
.tokens { white-space: pre-wrap; overflow-wrap: anywhere; margin: .4rem 0 0;
  font: .875rem/1.9 ui-monospace, monospace; }
small .tokens { font-size: .75rem; }
.tokens u { background: #2ea04340; text-decoration-thickness: 2px; text-underline-offset: 3px;
  margin-right: 1px; }
.tokens b { background: #db861d40; border: 1px solid; border-radius: 3px; font-weight: 600;
  margin-right: 1px; }
.tokens sup { color: #d0453b; line-height: 0; font-size: .7rem; font-weight: 600;
  margin-right: 2px; }
"""
"""How marked text looks on light and on dark paper: backgrounds let half of the paper through."""

LEGEND = (
    '<p class="tokens"><u>underlined</u> drafted tokens that were accepted; <b>boxed</b> tokens of '
    "the target's own; <sup>&minus;2</sup> so many drafted tokens of the round were rejected "
    "there.</p>"
)

Blocks = Sequence[Sequence[int]]
"""Rounds in order: [start, tokens, accepted] and, where known, tokens of the candidate."""


def marked_html(text: str, pieces: Sequence[str] | None, blocks: Blocks) -> str | None:
    """Return a text with its tokens marked.

    Args:
      text: the whole text; what it has after the pieces stays unmarked.
      pieces: what each token adds to it.
      blocks: its rounds.

    Returns:
      HTML; None where the text is not known token by token.
    """
    if pieces is None or len(pieces) != sum(count for _, count, *_ in blocks):
        return None
    kept = "".join(pieces)
    if not text.startswith(kept):
        return None
    return "".join(_marked(blocks, pieces)) + safe(text[len(kept) :])


def _marked(blocks: Blocks, pieces: Sequence[str]) -> Iterator[str]:
    """Yield the tokens of each round: accepted ones, how many were rejected, the target's own."""
    end = 0
    for _, count, accepted, *drafted in blocks:
        first, end = end, end + count
        yield from _tagged("u", pieces[first : first + accepted])
        if drafted and drafted[0] > accepted:
            yield f"<sup>&minus;{drafted[0] - accepted}</sup>"
        yield from _tagged("b", pieces[first + accepted : end])


def _tagged(tag: str, pieces: Sequence[str]) -> Iterator[str]:
    for piece in pieces:
        if piece:
            yield f"<{tag}>{safe(piece)}</{tag}>"
