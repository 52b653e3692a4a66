"""Whether a decode fits the chips, how much more would, and what would help if it does not."""

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import cast

from mtad_jax.models.linen import LinenLM
from mtad_jax.models.quantize import PARTS
from mtad_jax.planning.chips import Chip
from mtad_jax.planning.job import Job, bind
from mtad_jax.planning.memory import Memory, analytic
from mtad_jax.planning.program import Program

RESERVE = 0.02
"""Share of a chip's memory that is left for other programs: prompts, results, the runtime."""

_MOST_ROWS = 1 << 16
_MOST_SLOTS = 1 << 22
_STEP = 512  # slots; contexts compile in these steps


@dataclasses.dataclass(frozen=True)
class Fit:
    """Bytes on each chip against what it has.

    Attributes:
      needed: by the compiler's count, or by ours where nothing was compiled.
      usable: of a chip's memory, `RESERVE` left out.
      batch: most rows that fit at this context, estimated; None: none.
      context: most slots a row that fit at this batch, estimated, within the models' positions.
      memory_context: the same whatever the models' positions.
      positions: of the model that has fewer.
      cures: what would help, where it does not fit.
      refusal: what the compiler said where it found too little memory; None: it did not.
    """

    needed: int
    usable: int
    batch: int | None
    context: int | None
    memory_context: int | None
    positions: int
    cures: tuple[str, ...]
    refusal: str | None = None

    @property
    def fits(self) -> bool:
        """Whether it fits."""
        return self.refusal is None and self.needed <= self.usable

    @property
    def verdict(self) -> str:
        """One line: whether it fits, and by how much or how much not."""
        room = f"{gib(self.usable)} GiB a chip"
        if self.refusal is not None:
            return f"does not fit {room}, says the compiler: {self.refusal}"
        if self.needed <= self.usable:
            return f"fits: {gib(self.needed)} GiB needed, {room}"
        over = gib(self.needed - self.usable)
        return f"does not fit: {gib(self.needed)} GiB needed, {room}: {over} GiB too much"


def usable(chip: Chip) -> int:
    """Return the bytes of a chip that a plan may fill."""
    return int(chip.memory * (1 - RESERVE))


def judge(
    job: Job,
    chip: Chip,
    memory: Memory,
    program: Program | None,
    *,
    tpu: bool,
    refusal: str | None = None,
) -> Fit:
    """Judge a decode by its compiled program, or by the analytic count where there is none.

    `refusal` is the compiler's, if it found too little memory. The largest batch and context are
    from the analytic count, its temporaries scaled by what the compiler needed for this one:
    compile them to be sure.
    """
    room = usable(chip)

    def fits(**change: int) -> bool:
        return estimate(job, memory, program, tpu=tpu, **change) <= room

    data = job.mesh.shape["data"]
    positions = min(lm.model.max_positions for lm in job.models.values())
    least = job.prompt + 1 + job.scratch
    contexts = [*range(-(-least // _STEP) * _STEP, _MOST_SLOTS, _STEP)]
    batch = largest(range(data, _MOST_ROWS, data), lambda n: fits(batch=n))
    slots = largest(contexts, lambda n: fits(slots=n))
    needed = memory.total if program is None else program.total
    fit = Fit(
        needed=needed,
        usable=room,
        batch=batch,
        context=None if slots is None else min(slots, positions),
        memory_context=slots,
        positions=positions,
        cures=(),
        refusal=refusal,
    )
    return fit if fit.fits else dataclasses.replace(fit, cures=_cures(job, fit, memory, tpu=tpu))


def estimate(
    job: Job,
    memory: Memory,
    program: Program | None,
    *,
    tpu: bool,
    batch: int | None = None,
    slots: int | None = None,
) -> float:
    """Return the bytes on each chip of a job with another batch or context."""
    other = dataclasses.replace(job, batch=batch or job.batch, slots=slots or job.slots)
    guess = analytic(other, tpu=tpu)
    if program is None:
        return guess.total
    return guess.kept + guess.temporaries * program.temporaries / memory.temporaries + program.code


def largest(sizes: Iterable[int], fits: Callable[[int], bool]) -> int | None:
    """Return the largest of rising sizes that fits, by halving; None: not even the first."""
    sizes = list(sizes)
    low, high = 0, len(sizes)  # sizes[:low] fit, sizes[high:] do not
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if fits(sizes[middle]) else (low, middle)
    return sizes[low - 1] if low else None


def _cures(job: Job, fit: Fit, memory: Memory, *, tpu: bool) -> tuple[str, ...]:
    """Return what would make it fit, by the analytic count.

    Where the compiler refuses what the count allows, nobody knows how much is missing.
    """
    over = fit.needed - fit.usable
    cures = _int8_cures(job, memory, over, tpu=tpu)
    if over <= 0:
        return (*cures, "a shorter context, a smaller batch or more chips may fit")
    if fit.context is not None and fit.context < job.slots:
        cures.append(f"a context of {fit.context} or less")
    if fit.batch is not None and fit.batch < job.batch:
        cures.append(f"a batch of {fit.batch} or less")
    split = memory.parts["target weights"] + memory.parts["target cache"]
    room = fit.usable - (fit.needed - split)
    if room > 0:
        data = job.mesh.shape["data"]  # these hold the same weights
        shards = math.ceil(split * (job.mesh.size // data) / room)
        over_all = "all of them" if data == 1 else f"{shards} of them, and data:{data}"
        cures.append(f"at least {shards * data} such chips with the target split over {over_all}")
    return tuple(cures)


def _int8_cures(job: Job, memory: Memory, over: int, *, tpu: bool) -> list[str]:
    """Return what the target saves as int8: its weights, then its cache too if that is too little.

    `over` is how many bytes are too many; unknown where it is not positive.
    """
    model, cures = cast(LinenLM, job.target.model), []
    full = [part for part in PARTS if part not in model.int8]
    for parts in (full[: n + 1] for n in range(len(full))):
        other = dataclasses.replace(job, target=bind(model.quantized(parts), job.target.dtype))
        saved = memory.total - analytic(other, tpu=tpu).total
        verdict = "may fit" if over <= 0 else "fits" if saved >= over else "is not enough"
        name = " and ".join(parts).replace("kv", "cache")
        cures.append(f"int8 {name} of the target save {gib(saved)} GiB a chip: that {verdict}")
        if verdict == "fits":
            break
    return cures


def gib(size: float) -> str:
    """Return bytes as GiB with two digits."""
    return f"{size / 2**30:.2f}"
