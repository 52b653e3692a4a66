"""Which rules an evaluation compares: lines, sweeps, and what of them is refused."""

import pytest

from experiments.evaluation.points import parse_point, read_points, sweep_lines

WARP = {"temperature": 1.0, "top_k": 10, "top_p": 0.9, "min_p": 0.0}


def test_a_line_is_a_rule_with_settings_of_its_own():
    point = parse_point("mmtad depth=2 width=3 tau=0.1 temperature=0.5 batch_size=4", WARP, 1)
    assert point.label == "mmtad depth=2 width=3 tau=0.1 temperature=0.5 batch_size=4"
    assert (point.candidate.name, point.candidate.settings["width"]) == ("mmtad", 3)
    assert (point.warp.temperature, point.warp.top_k, point.warp.top_p) == (0.5, 10, 0.9)
    assert point.batch_size == 4
    assert parse_point("sample", WARP, 3).batch_size == 3
    assert parse_point("greedy", WARP, 1).warp.temperature == 0
    sharper = parse_point("mtad draft_temperature=0.5 temperature=0.9", WARP, 1)
    assert (sharper.warp.temperature, sharper.draft_warp.temperature) == (0.9, 0.5)
    assert sharper.draft_warp.top_k == 10 and point.draft_warp is None


def test_a_sweep_is_every_combination_of_what_a_rule_has():
    sweep = {"rule": ("speculative", "mtad"), "depth": (2, 4), "width": [1, 2], "tau": ()}
    assert sweep_lines(sweep) == [
        "speculative depth=2", "speculative depth=4",
        "mtad depth=2 width=1", "mtad depth=2 width=2",
        "mtad depth=4 width=1", "mtad depth=4 width=2",
    ]  # fmt: skip
    assert sweep_lines({"rule": "mtad", "tau": 0.5}) == ["mtad tau=0.5"]
    assert sweep_lines({"rule": (), "depth": ()}) == []


def test_a_rule_takes_part_in_what_means_something_to_it():
    sweep = {
        "rule": ("greedy", "sample", "mtad"), "temperature": (0.5, 1.0),
        "draft_temperature": (0.7,), "depth": (2,), "batch_size": (4,),
    }  # fmt: skip
    assert sweep_lines(sweep) == [
        "greedy batch_size=4",
        "sample temperature=0.5 batch_size=4", "sample temperature=1.0 batch_size=4",
        "mtad depth=2 temperature=0.5 draft_temperature=0.7 batch_size=4",
        "mtad depth=2 temperature=1.0 draft_temperature=0.7 batch_size=4",
    ]  # fmt: skip
    assert parse_point("greedy temperature=0", WARP, 1).warp.temperature == 0


def test_each_point_comes_once():
    sweep = {"rule": ("mtad",), "tau": (0.5, 0.7), "temperature": (0.5,)}
    points = read_points(("sample", "mtad tau=0.5 temperature=0.5"), sweep, WARP, 1)
    assert [point.label for point in points] == [
        "sample", "mtad tau=0.5 temperature=0.5", "mtad tau=0.7 temperature=0.5",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("strategies", "sweep", "said"),
    [
        ((), {}, "no strategies: give"),
        (("mtaad",), {}, "no rule 'mtaad'"),
        (("mtad widht=4",), {}, "mtad has no setting 'widht'"),
        (("mtad temperature=hot",), {}, "temperature=hot must be a number"),
        (("mtad temperature=-1",), {}, "temperature"),
        (("sample draft_temperature=0.5",), {}, "sample has no draft model: leave draft_temp"),
        (("sample draft_temperature=0",), {}, "sample has no draft model"),
        (
            ("greedy temperature=0.7",),
            {},
            "greedy takes the likeliest token: leave temperature out",
        ),
        ((), {"rule": ("greedy",), "temperature": (0.5,)}, "none of greedy has a setting 'temper"),
        (("mtad draft_temperature=-1",), {}, "temperature"),
        (("mtad batch_size=0",), {}, "batch_size=0 must be >= 1"),
        (("mtad depth=x",), {}, "depth=x must be a whole number"),
        (("mtad depth=2 depth=4",), {}, "depth comes twice: give it once"),
        (("mtad temperature=1 temperature=0.5",), {}, "temperature comes twice"),
        (("outside_rules:levels",), {}, "sizes is missing: outside_rules:levels needs it"),
        ((), {"rule": ("outside_rules:levels",)}, "sizes is missing"),
        ((), {"depth": (2,)}, "depth without a rule"),
        ((), {"rule": ("sample",), "width": (2,)}, "none of sample has a setting 'width'"),
    ],
)
def test_refused_in_one_line(strategies, sweep, said):
    with pytest.raises(ValueError, match=said) as caught:
        read_points(strategies, sweep, WARP, 1)
    assert "\n" not in str(caught.value)
