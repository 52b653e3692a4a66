"""The pictures of a task: scores, fronts, acceptance, times, tau, energy."""

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from experiments.bench import summary
from experiments.bench.scores import shown_perplexity
from experiments.reporting import drawing
from experiments.reporting.drawing import Line, Value
from mtad_jax.plots.base import front_of
from mtad_jax.recipes import RECIPES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_TOKENS = 12  # of a round that has a column of its own


class Picture(NamedTuple):
    """A picture and what it shows.

    Attributes:
      name: of its file, after the task's.
      title: over it.
      note: how to read it.
      figure: what is drawn.
    """

    name: str
    title: str
    note: str
    figure: "Figure"


def pictures(lines: Sequence[Line]) -> Iterator[Picture]:
    """Yield the pictures of one task's entries that there is something to draw for."""
    scored, metric = _scores(lines)
    likely = _perplexities(lines)
    if metric:
        yield Picture("score", f"Score: {metric}", _INTERVALS, drawing.bars(lines, scored, metric))
    if any(value.value is not None for value in likely):
        note = f"Of the generated text under the target; lower is likelier. {_INTERVALS}"
        yield Picture("perplexity", "Perplexity", note, drawing.bars(lines, likely, "perplexity"))
    for name, values, up in ((metric, scored, True), ("perplexity", likely, False)):
        if name and (figure := _front(lines, values, name, up)) is not None:
            kind = "perplexity" if name == "perplexity" else "score"
            title = f"The front of {name} and speed"
            yield Picture(f"front-{kind}", title, _FRONT, figure)
    for make in (_acceptance, _lengths, _times, _taus, _joules):
        if (picture := make(lines)) is not None:
            yield picture


_INTERVALS = (
    "Black lines: 95 % intervals, problems drawn anew (bootstrap). White: a run's first strategy."
)
_FRONT = (
    "Numbers are those of the table. The dashed line joins the entries that no other beats in "
    "both; grey lines: 95 % intervals."
)


def _scores(lines: Sequence[Line]) -> tuple[list[Value], str]:
    """Return the task's own metric of each entry, and its name; "" where none is judged."""
    names = [name for line in lines for name in list(line.entry.summary["scores"])[:1]]
    values = []
    for line in lines:
        found = line.entry.summary["scores"].get(names[0]) if names else None
        if found is None:
            values.append(Value(None, None, "not judged"))
        else:
            value, low, high = found
            values.append(Value(value, (low, high), f"{value:.3f}"))
    return values, names[0] if names else ""


def _perplexities(lines: Sequence[Line]) -> list[Value]:
    values = []
    for line in lines:
        found = summary.perplexity(line.entry.problems)
        if found is None:
            values.append(Value(None, None, "not finite"))
        else:
            text = shown_perplexity(found.value, 3)
            values.append(Value(found.value, (found.low, found.high), text))
    return values


def _front(
    lines: Sequence[Line], values: Sequence[Value], name: str, upwards: bool
) -> "Figure | None":
    """Draw quality against tokens a call, tokens a second and, where known, joules a token."""
    panels: list[tuple[str, str, Callable[[float], float]]] = [
        ("tokens_per_call", "tokens a target call", lambda x: x),
        ("tokens_per_second", "tokens a second", lambda x: x),
        ("joules_per_token", "joules a token", lambda x: -x),
    ]
    found = []
    for key, label, good in panels:
        kept = [
            (line, line.entry.summary[key], value)
            for line, value in zip(lines, values, strict=True)
            if value.value is not None and line.entry.summary[key] is not None
        ]
        if len(kept) > 1:
            found.append((kept, label, good))
    if not found:
        return None
    figure = drawing.new_figure(3.4 * len(found))
    for axes, (kept, label, good) in zip(
        figure.subplots(len(found), squeeze=False)[:, 0], found, strict=True
    ):
        shown, across, up = zip(*kept, strict=True)
        drawing.points(axes, shown, across, up)
        ends = [(x, value.value) for x, value in zip(across, up, strict=True)]
        best = front_of([(good(x), y if upwards else -y) for x, y in ends])
        axes.plot(*zip(*(ends[i] for i in best), strict=True), "--", color="0.4", zorder=2)
        axes.set_xlabel(label)
        axes.set_ylabel(name)
    figure.draw_without_rendering()
    for axes, (kept, _, _) in zip(figure.axes, found, strict=True):
        drawing.number_points(
            axes, [line for line, _, _ in kept], [(x, value.value) for _, x, value in kept]
        )
    return figure


def _acceptance(lines: Sequence[Line]) -> Picture | None:
    drawn = []
    for line in lines:
        shares = line.entry.summary["accepted_at"]
        if any(shares):
            places = list(range(1, len(shares) + 1))
            drawn.append((line, f"{line.number}  {line.label}", places, shares))
    if not drawn:
        return None
    figure = drawing.curves(drawn, "position in the draft", "share of rounds that accept it")
    (axes,) = figure.axes
    axes.set_xticks(range(1, max(len(places) for *_, places, _ in drawn) + 1))
    note = "How often at least so many drafted tokens were accepted."
    return Picture("acceptance", "Acceptance by position", note, figure)


def _lengths(lines: Sequence[Line]) -> Picture | None:
    """Draw how many tokens a round gave, as shares of all rounds."""
    counts = [
        np.bincount(
            [min(block[1], _MOST_TOKENS) for row in line.entry.rows for block in row["blocks"]],
            minlength=_MOST_TOKENS + 1,
        )[1:]
        for line in lines
    ]
    kept = [i for i, count in enumerate(counts) if count.any()]
    if not kept:
        return None
    shares = np.array([counts[i] / counts[i].sum() for i in kept])
    longest = int(np.flatnonzero(shares.any(axis=0))[-1]) + 1
    columns = [str(i + 1) for i in range(longest)]
    if longest == _MOST_TOKENS:
        columns[-1] += "+"
    figure = drawing.matrix(
        [lines[i] for i in kept], shares[:, :longest], columns, "tokens of a round"
    )
    note = "Percent of rounds (calls of the target) that gave so many tokens, the target's own in."
    return Picture("lengths", "Accepted lengths", note, figure)


def _times(lines: Sequence[Line]) -> Picture | None:
    """Draw the seconds of an answer; compiling is written beside them."""
    figure = drawing.new_figure(drawing.height_of(lines) + 0.3)
    axes = figure.subplots()
    ends = []
    for row, line in enumerate(lines):
        rows = line.entry.rows
        prefill, decode = (
            float(np.mean([r[key] for r in rows])) for key in ("prefill_seconds", "decode_seconds")
        )
        first = row == 0
        axes.barh(row, prefill, 0.62, color="0.45", edgecolor="black", hatch="////",
                  label="prefill" if first else None)  # fmt: skip
        axes.barh(row, decode, 0.62, left=prefill, color="white", edgecolor="black",
                  label="decode" if first else None)  # fmt: skip
        compiling = line.entry.summary["compile_seconds"]
        text = f"{prefill + decode:.3g} s"
        text += "" if compiling is None else f"; compiling {compiling:.3g} s"
        ends.append((prefill + decode, row, text))
    drawing.finish_bars(axes, lines, ends, "seconds of an answer")
    figure.legend(loc="outside upper right", ncols=2, frameon=False, fontsize=9)
    note = "Mean over answers of their share of a batch. Compiling happens once, and is apart."
    return Picture("times", "Where the time goes", note, figure)


def _taus(lines: Sequence[Line]) -> Picture | None:
    """Draw perplexity against tau for each rule that has run with several."""
    groups: dict[tuple[str, str], list[tuple[float, float, Line]]] = {}
    for line in lines:
        found = split_tau(line.entry.strategy)
        perplexity = line.entry.summary["perplexity"]
        if found is not None and perplexity is not None:
            rest, tau = found
            groups.setdefault((line.entry.run, rest), []).append((tau, perplexity, line))
    several = len({line.entry.run for line in lines}) > 1
    drawn = []
    for (run, rest), found in groups.items():
        found.sort(key=lambda item: item[0])
        taus = [tau for tau, _, _ in found]
        if len(set(taus)) > 1:
            label = f"{run}: {rest}" if several else rest
            drawn.append((found[0][2], label, taus, [perplexity for _, perplexity, _ in found]))
    if not drawn:
        return None
    figure = drawing.curves(drawn, "tau", "perplexity")
    taus = [tau for *_, taus, _ in drawn for tau in taus]
    if min(taus) > 0 and max(taus) / min(taus) > 20:
        figure.axes[0].set_xscale("log")
    note = "A smaller tau accepts more of the draft."
    return Picture("tau", "Perplexity against tau", note, figure)


def split_tau(label: str) -> tuple[str, float] | None:
    """Return a strategy's label without its tau, and tau; None where it has none.

    A label need not name the default of its recipe.
    """
    match = re.search(r" tau=([^\s,]+)", label)
    if match is None:
        recipe = RECIPES.get(re.split(r"[\s,]", label)[0])
        default = recipe and inspect.signature(recipe).parameters.get("tau")
        return (label, float(default.default)) if default else None
    try:
        return label[: match.start()] + label[match.end() :], float(match[1])
    except ValueError:
        return None


def _joules(lines: Sequence[Line]) -> Picture | None:
    found = [line.entry.summary["joules_per_token"] for line in lines]
    if all(value is None for value in found):
        return None
    values = [Value(x, None, "unavailable" if x is None else f"{x:.3g}") for x in found]
    figure = drawing.bars(lines, values, "joules a token")
    note = "Energy of the decode over the same window as its time, what an idle device takes in."
    return Picture("joules", "Energy", note, figure)
