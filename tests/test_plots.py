"""Pictures of rounds and rules: what is drawn is what was measured, and told without colours."""

import base64
import builtins
import dataclasses
import re

import matplotlib.colors
import matplotlib.path
import numpy as np
import pytest

from mtad_jax import plots
from mtad_jax.completions import Completion, RowStats
from mtad_jax.decode.explained import ExplainedRound, Node
from mtad_jax.plots.base import front_of, marker
from mtad_jax.plots.lines import accepted_shares


def node(index, parent, depth, **changes):
    made = Node(
        index=index, parent=parent, depth=depth, token=index, piece=f" t{index}", log_p=-1.0,
        log_q=-1.0, joint_p=-1.0 * depth, joint_q=-1.0 * depth, reference=-0.5 * depth,
        passes=False, candidate=False, accepted=False,
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


def opened(**changes):
    """Two levels of two places: one path accepted, one passes, one fails."""
    nodes = (
        node(1, 0, 1, accepted=True, passes=True, candidate=True),
        node(2, 0, 1),
        node(3, 1, 2, accepted=True, passes=True, piece="$a_b$"),
        node(4, 1, 2, passes=True, candidate=True, piece="a very long token"),
    )
    made = ExplainedRound(
        round=3, start=5, root="\n", nodes=nodes, bound=-0.7, accepted=2, bonus=" 日",
        log_ratio=-1.0, ending="depth",
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


def boxes(figure):
    """Text, edge and style of every box."""
    (axes,) = figure.axes
    return {text.get_text(): text.get_bbox_patch() for text in axes.texts}


def test_a_tree_has_a_box_for_each_token():
    found = boxes(plots.tree(opened()))
    assert list(found) == [
        "↵", "␣t1\n-0.50 *", "␣t2\n-0.50", "$a_b$\n-1.00", "a␣very␣long…\n-1.00 *",
        "␣\\u65e5\ntarget's own",
    ]  # fmt: skip
    widths = [box.get_linewidth() for box in found.values()]
    assert widths == [1.0, 2.2, 1.0, 2.2, 1.0, 2.2]  # accepted ones and the target's own are thick
    assert [box.get_linestyle() for box in found.values()] == ["solid"] * 2 + [":"] + ["solid"] * 3
    greys = [np.mean(matplotlib.colors.to_rgb(b.get_facecolor())) for b in found.values()]
    assert all((grey < 0.95) == (width > 2) for grey, width in zip(greys, widths, strict=True))


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_nothing_is_drawn_over_a_box(kept):
    """Whatever is kept, boxes stand apart, and a line meets only the two boxes that it joins."""
    nodes = [
        dataclasses.replace(n, accepted=n.accepted and n.depth <= kept) for n in opened().nodes
    ]
    figure = plots.tree(opened(nodes=tuple(nodes), accepted=kept))
    figure.draw_without_rendering()
    (axes,) = figure.axes
    spots = [patch.get_window_extent() for patch in boxes(figure).values()]
    assert len(spots) == 1 + 4 + 1 and len(axes.lines) == 5
    for i, a in enumerate(spots):
        assert not any(a.overlaps(b) for b in spots[:i])
    for line in axes.lines:
        corners = axes.transData.transform(line.get_xydata())
        path = matplotlib.path.Path(corners).interpolated(50).vertices
        assert sum(any(spot.contains(*point) for point in path) for spot in spots) == 2


def test_a_tree_of_nothing_and_one_without_bonus_or_bound():
    alone = plots.tree(opened(nodes=(), accepted=0, bonus="x", bound=None))
    assert list(boxes(alone)) == ["↵", "x\ntarget's own"]
    ended = plots.tree(opened(bonus=None))
    assert not any("own" in text for text in boxes(ended))
    assert "passes above" not in alone.axes[0].get_title(loc="left")
    assert "-0.70" in ended.axes[0].get_title(loc="left")


def completion(rounds, shares):
    stats = RowStats(rounds, 0, 0, 1.0, shares, {})
    return Completion([], [], "", [], [], stats, "length")


def test_acceptance_is_over_all_rounds_of_a_rule():
    rows = {
        "mtad": [completion(1, [1.0, 1.0]), completion(3, [0.0, 0.0])],
        "mmtad": completion(2, [0.5, 0.5]),
        "sample": completion(2, []),
    }
    assert accepted_shares(rows["mtad"]).tolist() == [0.25, 0.25]
    figure = plots.acceptance(rows)
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.lines] == ["mtad", "mmtad"]
    assert axes.lines[0].get_ydata().tolist() == [0.25, 0.25]
    looks = {(line.get_marker(), line.get_linestyle()) for line in axes.lines}
    assert len(looks) == 2
    with pytest.raises(ValueError, match="no rule accepted a drafted token"):
        plots.acceptance({"sample": completion(2, [])})


def test_a_front_joins_what_no_other_beats():
    points = {"slow": (1.0, 1.0), "bad": (1.5, 3.0), "fast": (2.0, 2.0)}
    (axes,) = plots.front(points).axes
    *marks, line = axes.lines
    assert [mark.get_label() for mark in marks] == list(points)
    assert list(zip(line.get_xdata(), line.get_ydata(), strict=True)) == [(1.0, 1.0), (2.0, 2.0)]
    up = plots.front(points, y="score", lower_is_better=False).axes[0]
    ends = list(zip(up.lines[-1].get_xdata(), up.lines[-1].get_ydata(), strict=True))
    assert ends == [(1.5, 3.0), (2.0, 2.0)] and up.get_ylabel() == "score"
    with pytest.raises(ValueError, match="points is empty"):
        plots.front({})


def test_fronts():
    points = [(1.0, 3.0), (2.0, 2.0), (1.5, 1.0), (3.0, 1.0), (1.0, 3.0), (0.5, 3.0)]
    best = [(1.0, 3.0), (1.0, 3.0), (2.0, 2.0), (3.0, 1.0)]
    assert [points[i] for i in front_of(points)] == best
    assert front_of([(1.0, 1.0)]) == [0]


def test_marks_are_told_apart_without_colours():
    marks = [marker(i) for i in range(33)]
    assert len({(mark["marker"], mark["markerfacecolor"]) for mark in marks}) == 33
    assert {mark["markeredgecolor"] for mark in marks} == {"black"}


def test_notebooks_get_a_picture_at_half_its_pixels_and_its_words():
    page = plots.front({"<a>": (1.0, 2.0)})._repr_html_()
    found = re.fullmatch(r'<img alt="(.*)" width="(\d+)" style=.*base64,([\w+/=]+)">', page)
    assert found[1] == "perplexity against tokens a target call. &lt;a&gt;: 1, 2"
    data = base64.b64decode(found[3])
    assert data.startswith(b"\x89PNG") and int.from_bytes(data[16:20]) == 2 * int(found[2])
    shares = plots.acceptance({"mmtad": completion(2, [0.5, 0.25])})._repr_html_()
    assert 'alt="Share of rounds that accept 1, 2, ... drafted tokens. mmtad: 0.5, 0.25"' in shares
    assert opened().summary[:20] in plots.tree(opened())._repr_html_()


@pytest.mark.parametrize("draw", [lambda: plots.tree(opened()), lambda: plots.front({"a": (1, 1)})])
def test_without_matplotlib_one_line_says_what_to_install(monkeypatch, draw):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.partition(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(
        ValueError, match=r"mtad_jax\.plots needs matplotlib: pip install"
    ) as caught:
        draw()
    assert "plots" in str(caught.value) and "\n" not in str(caught.value)
