"""What each entry answered, as text with its tokens marked."""

import itertools
from collections.abc import Sequence
from html import escape

from experiments.bench.summary import Row
from experiments.reporting.drawing import Line
from mtad_jax.views.marking import LEGEND, marked_html


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
    marked = marked_html(row["text"], row.get("pieces"), row["blocks"])
    if marked is None:
        facts.append("its tokens are not in the rows one by one, so none are marked")
    return (
        f'<div class="text"><h3>{line.number}&ensp;{escape(line.label)}{turn}</h3>'
        f"<small>{escape('; '.join(facts))}</small>"
        f'<p class="tokens">{escape(row["text"]) if marked is None else marked}</p></div>'
    )
