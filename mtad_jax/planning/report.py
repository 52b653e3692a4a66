"""A plan as a table and as JSON."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from mtad_jax.planning.collectives import Collective, counts, layer_counts
from mtad_jax.planning.costs import Cost, link_seconds
from mtad_jax.planning.fit import RESERVE, gib
from mtad_jax.planning.job import Job
from mtad_jax.planning.plan import Plan


def lines_of(plan: Plan) -> list[str]:
    """Return the report."""
    groups = [_head(plan), _memory(plan), _fit(plan)]
    groups += [_collectives(plan), _costs(plan), _speeds(plan)]
    return [line for group in groups if group for line in (*group, "")][:-1]


def _head(plan: Plan) -> list[str]:
    job, machine = plan.job, plan.machine
    mesh = ",".join(f"{name}:{size}" for name, size in job.mesh.shape.items())
    if job.draft is not None:
        mesh += "; draft split too" if _draft_is_split(job) else "; draft whole on every chip"
    return [
        f"{' + '.join(plan.names)} on {machine.name}: {len(machine.devices)} chips",
        f"{job.target.dtype} {_int8(job)}",
        f"mesh {mesh}",
        *([f"  {plan.why}"] if plan.why else []),
        plan.candidate.label,
        f"batch {job.batch}, context {job.slots} = prompt {job.prompt} + text + scratch "
        f"{job.scratch}",
    ]


def _draft_is_split(job: Job) -> bool:
    rules = {} if job.draft is None else dict(job.draft.model.layout.rules.table)  # type: ignore
    return "heads" in rules


def _int8(job: Job) -> str:
    """Say what is int8."""
    found = [
        f"{name} {' and '.join(sorted(lm.model.int8))}"  # type: ignore[attr-defined]
        for name, lm in job.models.items()
        if lm.model.int8  # type: ignore[attr-defined]
    ]
    return f"(int8: {', '.join(found)})" if found else "throughout"


def _memory(plan: Plan) -> list[str]:
    memory, program = plan.memory, plan.program
    lines = [f"{'memory a chip, MiB':<22}{'counted':>10}{'compiler':>10}{'differ':>9}"]
    lines += [f"  {name:<20}{_mib(size):>10}" for name, size in memory.parts.items()]
    lines.append(_against("all that stays", memory.kept, program and program.arguments))
    lines.append(f"  {'logits and laws':<20}{_mib(memory.laws):>10}")
    lines.append(f"  {'activations':<20}{_mib(memory.activations):>10}")
    lines.append(_against("temporaries", memory.temporaries, program and program.temporaries))
    lines.append(_against("together", memory.total, program and program.arrays))
    if program is not None:
        lines.append(f"{'and program code':<22}{'':>10}{_mib(program.code):>10}")
    return lines


def _against(name: str, counted: int, compiled: int | None) -> str:
    line = f"{name:<22}{_mib(counted):>10}"
    if compiled is None:
        return line
    return f"{line}{_mib(compiled):>10}{counted / max(compiled, 1) - 1:>+9.1%}"


def _mib(size: float) -> str:
    return f"{size / 2**20:.1f}"


def _fit(plan: Plan) -> list[str]:
    fit, chip = plan.fit, plan.machine.chip
    lines = [fit.verdict, f"  of {gib(chip.memory)} GiB {RESERVE:.0%} are left to other programs"]
    if not fit.fits:
        return [*lines, *(f"  what would help: {cure}" for cure in fit.cures)]
    context = f"{fit.memory_context}"
    if fit.memory_context is not None and fit.memory_context > fit.positions:
        context = f"{fit.context} (all positions; memory would hold {fit.memory_context})"
    return [
        *lines,
        f"  estimated most at this batch: context {context}",
        f"  estimated most at this context: batch {fit.batch}",
    ]


def _collectives(plan: Plan) -> list[str]:
    found, program = plan.collectives, plan.program
    if found is None or program is None:
        return []
    lines = [f"{'collectives':<22}{'number':>10}{'MiB':>10}  which"]
    for name, part in (("prefill, a chunk", found.prefill), ("a round", found.round)):
        size = sum(c.bytes for c in part) / 2**20
        which = ", ".join(f"{n} {kind}" for kind, n in counts(part).items()) or "none"
        lines.append(f"  {name:<20}{len(part):>10}{size:>10.2f}  {which}")
    lines.append("  a layer of the target: " + _per_layer(plan, found.round))
    return [*lines, f"compiled in {program.seconds:.0f} s"]


def _per_layer(plan: Plan, part: Sequence[Collective]) -> str:
    inside, outside = layer_counts(part)
    if _draft_is_split(plan.job):
        return "-, as the draft has some, too"
    layers = plan.job.target.model.config.num_layers  # type: ignore[attr-defined]
    text = ", ".join(f"{n / layers:g} {kind}" for kind, n in inside.items()) or "none"
    rest = ", ".join(f"{n} {kind}" for kind, n in outside.items()) or "none"
    return f"{text}; outside of layers: {rest}"


def _costs(plan: Plan) -> list[str]:
    head = f"{'reads and work a chip':<24}{'tokens':>7}{'weights':>9}{'cache':>8}{'other':>8}"
    lines = [f"{head}{'Gflop':>9}{'floor ms':>10}", f"{'':<31}{'MiB':>9}{'MiB':>8}{'MiB':>8}"]
    lines += _cost_lines("target", plan.round.calls.target, plan.round.target, plan)
    lines += _cost_lines("draft", plan.round.calls.draft, plan.round.draft, plan)
    lines.append(_cost_line("a round", "", plan.round.sum(), plan.round.floor(plan.machine.chip)))
    plain = plan.plain
    lines.append(_cost_line("plain: target", "1", plain.target[0], plain.floor(plan.machine.chip)))
    if plan.collectives is not None:
        seconds = link_seconds(plan.job, plan.machine.chip, plan.collectives.round)
        lines.append(f"  collectives of a round, modelled: {_ms(seconds)} ms")
    if plan.estimates:
        shown = ", ".join(f"{n}: {s * 1e3:.3f} ms" for n, s in plan.estimates.items())
        first, *_, last = plan.estimates.values()
        lines.append(f"  compiler's estimate of a target call, by tokens: {shown}")
        lines.append(f"  so the longer one takes {last / first:.3f} times the single token")
    return lines


def _cost_lines(name: str, tokens: Iterable[int], costs: Iterable[Cost], plan: Plan) -> list[str]:
    """Return a line for each size of a model's calls."""
    calls = dict(zip(tokens, costs, strict=True))
    return [
        _cost_line(
            f"{name} x {count}" if count > 1 else name,
            str(n), calls[n], calls[n].floor(plan.machine.chip),
        )
        for n, count in Counter(tokens).items()
    ]  # fmt: skip


def _cost_line(name: str, tokens: str, cost: Cost, floor: float | None) -> str:
    mib = [size / 2**20 for size in (cost.weights, cost.cache, cost.activations)]
    return (
        f"  {name:<22}{tokens:>7}{mib[0]:>9.1f}{mib[1]:>8.1f}{mib[2]:>8.1f}"
        f"{cost.flops / 1e9:>9.1f}{_ms(floor):>10}"
    )


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.3f}"


def _speeds(plan: Plan) -> list[str]:
    width = max(len(s.rule) for s in plan.speeds) + 2
    lines = [
        f"{'modelled':<{width}}{'tokens/call':>12}{'round ms':>10}{'tokens/s':>10}{'J/token':>9}"
    ]
    for s in plan.speeds:
        calls, rate, joules = (
            "-" if x is None else f"{x:.{digits}f}"
            for x, digits in (
                (s.tokens_per_call, 2), (s.tokens_per_second, 0), (s.joules_per_token, 2),
            )
        )  # fmt: skip
        lines.append(f"{s.rule:<{width}}{calls:>12}{_ms(s.round_seconds):>10}{rate:>10}{joules:>9}")
    watts = "power unknown"
    if plan.watts is not None:
        given = plan.watts != plan.machine.chip.watts
        watts = f"{plan.watts:g} W a chip ({'given' if given else plan.machine.chip.watts_are})"
    return [
        *lines,
        f"modelled, not measured: floor / {plan.efficiency:g} + collectives; {watts};",
        "a rule without a trace or a rate has no speed here: -",
    ]


def as_json(plan: Plan) -> dict[str, Any]:
    """Return the plan as JSON holds it, bytes and seconds unrounded."""
    job, fit = plan.job, plan.fit
    found: dict[str, Any] = {
        "models": plan.names,
        "topology": plan.machine.name,
        "chips": len(plan.machine.devices),
        "chip": dataclasses.asdict(plan.machine.chip),
        "mesh": dict(job.mesh.shape),
        "mesh_reason": plan.why,
        "rule": {"strategy": plan.candidate.name, **plan.candidate.settings},
        "batch_size": job.batch,
        "context": job.slots,
        "prompt": job.prompt,
        "scratch": job.scratch,
        "memory": dataclasses.asdict(plan.memory) | {"total": plan.memory.total},
        "compiler": None,
        "fits": fit.fits,
        "fit": dataclasses.asdict(fit),
        "round": dataclasses.asdict(plan.round) | {"floor": plan.round.floor(plan.machine.chip)},
        "speeds": [dataclasses.asdict(s) for s in plan.speeds],
        "watts": plan.watts,
        "efficiency": plan.efficiency,
        "estimates": plan.estimates,
    }
    if plan.program is not None:
        sizes = dataclasses.asdict(plan.program)
        found["compiler"] = {k: v for k, v in sizes.items() if k != "text"}
        found["compiler"] |= {"arrays": plan.program.arrays, "total": plan.program.total}
    if plan.collectives is not None:
        found["collectives"] = {
            "prefill": counts(plan.collectives.prefill),
            "round": counts(plan.collectives.round),
        }
    return found
