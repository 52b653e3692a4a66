"""The rules of a plan's last table, and how many tokens a call of the target gives them."""

import dataclasses
import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from mtad_jax.calibration.candidates import Candidate
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
            if other.strategy == rule.strategy:
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
      ValueError: a rate out of range, an unknown rule, or a file that is no such output.
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
    found: list[tuple[Candidate, list[Mapping[str, Any]]]] = []
    for path in values.trace or ():
        for rule, row in _read_trace(Path(path)):
            same = [rows for other, rows in found if other.strategy == rule.strategy]
            if same:
                same[0].append(row)
            else:
                found.append((rule, [row]))
    return Acceptance([(rule, tokens_of_trace(rows)) for rule, rows in found], rates)


def _read_trace(path: Path) -> list[tuple[Candidate, Mapping[str, Any]]]:
    """Return the rule and the row of each line of an output of experiments.generate.

    Raises:
      ValueError: a line is something else, or there is none.
    """
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            rule = row["rule"]
            given = {k: tuple(v) if isinstance(v, list) else v for k, v in rule.items()}
            assert row["stats"]["rounds"] >= 1 and len(row["tokens"]) >= 1
            found.append((Candidate.of(str(given.pop("strategy")), **given), row))
        except (KeyError, TypeError, AttributeError, AssertionError, json.JSONDecodeError) as error:
            raise ValueError(
                f"{path}:{number}: no row of experiments.generate with `rule`, `tokens` and "
                "`stats`: give its --output, or --acceptance_rate instead"
            ) from error
    if not found:
        raise ValueError(f"{path}: no rows: give an output of experiments.generate")
    return found


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
        if all(rule.strategy != other.strategy for other in rules):
            rules.append(rule)
    return rules


def _sized(name: str, settings: Mapping[str, Any]) -> Candidate:
    """Return a rule with those of another one's settings that it has, too."""
    own = inspect.signature(RECIPES[name]).parameters
    shared = ("depth", "width", "tau", "draw")
    return Candidate.of(name, **{k: settings[k] for k in shared if k in own and k in settings})
