"""A plan of a decode: counted, compiled and judged."""

import dataclasses
import sys
from collections.abc import Iterator, Sequence

from mtad_jax import recipes
from mtad_jax.calibration.candidates import Candidate
from mtad_jax.planning.collectives import Collectives, read_collectives
from mtad_jax.planning.costs import Round, Speed, link_seconds, round_of, speed
from mtad_jax.planning.fit import Fit, gib, judge
from mtad_jax.planning.job import Job
from mtad_jax.planning.memory import Memory, analytic
from mtad_jax.planning.program import DoesNotFit, Program, compile_call, compile_decode
from mtad_jax.planning.topology import Machine


@dataclasses.dataclass(frozen=True)
class Plan:
    """All that a plan found.

    Attributes:
      names: of the target and of the draft, if there is one.
      machine: the devices.
      job: the decode.
      candidate: its rule.
      why: of the mesh.
      memory: the analytic count.
      program: the compiled one; None: it was not compiled.
      fit: the verdict.
      collectives: of the program.
      round: the rule's cost.
      plain: that of a call on one token.
      speeds: the modelled rules.
      watts: a chip.
      efficiency: share of the floor's speed that the model takes.
      estimates: tokens of a lone call -> the compiler's guess of its seconds.
    """

    names: tuple[str, ...]
    machine: Machine
    job: Job
    candidate: Candidate
    why: str
    memory: Memory
    program: Program | None
    fit: Fit
    collectives: Collectives | None
    round: Round
    plain: Round
    speeds: tuple[Speed, ...]
    watts: float | None
    efficiency: float
    estimates: dict[int, float]


def make_plan(
    job: Job,
    machine: Machine,
    candidate: Candidate,
    *,
    names: Sequence[str],
    rules: Sequence[tuple[Candidate, float | None]] = (),
    why: str = "",
    watts: float | None = None,
    efficiency: float = 1.0,
    estimates: bool = False,
) -> Plan:
    """Count, compile and judge a decode, and model the speed of rules on its models.

    Args:
      job: the decode.
      machine: the devices that it is for.
      candidate: the job's rule with its settings, for its label.
      names: of the target and of the draft, if there is one.
      rules: what the table of speeds has, each with the tokens that a target call gives, None where
        unknown; all are taken to have the compiled rule's collectives.
      why: of the mesh.
      watts: power of a chip; None: as the chip's table says.
      efficiency: share of the floor's speed that is reached, in (0, 1].
      estimates: compile lone calls too, for the compiler's estimates of them.
    """
    watts = machine.chip.watts if watts is None else watts
    memory = analytic(job, tpu=machine.is_tpu)
    program, refusal = _compile(job, machine, memory.total)
    found = read_collectives(program.text) if program else None
    links = link_seconds(job, machine.chip, found.round) if found else None
    return Plan(
        names=tuple(names),
        machine=machine,
        job=job,
        candidate=candidate,
        why=why,
        memory=memory,
        program=program,
        fit=judge(job, machine.chip, memory, program, tpu=machine.is_tpu, refusal=refusal),
        collectives=found,
        round=round_of(job, job.strategy),
        plain=round_of(job, recipes.sample()),
        speeds=tuple(
            speed(
                job, machine.chip, rule.label, round_of(job, rule.strategy),
                tokens_per_call=tokens, links=links, watts=watts, efficiency=efficiency,
            )
            for rule, tokens in rules
        ),
        watts=watts,
        efficiency=efficiency,
        estimates=_estimates(job) if estimates and program else {},
    )  # fmt: skip


def verified(plan: Plan) -> Iterator[str]:
    """Compile the largest batch and context that a plan says fit; yield a line on each."""
    fit = plan.fit
    for name, change in (("batch", fit.batch), ("slots", fit.context)):
        if change is not None and change != getattr(plan.job, name):
            other = dataclasses.replace(plan.job, **{name: change})
            try:
                total = compile_decode(other).total
                verdict = "fits" if total <= fit.usable else "does not fit"
                yield f"verified: {name} {change} {verdict}, {gib(total)} GiB a chip"
            except DoesNotFit as error:
                yield f"verified: {name} {change} does not fit: {error}"


def _compile(job: Job, machine: Machine, counted: int) -> tuple[Program | None, str | None]:
    """Compile the decode, and return what the compiler says if it finds too little memory.

    What cannot fit by our own count is not compiled at all.
    """
    if counted > machine.chip.memory:
        return None, None
    print(f"compiling for {machine.name} (a large model: minutes) ...", file=sys.stderr, flush=True)
    try:
        return compile_decode(job), None
    except DoesNotFit as error:
        return None, str(error)


def _estimates(job: Job) -> dict[int, float]:
    """Return the compiler's estimates of target calls on one and on K + 1 tokens."""
    found = {n: compile_call(job, n).estimate for n in (1, job.strategy.depth + 1)}
    return {n: seconds for n, seconds in found.items() if seconds is not None}
