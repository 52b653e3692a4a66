"""How pictures look: narrow enough for a phone, and told apart without colours."""

import dataclasses
import itertools
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from experiments.reporting.runs import Entry, Run
from mtad_jax.plots import base
from mtad_jax.plots.base import LINES, marker, quiet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 6.2  # inches; a phone shows it at less than half its size
DPI = 150
_LABEL = 26  # characters of a line of a label at the left
_END = 34  # of a label at the end of a line
_AWAY = [(0, 9), (9, 6), (11, 0), (9, -7), (0, -11), (-9, -7), (-11, 0), (-9, 6)]  # points


@dataclasses.dataclass(frozen=True)
class Line:
    """An entry as the report shows it.

    Attributes:
      number: of its run and strategy; the same in all tables and pictures.
      label: strategy, the run where there are several, and whether it is incomplete.
      entry: what was found.
    """

    number: int
    label: str
    entry: Entry

    @property
    def marker(self) -> dict[str, Any]:
        """How its points look."""
        return marker(self.number)

    def wrapped(self) -> str:
        """Return number and label for the left of a picture."""
        return f"{self.number}  " + textwrap.fill(self.label, _LABEL)


def numbered(runs: Sequence[Run]) -> list[Line]:
    """Return the entries of all runs with their numbers."""
    numbers: dict[tuple[str, str], int] = {}
    lines = []
    for run in runs:
        for entry in run.entries:
            number = numbers.setdefault((entry.run, entry.strategy), len(numbers) + 1)
            label = entry.strategy if len(runs) == 1 else f"{entry.run}: {entry.strategy}"
            if not entry.complete:
                label += " (incomplete)"
            lines.append(Line(number, label, entry))
    return lines


class Value(NamedTuple):
    """A bar: how long it is, its interval, and what is written at its end."""

    value: float | None
    interval: tuple[float, float] | None
    text: str


def new_figure(height: float) -> "Figure":
    """Return an empty figure."""
    return base.new_figure(WIDTH, height)


def left_labels(axes: "Axes", lines: Sequence[Line]) -> None:
    """Write the labels of bars or of a matrix's rows, the first on top."""
    axes.set_yticks(range(len(lines)), [line.wrapped() for line in lines], fontsize=9)
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)


def height_of(lines: Sequence[Line]) -> float:
    """Return the inches that the labels at the left need."""
    return sum(0.12 + 0.17 * (1 + line.wrapped().count("\n")) for line in lines) + 0.7


def bars(lines: Sequence[Line], values: Sequence[Value], axis: str) -> "Figure":
    """Draw a bar an entry, with its interval and its value in figures."""
    figure = new_figure(height_of(lines))
    axes = figure.subplots()
    ends = []
    for row, (value, interval, text) in enumerate(values):
        end = 0.0
        if value is not None:
            base = lines[row].entry.summary["against"] is None
            axes.barh(row, value, 0.62, color="white" if base else "0.8", edgecolor="black")
            end = value
            if interval is not None:
                low, high = interval
                axes.plot([low, high], [row, row], color="black", linewidth=1.5, marker="|")
                end = max(end, high)
        ends.append((end, row, text))
    finish_bars(axes, lines, ends, axis)
    return figure


def finish_bars(
    axes: "Axes", lines: Sequence[Line], ends: Sequence[tuple[float, int, str]], axis: str
) -> None:
    """Write what bars are of, and at each end, (place, row, text), its figures."""
    for end, row, text in ends:
        axes.annotate(text, (end, row), (5, 0), textcoords="offset points", va="center", fontsize=9)
    longest = max((len(text) for _, _, text in ends), default=0)
    most = max((end for end, _, _ in ends), default=0.0) or 1.0
    axes.set_xlim(0, most * (1.04 + 0.026 * longest))
    left_labels(axes, lines)
    axes.set_xlabel(axis)
    quiet(axes)
    axes.grid(axis="x", color="0.9")


def curves(
    drawn: Sequence[tuple[Line, str, Sequence[float], Sequence[float]]], x: str, y: str
) -> "Figure":
    """Draw lines, (entry, label, x, y) each, with their labels at their ends."""
    figure = new_figure(max(3.6, 0.2 * len(drawn) + 1.0))
    axes = figure.subplots()
    for (line, _, across, up), style in zip(drawn, itertools.cycle(LINES), strict=False):
        axes.plot(across, up, color="black", linewidth=1.2, linestyle=style, **line.marker)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    quiet(axes)
    axes.grid(color="0.9")
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    ends = [textwrap.fill(label, _END) for _, label, _, _ in drawn]
    gap = (high - low) / (figure.get_figheight() - 0.8) * 0.17
    gap *= 1 + max(end.count("\n") for end in ends)
    places = spread([up[-1] for *_, up in drawn], gap, low, high)
    for (_, _, across, up), end, place in zip(drawn, ends, places, strict=True):
        axes.annotate(
            end, (across[-1], up[-1]), (1.04, place),
            textcoords=axes.get_yaxis_transform(), va="center", fontsize=8, annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": "0.5", "linewidth": 0.6, "shrinkA": 1,
                        "shrinkB": 4, "relpos": (0, 0.5)},
        )  # fmt: skip
    return figure


def spread(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return places near some values, in their order, `gap` apart where there is room for all."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    gap = min(gap, (high - low) / max(len(values) - 1, 1))
    places = [0.0] * len(values)
    floor = low
    for i in order:
        places[i] = floor = max(values[i], floor)
        floor += gap
    ceiling = high
    for i in reversed(order):
        places[i] = ceiling = min(places[i], ceiling)
        ceiling -= gap
    return places


def matrix(
    lines: Sequence[Line], shares: np.ndarray, columns: Sequence[str], axis: str
) -> "Figure":
    """Draw shares, [lines, columns], as greys with their percents."""
    figure = new_figure(height_of(lines) + 0.2)
    axes = figure.subplots()
    axes.imshow(shares, cmap="Greys", vmin=0, vmax=1.3, aspect="auto")
    for row, column in np.ndindex(*shares.shape):
        share = shares[row, column]
        axes.text(
            column, row, f"{100 * share:.0f}" if share else "", ha="center", va="center",
            fontsize=8.5, color="white" if share > 0.65 else "black",
        )  # fmt: skip
    axes.set_xticks(range(len(columns)), columns)
    axes.set_xlabel(axis)
    left_labels(axes, lines)
    quiet(axes)
    return figure


def points(
    axes: "Axes", lines: Sequence[Line], across: Sequence[float], up: Sequence[Value]
) -> None:
    """Draw a point an entry that has a value, with its interval."""
    for line, x, (y, interval, _) in zip(lines, across, up, strict=True):
        if interval is not None:
            axes.plot([x, x], interval, color="0.6", linewidth=1, zorder=1)
        if y is not None:
            axes.plot([x], [y], linestyle="none", zorder=3, **line.marker)
    quiet(axes)
    axes.grid(color="0.9")
    axes.margins(0.12)


def number_points(axes: "Axes", lines: Sequence[Line], at: Sequence[tuple[float, float]]) -> None:
    """Write each point's number beside it, where no other point or number is; layout is final."""
    spots = axes.transData.transform(np.array(at, float)) * 72 / axes.figure.dpi
    taken = [*spots]
    for line, place, spot in zip(lines, at, spots, strict=True):

        def room(away: tuple[int, int], spot: np.ndarray = spot) -> float:
            return min(np.abs(spot + away - other).max() for other in taken)

        best = max(_AWAY, key=room)
        taken.append(spot + best)
        axes.annotate(
            str(line.number), place, best, textcoords="offset points", ha="center", va="center",
            fontsize=8.5, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        )  # fmt: skip
