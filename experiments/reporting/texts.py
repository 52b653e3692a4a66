"""A text with what the draft proposed and what the target added, readable without colours."""

import itertools
from collections.abc import Iterator, Sequence
from html import escape

from experiments.bench.summary import Row
from experiments.reporting.drawing import Line

LEGEND = (
    '<p class="tokens"><u>underlined</u> drafted tokens that were accepted; <b>boxed</b> tokens of '
    "the target's own; <sup>&minus;2</sup> so many drafted tokens of the round were rejected "
    "there.</p>"
)


def texts_html(lines: Sequence[Line], problems: int) -> str:
    """Return what each of one task's entries answered to its first problems."""
    ids = dict.fromkeys(str(row["id"]) for line in lines for row in line.entry.rows)
    parts = []
    for problem in itertools.islice(ids, problems):
        answers = [
            (line, row)
            for line in lines
            for row in line.entry.rows
            if str(row["id"]) == problem and row["sample"] == 0
        ]
        parts.append(f"<h3>Problem {escape(problem)}</h3>")
        if answers:
            prompt = escape(answers[0][1]["prompt"])
            parts.append(f"<details><summary>Prompt</summary><pre>{prompt}</pre></details>")
        parts += [_text(line, row) for line, row in answers]
    return "\n".join([LEGEND, *parts]) if parts else ""


def _text(line: Line, row: Row) -> str:
    stats = row["stats"]
    facts = [
        f"{len(row['tokens'])} tokens in {stats['rounds']} calls",
        f"{stats['accepted']} of {stats['drafted']} drafted tokens accepted",
        *(f"{name} {value:.3g}" for name, value in row["scores"].items() if value is not None),
    ]
    turn = f", turn {row['turn'] + 1}" if row["turn"] else ""
    marked = marked_html(row)
    if marked is None:
        facts.append("its tokens are not in the rows one by one, so none are marked")
    return (
        f'<div class="text"><h3>{line.number}&ensp;{escape(line.label)}{turn}</h3>'
        f"<small>{escape('; '.join(facts))}</small>"
        f'<p class="tokens">{escape(row["text"]) if marked is None else marked}</p></div>'
    )


def marked_html(row: Row) -> str | None:
    """Return a row's text with its tokens marked; None where the row has no text of each token."""
    pieces = row.get("pieces")
    if pieces is None or len(pieces) != len(row["tokens"]):
        return None
    kept = "".join(pieces)
    if not row["text"].startswith(kept):
        return None
    return "".join(_marked(row["blocks"], pieces)) + escape(row["text"][len(kept) :])


def _marked(blocks: Sequence[Sequence[int]], pieces: Sequence[str]) -> Iterator[str]:
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
            yield f"<{tag}>{escape(piece)}</{tag}>"
