"""Rules against each other: acceptance by position, and quality against speed."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mtad_jax.completions import Completion
from mtad_jax.plots.base import LINES, front_of, marker, new_figure, quiet
from mtad_jax.types import Float

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIZE = (6.4, 4.0)  # inches


def acceptance(rows: Mapping[str, Completion | Sequence[Completion]]) -> "Figure":
    """Draw how often at least so many drafted tokens of a round were accepted.

    Args:
      rows: what each rule gave, one text or several; a rule without a draft has no line.

    Raises:
      ValueError: no rule accepted anything; matplotlib is missing.
    """
    shares = {name: accepted_shares(found) for name, found in rows.items()}
    drawn = {name: found for name, found in shares.items() if found.any()}
    if not drawn:
        raise ValueError("rows: no rule accepted a drafted token: give texts of rules that draft")
    told = "; ".join(f"{name}: {_numbers(found)}" for name, found in drawn.items())
    figure = new_figure(*_SIZE, f"Share of rounds that accept 1, 2, ... drafted tokens. {told}")
    axes = figure.subplots()
    styles = zip(drawn.items(), itertools.count(), itertools.cycle(LINES), strict=False)
    for (name, found), number, line in styles:
        places = np.arange(1, len(found) + 1)
        axes.plot(places, found, color="black", linestyle=line, label=name, **marker(number))
    axes.set_xticks(range(1, max(map(len, drawn.values())) + 1))
    axes.set_ylim(0, 1.03)
    axes.set_xlabel("position in the draft")
    axes.set_ylabel("share of rounds that accept it")
    axes.grid(color="0.9")
    quiet(axes)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def accepted_shares(rows: Completion | Sequence[Completion]) -> Float[np.ndarray, " K"]:
    """Return the share of all rounds that accept at least 1, 2, ... K drafted tokens."""
    rows = [rows] if isinstance(rows, Completion) else list(rows)
    counts = [np.array(row.stats.acceptance_by_position) * row.stats.rounds for row in rows]
    rounds = sum(row.stats.rounds for row in rows)
    return np.sum(counts, axis=0) / max(rounds, 1)


def front(
    points: Mapping[str, tuple[float, float]],
    *,
    x: str = "tokens a target call",
    y: str = "perplexity",
    lower_is_better: bool = True,
) -> "Figure":
    """Draw quality against speed; a dashed line joins the points that no other beats in both.

    Args:
      points: speed (more is better) and quality of each rule.
      x, y: names of the axes.
      lower_is_better: whether less of y is better.

    Raises:
      ValueError: there are no points; matplotlib is missing.
    """
    if not points:
        raise ValueError("points is empty: give at least one")
    told = "; ".join(f"{name}: {_numbers(point)}" for name, point in points.items())
    figure = new_figure(*_SIZE, f"{y} against {x}. {told}")
    axes = figure.subplots()
    for number, (name, (across, up)) in enumerate(points.items()):
        axes.plot(across, up, linestyle="none", zorder=3, label=name, **marker(number))
    ends = list(points.values())
    best = front_of([(a, -b if lower_is_better else b) for a, b in ends])
    axes.plot(*zip(*(ends[i] for i in best), strict=True), "--", color="0.4", zorder=2)
    axes.set_xlabel(x)
    axes.set_ylabel(y + (" (lower is better)" if lower_is_better else ""))
    axes.grid(color="0.9")
    axes.margins(0.12)
    quiet(axes)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)
