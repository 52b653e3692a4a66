"""Bytes and operations of a round, the least time that a chip needs for them, and what follows."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax

from mtad_jax.calibration.calls import Calls, round_calls
from mtad_jax.decode.protocols import Strategy
from mtad_jax.models.protocol import BoundLM
from mtad_jax.planning.chips import Chip
from mtad_jax.planning.collectives import Collective
from mtad_jax.planning.job import Job, state_of
from mtad_jax.planning.memory import plain_bytes, total

HOP_SECONDS = 1e-6
"""Time of a message from a chip to the next: an assumption, not published."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one chip does in one call of a model, or in several.

    Attributes:
      weights: bytes of parameters read.
      cache: bytes of the cache read: attention reads every slot, filled or not.
      activations: bytes written and read in between, logits included.
      flops: operations; a multiplication and an addition are two.
    """

    weights: int
    cache: int
    activations: int
    flops: int

    @property
    def bytes(self) -> int:
        """All of them."""
        return self.weights + self.cache + self.activations

    def floor(self, chip: Chip) -> float | None:
        """Return the least seconds for it; None: the chip's speed is not published."""
        if chip.bandwidth is None or chip.flops is None:
            return None
        return max(self.bytes / chip.bandwidth, self.flops / chip.flops)


@dataclasses.dataclass(frozen=True)
class Round:
    """One round of a rule.

    Attributes:
      calls: tokens a row of each call.
      target, draft: the cost of each call, in the calls' order.
    """

    calls: Calls
    target: tuple[Cost, ...]
    draft: tuple[Cost, ...]

    def floor(self, chip: Chip) -> float | None:
        """Return the least seconds of a round: its calls wait for each other."""
        parts = [cost.floor(chip) for cost in (*self.target, *self.draft)]
        return None if None in parts else sum(p for p in parts if p is not None)

    def sum(self) -> Cost:
        """Return all calls as one cost."""
        costs = (*self.target, *self.draft)
        return Cost(*(sum(getattr(c, f.name) for c in costs) for f in dataclasses.fields(Cost)))


def round_of(job: Job, strategy: Strategy) -> Round:
    """Return the cost of a round of any rule on a job's models."""
    draft = job.draft if strategy.needs_draft else None
    calls = round_calls(strategy, job.target, draft, job.controls)
    state = state_of(job)
    target = tuple(call_cost(job, job.target, state.target_cache, n) for n in calls.target)
    if draft is None:
        return Round(calls, target, ())
    return Round(
        calls, target, tuple(call_cost(job, draft, state.draft_cache, n) for n in calls.draft)
    )


def call_cost(job: Job, lm: BoundLM, cache: Any, tokens: int) -> Cost:
    """Return what one chip does in a call on so many tokens a row."""
    model: Any = lm.model
    c, item = model.config, lm.dtype.itemsize
    rows = tokens * job.batch // job.mesh.shape["data"]
    read, multiplied = _weights(lm, rows)
    split = _split(job, model)
    heads = c.num_heads // split["heads"]
    stream = 4 * c.embed_dim + 2 * (heads + 2 * c.num_kv_heads // split["kv_heads"]) * c.head_dim
    layer = item * (stream + 3 * c.mlp_dim // split["mlp"])  # scores can stay on the chip
    logits = 4 * c.vocab_size
    attention = 4 * heads * job.slots * c.head_dim * c.num_layers
    return Cost(
        weights=read,
        cache=total(cache, plain_bytes),
        activations=2 * rows * (c.num_layers * layer + logits),
        flops=rows * (2 * multiplied + attention),
    )


def _split(job: Job, model: Any) -> dict[str, int]:
    """Return over how many chips each logical axis is split."""
    table = dict(model.layout.rules.table)
    sizes = job.mesh.shape
    return {
        axis: math.prod(sizes[name] for name in table.get(axis, ()))
        for axis in ("heads", "kv_heads", "mlp")
    }


def _weights(lm: BoundLM, rows: int) -> tuple[int, int]:
    """Return the bytes of parameters that a chip reads, and the numbers that it multiplies with.

    Of a table that is only looked up, a row a token is read.
    """
    read = multiplied = 0
    tied = lm.model.config.tied_head  # type: ignore[attr-defined]
    for path, leaf in jax.tree_util.tree_leaves_with_path(lm.params):
        names = [str(getattr(key, "key", getattr(key, "name", key))) for key in path]
        size, shape = plain_bytes(leaf), leaf.sharding.shard_shape(leaf.shape)
        if "table" in names and not (tied and names[0] == "embed"):
            read += min(size, rows * size // shape[0])
            continue
        read += size
        multiplied += math.prod(shape) if len(shape) > 1 and 1 not in shape else 0
    return read, multiplied


def link_seconds(job: Job, chip: Chip, collectives: tuple[Collective, ...]) -> float | None:
    """Return the modelled time of a round's collectives; None: the links are not published.

    Each runs around a ring of the chips that weights are split over: its bytes over the links once,
    of an all-reduce twice, and a hop for each other chip. All links of a chip are taken to be used,
    which a small slice cannot: it has no neighbours on some. Nothing is taken to overlap with
    computing.
    """
    if chip.link is None:
        return None
    chips = job.mesh.shape["model"] * job.mesh.shape["fsdp"]
    passes = sum((2 if c.kind == "all-reduce" else 1) * c.bytes for c in collectives)
    moved = passes * (chips - 1) / chips
    return len(collectives) * (chips - 1) * HOP_SECONDS + moved / chip.link


@dataclasses.dataclass(frozen=True)
class Speed:
    """A rule's modelled speed, all rows of a batch together.

    Attributes:
      rule: its label.
      tokens_per_call: of one row, for each call of the target.
      round_seconds: modelled.
      tokens_per_second: modelled.
      joules_per_token: modelled, all chips at full power.
    """

    rule: str
    tokens_per_call: float | None
    round_seconds: float | None
    tokens_per_second: float | None
    joules_per_token: float | None


def speed(
    job: Job,
    chip: Chip,
    label: str,
    cost: Round,
    *,
    tokens_per_call: float | None,
    links: float | None,
    watts: float | None,
    efficiency: float = 1.0,
) -> Speed:
    """Model a rule's speed: rounds take their floor over `efficiency`, plus the collectives."""
    floor = cost.floor(chip)
    seconds = None if floor is None else floor / efficiency + (links or 0.0)
    if seconds is None or tokens_per_call is None:
        return Speed(label, tokens_per_call, seconds, None, None)
    rate = job.batch * tokens_per_call * len(cost.target) / seconds
    energy = None if watts is None else watts * job.mesh.size / rate
    return Speed(label, tokens_per_call, seconds, rate, energy)


def tokens_of_rate(rate: float, depth: int) -> float:
    """Return the tokens of a round if each drafted one is accepted with the same chance.

    Source: Leviathan et al. 2023, equation 1.

    Raises:
      ValueError: the rate is not in [0, 1].
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"acceptance_rate={rate} must be in [0, 1]")
    return sum(rate**i for i in range(depth + 1))


def tokens_of_trace(rows: list[Mapping[str, Any]]) -> float:
    """Return the tokens of a call of the target over a run's rows."""
    return sum(len(row["tokens"]) for row in rows) / sum(row["stats"]["rounds"] for row in rows)
