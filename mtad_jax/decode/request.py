"""What is asked of a rule, and the checks that rules share: one line, on the host."""

import dataclasses
import numbers
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

UNKNOWN = 2**31  # of a size that is not known yet: nothing is refused because of it
_MOST_NODES = 1024  # of a fixed tree: beyond it one target call costs more than it can save
_DEEPEST = 512  # so that keys of a round's steps stay apart (`random.round_keys`: below 1024)


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked of a rule, as far as it is known: what `check` may refuse.

    Attributes:
      vocab: token ids of both models.
      top_k, draft_top_k: tokens that the target's and the draft's warp keep; 0: all.
      shortest: tokens of the shortest prompt.
      samples: texts for each prompt.
      rows: texts decoded together.
      penalty: whether a repetition penalty is asked for.
      trees: whether both models can run trees of tokens.
    """

    vocab: int = UNKNOWN
    top_k: int = 0
    draft_top_k: int = 0
    shortest: int = UNKNOWN
    samples: int = 1
    rows: int = 1
    penalty: bool = False
    trees: bool = True


def check_draws(request: Request, cure: str) -> None:
    """Raise ValueError where several samples are asked of a rule that draws nothing."""
    if request.samples > 1:
        raise ValueError(
            f"samples={request.samples}: this strategy draws nothing, so all would be the same "
            f"text: {cure} or ask for one sample"
        )


def check_whole(name: str, value: int) -> None:
    """Raise ValueError on a setting that is no integer: it is a size of arrays."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise ValueError(f"{name}={value!r} must be a whole number: write it as an integer")


def refuse_traced(name: str, value: Any) -> None:
    """Raise ValueError on a traced value: checks on the host need to know it."""
    if isinstance(value, Tracer):
        raise ValueError(
            f"{name} is traced ({value.aval.str_short()}): decoding compiles its own program and "
            "is called with known values: call it outside jit, vmap and grad"
        )


def check_number(name: str, value: Any) -> float:
    """Return a setting as a float.

    Raises:
      TypeError: it is no single number.
      ValueError: it is traced.
    """
    refuse_traced(name, value)
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        if value.ndim == 0 and (value.dtype.kind in "iuf" or value.dtype.name == "bfloat16"):
            return float(value)
        raise TypeError(f"{name} has shape {value.shape} and dtype {value.dtype}: give one number")
    raise TypeError(f"{name}={value!r} must be a number: write it without quotes, such as 0.5")


def check_depth(depth: int, name: str = "depth") -> None:
    """Raise ValueError on a depth out of range."""
    check_whole(name, depth)
    if depth < 1:
        raise ValueError(f"{name}={depth} must be >= 1: draft at least one token a round")
    if depth > _DEEPEST:
        raise ValueError(f"{name}={depth} must be <= {_DEEPEST}: lower {name}")


def check_width(width: int, vocab: int, top_k: int) -> None:
    """Raise ValueError on a width below 1 or above the tokens that the warp keeps."""
    check_whole("width", width)
    most = min(vocab, top_k) if top_k else vocab
    if not 1 <= width <= most:
        name = f"top_k={top_k}" if top_k and top_k < vocab else f"vocabulary={vocab}"
        raise ValueError(f"width={width} must be between 1 and {name}: lower width")


def check_nodes(name: str, nodes: int, cure: str) -> None:
    """Raise ValueError on a tree with more nodes than a target call is worth."""
    if nodes > _MOST_NODES:
        raise ValueError(f"{name} has {nodes} nodes > {_MOST_NODES}: lower {cure}")


def check_trees(request: Request) -> None:
    """Raise ValueError where a model runs chains only."""
    if not request.trees:
        raise ValueError(
            "this strategy drafts a tree of tokens, and a model runs chains only (its `trees` is "
            "False): use a strategy that drafts a chain, such as speculative"
        )


def check_draw(draw: str, known: tuple[str, ...] = ("search", "sample")) -> None:
    """Raise ValueError on an unknown way to choose beams."""
    if draw not in known:
        raise ValueError(f"draw={draw!r} must be {' or '.join(known)}")
