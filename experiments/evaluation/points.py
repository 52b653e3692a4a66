"""What an evaluation compares: rules with their settings, one by one or as a sweep."""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from mtad_jax.calibration.candidates import Candidate, shown, split_line
from mtad_jax.decode.protocols import Strategy
from mtad_jax.decode.warp import Warp, check_warp
from mtad_jax.registry import find, settings_of

_WARP = {"temperature": float, "top_k": int, "top_p": float, "min_p": float}
_RUN = {**_WARP, "draft_temperature": float, "batch_size": int}
"""Settings that a point may have of its own beside its rule's."""


@dataclasses.dataclass(frozen=True)
class Point:
    """One line of the comparison.

    Attributes:
      candidate: the rule with its settings.
      own: what differs from the run's warp and batch size; part of the label.
      warp: sharpening of both models' distributions.
      draft_warp: another one for the draft's; None: the same.
      batch_size: texts decoded together.
    """

    candidate: Candidate
    own: Mapping[str, Any]
    warp: Warp
    draft_warp: Warp | None
    batch_size: int

    @property
    def strategy(self) -> Strategy:
        """The rule itself."""
        return self.candidate.strategy

    @property
    def label(self) -> str:
        """Rule and settings on one line; unique in a run."""
        return " ".join([self.candidate.label, *(f"{k}={shown(v)}" for k, v in self.own.items())])


def parse_point(text: str, warp: Mapping[str, Any], batch_size: int) -> Point:
    """Return the point that a line says: `mmtad depth=4 width=4 tau=0.5 temperature=0.7`.

    Args:
      text: a rule as `--rule` takes it, and settings of `_RUN`.
      warp: the run's, by name.
      batch_size: the run's.

    Raises:
      ValueError: no such rule or setting, one that is missing or comes twice, or a value that is
        not of its kind or out of range.
    """
    own: dict[str, Any] = {}
    name, words = split_line(text)
    rest, known = [name], settings_of(find(name))
    for key, value in words.items():
        if key in known or key not in _RUN:
            rest.append(f"{key}={value}")
            continue
        try:
            own[key] = _RUN[key](value)
        except ValueError as error:
            raise ValueError(f"{text!r}: {key}={value} must be a number") from error
    candidate = Candidate.parse(" ".join(rest))
    given: dict[str, Any] = dict(warp) | {key: value for key, value in own.items() if key in _WARP}
    for key in own.keys() - _takes(candidate):
        if key == "draft_temperature":
            raise ValueError(f"{text!r}: {name} has no draft model: leave {key} out")
        if own[key]:  # at 0 each of the others changes nothing
            raise ValueError(f"{text!r}: {name} takes the likeliest token: leave {key} out")
    if candidate.name == "greedy":
        given = {"temperature": 0.0}
    sharpening, draft_warp = Warp(**given), None
    if "draft_temperature" in own:
        draft_warp = Warp(**{**given, "temperature": own["draft_temperature"]})
    try:
        check_warp(sharpening)
        check_warp(draft_warp or sharpening)
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}") from error
    size = own.get("batch_size", batch_size)
    if size < 1:
        raise ValueError(f"{text!r}: batch_size={size} must be >= 1")
    return Point(candidate, own, sharpening, draft_warp, size)


def _takes(candidate: Candidate) -> set[str]:
    """Return the settings of `_RUN` that mean something to a rule."""
    found = set(_RUN)
    if candidate.name == "greedy":
        found -= set(_WARP)
    if not candidate.strategy.needs_draft:
        found.remove("draft_temperature")
    return found


def sweep_lines(sweep: Mapping[str, Iterable[Any]]) -> list[str]:
    """Return the points of a sweep as lines: every combination of every rule's own settings.

    Args:
      sweep: `rule`, names of rules, and for settings of rules or of `_RUN` the values to try. A
        rule takes part in the settings that it has.

    Raises:
      ValueError: no rule, a setting that none of them has, or a setting without values.
    """
    lists = {key: _listed(values) for key, values in sweep.items()}
    rules = lists.pop("rule", [])
    lists = {key: values for key, values in lists.items() if values}
    if not rules:
        if lists:
            raise ValueError(f"sweep: {', '.join(lists)} without a rule: give sweep.rule")
        return []
    lines, used = [], set()
    for rule in rules:
        mine = {key: values for key, values in lists.items() if key in settings_of(find(rule))}
        for line in _combined(rule, mine):
            takes = _takes(Candidate.parse(line))
            run = {k: values for k, values in lists.items() if k in takes and k not in mine}
            lines += _combined(line, run)
            used |= mine.keys() | run.keys()
    for key in lists:
        if key not in used:
            raise ValueError(
                f"sweep: none of {', '.join(rules)} has a setting {key!r}: leave it out"
            )
    return lines


def _combined(line: str, lists: Mapping[str, list[Any]]) -> list[str]:
    """Return a line with every combination of values after it."""
    return [
        " ".join([line, *(f"{key}={shown(value)}" for key, value in zip(lists, each, strict=True))])
        for each in itertools.product(*lists.values())
    ]


def _listed(values: Any) -> list[Any]:
    """Return one value or many as a list."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        return [values]
    return list(values)


def read_points(
    strategies: Iterable[str],
    sweep: Mapping[str, Iterable[Any]],
    warp: Mapping[str, Any],
    batch_size: int,
) -> list[Point]:
    """Return all points of a run, each once, in the order given.

    Raises:
      ValueError: as `parse_point` and `sweep_lines`; there is none.
    """
    points: dict[str, Point] = {}
    for line in (*strategies, *sweep_lines(sweep)):
        point = parse_point(line, warp, batch_size)
        points.setdefault(point.label, point)
    if not points:
        raise ValueError("no strategies: give strategies, e.g. ('sample', 'mmtad depth=4 width=4')")
    return list(points.values())
