"""One round as a tree: what was proposed, by what ratio, and what became of it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mtad_jax.decode.explained import ExplainedRound
from mtad_jax.plots.base import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMN, _ROW = 1.75, 0.62  # inches of a level and of a path
_PIECE = 12  # characters of a token that are shown
_BONUS = -1  # where a place of a node is asked for by its index
_VISIBLE = str.maketrans({" ": "\u2423", "\n": "\u21b5"})  # an open box, a return arrow
_LOOKS: Mapping[str, dict[str, Any]] = {
    "accepted": {"facecolor": "#cdebd2", "edgecolor": "black", "linewidth": 2.2},
    "passes, not taken": {"facecolor": "white", "edgecolor": "black", "linewidth": 1.0},
    "not taken": {"facecolor": "white", "edgecolor": "0.4", "linewidth": 1.0},
    "fails": {"facecolor": "white", "edgecolor": "0.4", "linewidth": 1.0, "linestyle": ":"},
    "own": {"facecolor": "#fbe0bb", "edgecolor": "black", "linewidth": 2.2},
}


def tree(explained: ExplainedRound) -> "Figure":
    """Draw a round of `Pipeline.explain`: its tree from left to right, a token a box.

    Under each token stands log p/q of the path that ends there, which a joint rule compares with
    log tau. Accepted tokens have thick edges and are filled; tokens that fail have dotted edges.
    The candidate x* is marked with a star. The last box is the target's own token.

    Raises:
      ValueError: matplotlib is missing.
    """
    places = _places(explained)
    columns, rows = (1 + max(place[axis] for place in places.values()) for axis in (0, 1))
    figure = new_figure(_COLUMN * columns + 0.3, _ROW * rows + 0.9, explained.summary)
    axes = figure.subplots()
    _box(axes, places[0], _shown(explained.root), "", _LOOKS["passes, not taken"])
    for node in explained.nodes:
        _edge(axes, places[node.parent], places[node.index], accepted=node.accepted)
        star = " *" if node.candidate else ""
        below = f"{node.log_ratio:+.2f}{star}"
        _box(axes, places[node.index], _shown(node.piece), below, _LOOKS[node.verdict])
    if explained.bonus is not None:
        _edge(axes, places[_leaf(explained)[0]], places[_BONUS], accepted=True)
        _box(axes, places[_BONUS], _shown(explained.bonus), "target's own", _LOOKS["own"])
    axes.set_xlim(-0.55, columns - 0.45)
    axes.set_ylim(rows - 0.4, -0.6)
    axes.set_axis_off()
    axes.set_title(_title(explained), fontsize=9.5, loc="left", parse_math=False)
    return figure


def _leaf(explained: ExplainedRound) -> tuple[int, int]:
    """Return index and depth of the last token that is kept; node 0 where none is."""
    kept = [(node.index, node.depth) for node in explained.nodes if node.accepted]
    return max(kept, key=lambda node: node[1], default=(0, 0))


def _title(explained: ExplainedRound) -> str:
    rule = "" if explained.bound is None else f"; a path passes above {explained.bound:+.2f}"
    star = "; * candidate x*" if any(node.candidate for node in explained.nodes) else ""
    return (
        f"round {explained.round}: under each token log p/q of its path{rule}{star}\n"
        "thick and filled: accepted; dotted: fails; thin: not taken"
    )


def _places(explained: ExplainedRound) -> dict[int, tuple[int, int]]:
    """Return column and row of each node, and of the bonus; a parent is beside its first child."""
    children: dict[int, list[tuple[int, int]]] = {}
    if explained.bonus is not None:
        leaf, depth = _leaf(explained)
        children[leaf] = [(_BONUS, depth + 1)]
    for node in sorted(explained.nodes, key=lambda node: (not node.accepted, not node.candidate)):
        children.setdefault(node.parent, []).append((node.index, node.depth))
    places: dict[int, tuple[int, int]] = {}
    stack, row = [(0, 0)], 0
    while stack:
        index, depth = stack.pop()
        places[index] = depth, row
        below = children.get(index, [])
        stack += reversed(below)
        row += not below
    return places


def _edge(axes: "Axes", start: Any, end: Any, *, accepted: bool) -> None:
    middle = start[0] + 0.5
    axes.plot(
        [start[0], middle, middle, end[0]], [start[1], start[1], end[1], end[1]],
        color="black" if accepted else "0.6", linewidth=2.2 if accepted else 1, zorder=1 + accepted,
    )  # fmt: skip


def _box(axes: "Axes", place: Any, piece: str, below: str, look: Mapping[str, Any]) -> None:
    axes.annotate(
        f"{piece}\n{below}" if below else piece, place, ha="center", va="center", fontsize=9,
        linespacing=1.25, parse_math=False, zorder=3, family="monospace",
        bbox={"boxstyle": "round,pad=0.3", **look},
    )  # fmt: skip


def _shown(piece: str) -> str:
    """Return a token as a box shows it: spaces visible, and nothing that the font lacks."""
    from matplotlib import font_manager, ft2font

    font = ft2font.FT2Font(font_manager.findfont("monospace"))
    known = font.get_charmap()
    text = piece.translate(_VISIBLE)
    text = "".join(c if ord(c) in known and c.isprintable() else ascii(c)[1:-1] for c in text)
    return text if len(text) <= _PIECE else text[: _PIECE - 1] + "\u2026"
