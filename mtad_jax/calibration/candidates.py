"""The decoding rules that compete, and what is refused before anything is measured."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from mtad_jax.decode.protocols import Strategy
from mtad_jax.registry import find, make, settings_of

_SIZES = ("depth", "branching")  # settings in which the rules of one family differ


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A rule with its settings.

    Attributes:
      name: of its recipe, as `--strategy` names it; `module:name` for one of another package.
      settings: the recipe's keyword arguments that were given.
      strategy: the rule itself.
    """

    name: str
    settings: Mapping[str, Any]
    strategy: Strategy

    @classmethod
    def of(cls, name: str, /, **settings: Any) -> "Candidate":
        """Return the rule `recipes.<name>(**settings)`.

        Raises:
          ValueError: there is no such recipe, or it refuses its settings.
        """
        return cls(name, settings, make(name, **settings))

    @classmethod
    def parse(cls, text: str) -> "Candidate":
        """Return the rule that a line like a `label` says: `mtad depth=4 width=2`.

        Raises:
          ValueError: there is no such recipe or setting, one that it needs is missing, one comes
            twice, or a value is out of range.
        """
        name, given = split_line(text)
        known, settings = settings_of(find(name)), {}
        for key, value in given.items():
            if key not in known:
                there = ", ".join(known) or "none"
                raise ValueError(f"{text!r}: {name} has no setting {key!r}: there are {there}")
            settings[key] = known[key].read(value)
        for key in known:
            if known[key].required and key not in given:
                raise ValueError(f"{text!r}: {key} is missing: {name} needs it: give {key}=...")
        return cls.of(name, **settings)

    @property
    def label(self) -> str:
        """Name and settings on one line; tells candidates apart."""
        return " ".join([self.name, *(f"{k}={shown(v)}" for k, v in self.settings.items())])

    @property
    def family(self) -> str:
        """What the rules share whose acceptance is predicted from one probe.

        All settings but the depth; of a tree's branching the first number counts. What is not
        quite alike in a family only blurs a prediction: the choice is made on timings.
        """
        same = {k: v for k, v in self.settings.items() if k not in _SIZES}
        if "branching" in self.settings:
            same["first"] = self.settings["branching"][0]
        return " ".join([self.name, *(f"{k}={shown(v)}" for k, v in same.items())])

    @property
    def greedy_at_zero(self) -> bool:
        """Whether it is known to be plain greedy decoding at temperature 0.

        A lossless rule is: the target's law is one token then. So is a rule with a bound on every
        accepted block's log-ratio: a block with a token that is not the argmax has none.
        """
        return self.strategy.lossless or self.strategy.bound is not None


def default_candidates(*, draft: bool) -> tuple[Candidate, ...]:
    """Return the rules that compete unless told otherwise; without a draft model, lookup only."""
    of = Candidate.of
    lookup = [of("lookup", depth=depth, ngram=3) for depth in (2, 4, 8)]
    if not draft:
        return tuple(lookup)
    found = [of("speculative", depth=depth) for depth in (1, 2, 3, 4, 6)]
    found += [of("block", depth=depth) for depth in (2, 4, 6)]
    for branching in ((2, 2), (2, 2, 2), (4, 2), (4, 2, 2)):
        found.append(of("mcsd", branching=branching))
    found += [of("specinfer", branching=branching) for branching in ((4, 2), (4, 2, 2))]
    found += [of("mtad", depth=depth, width=4) for depth in (2, 3, 4, 6)]
    found += [of("mmtad", depth=depth, width=w) for w in (2, 4) for depth in (2, 3, 4, 6)]
    return (*found, *lookup)  # last, as a short budget may not reach the last


def check_candidates(candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """Return the candidates as a tuple.

    Raises:
      ValueError: they are no list, or one is something else, such as a recipe's name.
    """
    if isinstance(candidates, str) or not isinstance(candidates, Iterable):
        raise ValueError(f"candidates={candidates!r} must be a list: write [Candidate.of(...)]")
    found = tuple(candidates)
    for item in found:
        if not isinstance(item, Candidate):
            what = repr(item) if isinstance(item, str) else f"a {type(item).__name__}"
            raise ValueError(f"candidates holds {what}: write mtad_jax.Candidate.of(name, ...)")
    return found


def split_line(text: str) -> tuple[str, dict[str, str]]:
    """Return the name and the settings, still text, of a line such as `mtad depth=4 width=2`.

    Raises:
      ValueError: a setting comes twice.
    """
    name, *words = text.split() or [""]
    given: dict[str, str] = {}
    for word in words:
        key, _, value = word.partition("=")
        if key in given:
            raise ValueError(f"{text!r}: {key} comes twice: give it once")
        given[key] = value
    return name, given


def shown(value: Any) -> str:
    """Return a setting as a flag takes it: 4,2,2 for a branching."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else f"{value}"
