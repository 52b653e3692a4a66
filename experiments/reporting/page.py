"""The page of a report: one file of HTML with everything in it, pictures too."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from experiments.bench.bootstrap import Interval
from experiments.bench.rules import shown_points
from experiments.bench.scores import shown_perplexity
from experiments.reporting.drawing import Line
from experiments.reporting.runs import Run
from experiments.reporting.style import CSS
from experiments.reporting.texts import texts_html

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_DASH = "&ndash;"
_COLUMNS = (
    "", "strategy", "problems", "score", "vs first", "perplexity", "x first",
    "tokens a call", "x first", "tokens/s", "x first", "first token, s", "accepted",
    "joules a token",
)  # fmt: skip
_ABOUT = (
    "Score and the other figures are of the rows alone. Small print: 95 % intervals, problems "
    "drawn anew (bootstrap); <em>vs first</em> and <em>x first</em> compare with the run's "
    "first strategy, paired by problem: the score in points, the others as ratios. Perplexity is "
    "of the generated text under the un-warped target, mean over texts. Accepted: drafted tokens "
    "that were accepted."
)


class Shown(NamedTuple):
    """A picture in the page: its file, title and how to read it."""

    file: Path
    title: str
    note: str


def page_html(
    runs: Sequence[Run],
    tasks: Mapping[str, Sequence[Line]],
    pictures: Mapping[str, Sequence[Shown]],
    texts: int,
) -> str:
    """Return the page.

    Args:
      runs: what it is about.
      tasks: the entries of each task.
      pictures: of each task.
      texts: how many problems of each task to show with their texts.
    """
    title = escape("Report: " + ", ".join(run.name for run in runs))
    links = [f'<a href="#task-{i}">{escape(task)}</a>' for i, task in enumerate(tasks)]
    sections = [
        _task(i, task, lines, pictures[task], texts)
        for i, (task, lines) in enumerate(tasks.items())
    ]
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title>\n<style>{CSS}</style>\n</head>\n<body>",
            f"<h1>{title}</h1>",
            *(_unfinished(run) for run in runs if not run.complete),
            f'<nav>{" ".join(links)} <a href="#runs">runs</a></nav>',
            *sections,
            '<h2 id="runs">Runs</h2>',
            _runs_table(runs),
            "</body>\n</html>\n",
        ]
    )


def _unfinished(run: Run) -> str:
    return (
        f'<p class="warning">Run {escape(run.name)} is not complete: what follows is of the rows '
        "that are there.</p>"
    )


def _task(
    number: int, task: str, lines: Sequence[Line], pictures: Sequence[Shown], texts: int
) -> str:
    found = "\n".join(_figure(task, picture) for picture in pictures)
    shown = texts_html(lines, texts)
    return "\n".join(
        [
            f'<h2 id="task-{number}">{escape(task)}</h2>',
            _results_table(lines),
            f"<p>{_ABOUT}</p>",
            *_energy(lines),
            f'<div class="pictures">\n{found}\n</div>',
            *([f"<h2>{escape(task)}: texts</h2>\n{shown}"] if shown else []),
        ]
    )


def _figure(task: str, picture: Shown) -> str:
    data = base64.b64encode(picture.file.read_bytes()).decode("ascii")
    title = escape(picture.title)
    return (
        f'<figure><h3>{title}</h3><img alt="{escape(task)}: {title}" '
        f'src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(picture.note)} <code>{escape(picture.file.name)}</code></figcaption>"
        "</figure>"
    )


def _energy(lines: Sequence[Line]) -> list[str]:
    """Return where the joules come from, or why there are none; a sentence each."""
    found: dict[str, list[int]] = {}
    for line in lines:
        summary = line.entry.summary
        read = summary["joules_per_token"] is not None
        source = str(summary["joules_source"]).removeprefix("unavailable: ")
        words = f"{'read from' if read else 'unavailable:'} {source}"
        found.setdefault(words, []).append(line.number)
    if len(found) == 1:
        return [f"<p>Joules a token: {escape(words)}.</p>" for words in found]
    return [
        f"<p>Joules a token of {', '.join(map(str, numbers))}: {escape(words)}.</p>"
        for words, numbers in found.items()
    ]


def _results_table(lines: Sequence[Line]) -> str:
    kinds = ["figure", "name", *["figure"] * (len(_COLUMNS) - 2)]
    names = (name for line in lines for name in line.entry.summary["scores"])
    metric = next(names, "score")
    heads = [escape(metric) if name == "score" else name for name in _COLUMNS]
    return _table(heads, [_result_cells(line, metric) for line in lines], kinds)


def _result_cells(line: Line, metric: str) -> list[str]:
    """Return a line of the table; `metric` is its heading's."""
    s = line.entry.summary
    against = s["against"] or {}
    perplexity, first = s["perplexity"], s["time_to_first_token"]
    change = against.get("score")
    return [
        str(line.number),
        escape(line.label),
        str(s["problems"]),
        _scores(s["scores"], metric),
        _DASH if change is None else escape(shown_points(Interval(*change))),
        "not finite" if perplexity is None else shown_perplexity(perplexity),
        _ratio(against.get("perplexity")),
        _figure_or_dash(s["tokens_per_call"], ".2f"),
        _ratio(against.get("tokens_per_call")),
        _figure_or_dash(s["tokens_per_second"], ".0f"),
        _ratio(against.get("tokens_per_second")),
        _figure_or_dash(first, ".3g"),
        _figure_or_dash(s["acceptance"], ".0%"),
        _figure_or_dash(s["joules_per_token"], ".3g"),
    ]


def _scores(scores: Mapping[str, Sequence[float] | None], metric: str) -> str:
    """Return the heading's metric, and all others with their names below it."""
    shown = {
        name: _DASH if found is None else _with_interval(found, ".3f")
        for name, found in scores.items()
    }
    first = shown.pop(metric, _DASH)
    others = (f"<small>{escape(name)}</small>{figures}" for name, figures in shown.items())
    return first + "".join(others)


def _ratio(interval: Sequence[float] | None) -> str:
    return _DASH if interval is None else _with_interval(interval, ".2f")


def _with_interval(interval: Sequence[float], form: str) -> str:
    value, low, high = (format(x, form) for x in interval)
    return f"{value}<small>{low} to {high}</small>"


def _figure_or_dash(value: float | None, form: str) -> str:
    return _DASH if value is None else format(value, form)


def _runs_table(runs: Sequence[Run]) -> str:
    heads = ("run", "state", "command", "device", "revision", "energy", "models", "versions")
    keys = ("device", "git", "energy", "models", "versions")
    rows = []
    for run in runs:
        words = _words(run.settings.get("command")).split(" ")  # lines break between them only
        command = " ".join(f"<span>{escape(word)}</span>" for word in words)
        rows.append(
            [
                escape(run.name),
                "complete" if run.complete else "not complete",
                f'<code class="command">{command}</code>',
                *(escape(_words(run.settings.get(key))) for key in keys),
            ]
        )
    return _table(heads, rows, [""] * 3 + ["name"] * len(keys))


def _words(value: Any) -> str:
    """Return a setting of any shape as words; nested names before their values."""
    if isinstance(value, Mapping):
        return ", ".join(
            f"{name}: ({_words(v)})" if isinstance(v, Mapping) else f"{name}: {_words(v)}"
            for name, v in value.items()
        )
    if isinstance(value, list):
        return " ".join(map(_words, value))
    named = {None: "none", True: "yes", False: "no"}
    return named[value] if value is None or isinstance(value, bool) else str(value)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], kinds: Sequence[str]) -> str:
    """Return a table in a box that scrolls; `kinds` are the classes of its columns."""

    def line(tag: str, cells: Sequence[str]) -> str:
        cells = [
            f'<{tag} class="{kind}">{cell}</{tag}>' if kind else f"<{tag}>{cell}</{tag}>"
            for cell, kind in zip(cells, kinds, strict=True)
        ]
        return f"<tr>{''.join(cells)}</tr>"

    body = "\n".join(line("td", cells) for cells in rows)
    return f'<div class="scroll"><table>\n{line("th", heads)}\n{body}\n</table></div>'
