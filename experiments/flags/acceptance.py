"""The rules of a plan's last table, and how many tokens a call of the target gives them."""

import dataclasses
import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from mtad_jax.calibration.candidates import Candidate
from mtad_jax.decode.loop import kinds_of
from mtad_jax.planning.costs import tokens_of_rate, tokens_of_trace
from mtad_jax.recipes import RECIPES
from mtad_jax.registry import find

_COMPARED = ("speculative", "mtad", "mmtad")


@dataclasses.dataclass(frozen=True)
class Acceptance:
    """What is known of rules' tokens a call of the target.

    Attributes:
      traced: rules that were run, with their tokens a call.
      rates: name of a rule -> chance that a drafted token is accepted; "": of all others.
    """

    traced: Sequence[tuple[Candidate, float]]
    rates: Mapping[str, float]

    def tokens(self, rule: Candidate) -> float | None:
        """Return a rule's tokens a call: of its trace, else of a rate; None: nobody knows."""
        for other, tokens in self.traced:
            if _same(other, rule):
                return tokens
        if rule.name in ("sample", "greedy"):
            return 1.0
        rate = self.rates.get(rule.name, self.rates.get(""))
        if rate is None or not rule.strategy.needs_draft:
            return None
        return tokens_of_rate(rate, rule.strategy.depth)


def read_acceptance(values: flags.FlagValues) -> Acceptance:
    """Return what --trace and --acceptance_rate say.

    Raises:
      ValueError: a rate out of range, an unknown rule, or a file that is no such output, or has
        no text of any token.
      OSError: a file cannot be read.
    """
    rates = {}
    for item in values.acceptance_rate or ():
        name, _, text = item.rpartition(":")
        if name:
            try:
                find(name)
            except ValueError as error:
                raise ValueError(f"--acceptance_rate={item}: {error}") from error
        try:
            rates[name] = float(text)
        except ValueError as error:
            raise ValueError(
                f"--acceptance_rate={item} must be a number such as 0.7, or rule:number"
            ) from error
        tokens_of_rate(rates[name], 1)
    found: dict[str, tuple[Candidate, list[Mapping[str, Any]]]] = {}
    for path in values.trace or ():
        for source, row in _read_trace(Path(path)):
            key = json.dumps(row["rule"], sort_keys=True)
            if key not in found:  # once: a rule may read a file
                found[key] = _traced(source, row["rule"]), []
            found[key][1].append(row)
    return Acceptance([(rule, tokens_of_trace(rows)) for rule, rows in found.values()], rates)


def _read_trace(path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    """Return each line of an output of experiments.generate that has tokens, and where it is.

    Raises:
      ValueError: a line is something else, or there is none with tokens.
    """
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        source = f"{path}:{number}"
        try:
            row = json.loads(line)
            if not len(row["tokens"]):  # cut at once by a stop string: it says nothing
                continue
            assert row["stats"]["rounds"] >= 1 and "strategy" in row["rule"]
            found.append((source, row))
        except (KeyError, TypeError, AssertionError, json.JSONDecodeError) as error:
            raise _no_row(source) from error
    if not found:
        raise ValueError(f"{path}: no rows with tokens: give an output of experiments.generate")
    return found


def _traced(source: str, rule: Mapping[str, Any]) -> Candidate:
    """Return the rule that a row says.

    Raises:
      ValueError: it says none, or one that is refused.
    """
    try:
        given = {k: tuple(v) if isinstance(v, list) else v for k, v in rule.items()}
        return Candidate.of(str(given.pop("strategy")), **given)
    except (TypeError, AttributeError) as error:
        raise _no_row(source) from error


def _no_row(source: str) -> ValueError:
    return ValueError(
        f"{source}: no row of experiments.generate with `rule`, `tokens` and `stats`: give its "
        "--output, or --acceptance_rate instead"
    )


def rules_of(chosen: Candidate, known: Acceptance) -> list[Candidate]:
    """Return the rules to model: plain decoding, and with a draft the chosen rule, speculative,
    MTAD and MMTAD at its sizes, and those of the traces.

    Raises:
      ValueError: a trace is of a rule that needs a draft model, and there is none.
    """
    found, draft = [Candidate.of("sample")], chosen.strategy.needs_draft
    if draft:
        found += [_sized(name, chosen.settings) for name in _COMPARED]
    rules: list[Candidate] = []
    for rule in (*found, chosen, *(traced for traced, _ in known.traced)):
        if rule.strategy.needs_draft and not draft:
            raise ValueError(
                f"--trace is of {rule.name}, which drafts: give --draft and a --strategy that does"
            )
        if not any(_same(rule, other) for other in rules):
            rules.append(rule)
    return rules


def _sized(name: str, settings: Mapping[str, Any]) -> Candidate:
    """Return a rule with those of another one's settings that it has, too; None is its default."""
    own = inspect.signature(RECIPES[name]).parameters
    shared = [k for k in ("depth", "width", "tau", "draw") if k in own]
    return Candidate.of(name, **{k: settings[k] for k in shared if settings.get(k) is not None})


def _same(one: Candidate, other: Candidate) -> bool:
    """Return whether two rules are equal; they may hold arrays, which `==` compares one by one."""
    (mine, form), (theirs, its) = (jax.tree.flatten(rule.strategy) for rule in (one, other))
    alike = kinds_of(one.strategy) == kinds_of(other.strategy) and form == its
    return alike and all(map(np.array_equal, mine, theirs))
