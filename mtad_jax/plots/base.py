"""What all pictures share: matplotlib, found when it is needed, and marks without colours."""

import base64
import functools
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mtad_jax.errors import install_hint
from mtad_jax.views.escaping import safe

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = "osv^D<>pPX*"
FILLS = ("black", "white", "0.65")
LINES = ("-", "--", "-.", ":")
_PNG = "data:image/png;base64,"
_DPI = 192  # of what a notebook shows, at half of its size


def check_matplotlib(what: str) -> None:
    """Check that pictures can be drawn.

    Args:
      what: asks for them, as the error names it.

    Raises:
      ValueError: they cannot.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ValueError(f"{what} needs matplotlib: {install_hint('plots')}") from error


def new_figure(width: float, height: float, told: str = "") -> "Figure":
    """Return an empty figure, sizes in inches, that a notebook shows by itself.

    Args:
      width, height: in inches.
      told: what the picture says, in words, for those who cannot see it.
    """
    check_matplotlib("mtad_jax.plots")
    figure = _figure_class()(figsize=(width, height), layout="constrained", facecolor="white")
    figure.set_label(told)
    return figure


@functools.cache
def _figure_class() -> "type[Figure]":
    """Return the class of figures; a notebook knows `Figure` itself only once pyplot is loaded."""
    from matplotlib.figure import Figure

    class ShownFigure(Figure):
        def _repr_html_(self) -> str:
            file = io.BytesIO()
            self.savefig(file, format="png", dpi=_DPI)
            data = base64.b64encode(file.getvalue()).decode("ascii")
            width, told = int(_DPI / 2 * self.get_figwidth()), safe(str(self.get_label()))
            look = "max-width: 100%; height: auto; background: white"
            return f'<img alt="{told}" width="{width}" style="{look}" src="{_PNG}{data}">'

    return ShownFigure


def marker(number: int) -> dict[str, Any]:
    """Return how the points of entry `number` look, of as many as there are marks and fills."""
    return {
        "marker": MARKERS[number % len(MARKERS)],
        "markerfacecolor": FILLS[number // len(MARKERS) % len(FILLS)],
        "markeredgecolor": "black",
        "markersize": 7,
    }


def quiet(axes: "Axes") -> None:
    """Draw what is measured over the grid, and no box around it."""
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def front_of(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of the points that no other beats, from the least of the first up.

    More is better: a point beats one that it is above in one coordinate and not below in the other.
    """
    order = sorted(range(len(points)), key=lambda i: (-points[i][0], -points[i][1]))
    best: list[int] = []
    for i in order:
        if not best or points[i][1] > points[best[-1]][1] or points[i] == points[best[-1]]:
            best.append(i)
    return best[::-1]
