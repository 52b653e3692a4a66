"""Which collectives a compiled program has, read from the compiler's own text (HLO)."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

_KINDS = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter|ragged-all-to-all"
_OP = re.compile(rf" = (.*?) ({_KINDS})(-start)?\(")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_CALLED = re.compile(r"(?:body|condition|calls|to_apply|\w+_computations?)=(\{[^}]*\}|%[\w.\-]+)")
_ARRAY = re.compile(r"\b([a-z]+[0-9]*)[a-z0-9]*\[([0-9,]*)\]")
_BITS = {"pred": 8}


@dataclass(frozen=True)
class Collective:
    """One collective of a program.

    Attributes:
      kind: such as "all-reduce".
      bytes: of its result on one chip.
      where: the operation that it came from, as the program names it.
    """

    kind: str
    bytes: int
    where: str


@dataclass(frozen=True)
class Collectives:
    """Those of the decode program. A loop's body counts once.

    Attributes:
      prefill: of all that comes before the decode loop.
      round: of one round: the target's call and all of the draft's.
    """

    prefill: tuple[Collective, ...]
    round: tuple[Collective, ...]


def counts(collectives: Iterable[Collective]) -> dict[str, int]:
    """Return how many there are of each kind."""
    return dict(sorted(Counter(c.kind for c in collectives).items()))


def layer_counts(collectives: Sequence[Collective]) -> tuple[dict[str, int], dict[str, int]]:
    """Return how many of each kind are inside of layers, and how many outside."""
    inside = [c for c in collectives if re.search(r"/layer_\d+/", c.where)]
    outside = [c for c in collectives if not re.search(r"/layer_\d+/", c.where)]
    return counts(inside), counts(outside)


def read_collectives(text: str) -> Collectives:
    """Return the collectives of a compiled decode program.

    Its outer loops run one after the other; the last of them is the decode loop.

    Raises:
      ValueError: the text holds no loop at all.
    """
    bodies, entry = _computations(text)
    loops = [line for line in bodies[entry] if re.search(r"\bwhile\(", line)]
    if not loops:
        raise ValueError("the program has no loop: it is no decode program")
    before = [line for line in bodies[entry] if line is not loops[-1]]
    return Collectives(_found(before, bodies), _found(loops[-1:], bodies))


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """Return each computation's lines by name, and the name of the entry."""
    bodies: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in text.splitlines():
        header = None if line.startswith(" ") else _HEADER.match(line)
        if header:
            lines = bodies.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif line.startswith(" "):
            lines.append(line)
    return bodies, entry


def _found(lines: list[str], bodies: Mapping[str, list[str]]) -> tuple[Collective, ...]:
    """Return the collectives of some lines and of all computations that they call."""
    found: list[Collective] = []
    for line in lines:
        match = _OP.search(line)
        if match:
            where = re.search(r'op_name="([^"]*)"', line)
            size = _result_bytes(match[1], started=bool(match[3]), kind=match[2])
            found.append(Collective(match[2], size, where[1] if where else ""))
            continue  # what it calls adds two numbers
        for group in _CALLED.findall(line):
            for name in re.findall(r"%([\w.\-]+)", group):
                found += _found(bodies.get(name, []), bodies)
    return tuple(found)


def _result_bytes(shape: str, *, started: bool, kind: str) -> int:
    """Return the bytes of a result such as `(bf16[1,17,8192]{2,1,0}, f32[4])`."""
    sizes = [
        math.prod(int(n) for n in dims.split(",") if n) * _item(dtype)
        for dtype, dims in _ARRAY.findall(shape)
    ]
    if started and kind != "all-reduce":  # (operands, results, ...): the larger is the result
        return max(sizes, default=0)
    return sum(sizes)


def _item(dtype: str) -> int:
    """Return the bytes of an item of `bf16`, `s32`, `pred`, ..."""
    bits = _BITS.get(dtype) or int(re.sub(r"^[a-z]+", "", dtype) or 8)
    return max(bits // 8, 1)
