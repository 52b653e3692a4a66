"""First parameters of a Llama that copy: induction heads, set by construction.

A transformer finds by itself that what followed a token before may follow it again, but late:
heads that do so, *induction heads* (Olsson et al., 2022, arXiv:2209.11895), come after some
millions of tokens even in small models, and until then a query's names are guesses. Written into
the first parameters, in the way of mimetic initialization (Trockman and Kolter, 2023,
arXiv:2305.09828), they are there from the first step, and training keeps what is of use:

1. The embedding fills one half of the stream; one dimension of it is a constant.
2. In the first layer, heads with queries and keys of that constant alone attend, by the angles of
   RoPE, to the token 1, 2 and 3 places back, and write it into the other half.
3. In the second layer, a key is what preceded a token, a query what the token itself and those
   before it are, both in the slow pairs of RoPE, which distance hardly turns; where they agree, the
   token of the key is copied into the output.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtad_jax.models.llama import LlamaConfig
from mtad_jax.types import Params

SCALE = 0.03  # of the embedding's entries, and of what the first heads write
CONSTANT = 4.0  # the constant's size, in SCALE
LOOK = 20.0  # score of the place looked for, before the softmax
MATCH = 8.0  # score of one agreeing token
SHARES = (1.0, 0.64, 0.36)  # what a token 1, 2, 3 places back counts in a match
FAST = 6  # pairs of RoPE by which a place is found
NEAR = 125  # tokens within which the slow pairs turn by less than 1 rad
COPY = 2.0  # size of what is copied, in SCALE


def with_induction(params: Params, config: LlamaConfig, seed: int) -> Params:
    """Return parameters whose first two layers hold induction heads; the others' writes are small.

    Args:
      params: of a fresh model, f32.
      config: its shape.
      seed: of the random projections.

    Raises:
      ValueError: the model has no room for them.
    """
    check_room(config)
    rng = np.random.default_rng((seed, 1))
    new: Any = jax.tree.map(np.array, params)
    own, rooms = _rooms(config)
    table = new["embed"]["table"]
    table[:] = rng.normal(size=table.shape) * SCALE
    table[:, own:] *= 0.1
    table[:, 0] = CONSTANT * SCALE
    for i in range(config.num_layers):
        # What GPT-2 does: the stream does not grow with depth.
        for name in ("o", "down"):
            new[f"layer_{i}"][name]["kernel"] *= (2 * config.num_layers) ** -0.5
    sight = _orthogonal(rng, config.head_dim, own - 1)
    _look_back(new["layer_0"], config, sight, rooms)
    _match_and_copy(new["layer_1"], config, sight, rooms, rng)
    return jax.tree.map(jnp.asarray, new)


def check_room(config: LlamaConfig) -> None:
    """Check that the heads fit.

    Raises:
      ValueError: they do not.
    """
    if not config.tied_head:
        raise ValueError(
            "config.induction needs config.model.tied_head=True: what is copied is an embedding, "
            "which another head does not read: set it or give --config.induction=False"
        )
    if not len(_slow_pairs(config)):
        raise ValueError(
            f"config.induction needs pairs of RoPE that {NEAR} tokens turn by 1 rad at most, and "
            f"config.model.rope_theta={config.rope_theta:g} leaves none: use 10000 or more, or "
            "give --config.induction=False"
        )
    least = {"num_layers": 2, "num_heads": len(SHARES), "head_dim": 2 * FAST, "embed_dim": 32}
    for name, bound in least.items():
        if (value := getattr(config, name)) < bound:
            raise ValueError(
                f"config.induction needs config.model.{name} >= {bound}, not {value}: enlarge the "
                "model or give --config.induction=False"
            )


def _rooms(config: LlamaConfig) -> tuple[int, list[slice]]:
    """Return the embedding's share of the stream, and where the tokens before are written."""
    own = config.embed_dim // 2
    eighth = config.embed_dim // 8
    starts = (own, own + 2 * eighth, own + 3 * eighth)
    sizes = (min(size, config.head_dim) for size in (2 * eighth, eighth, eighth))
    return own, [slice(start, start + size) for start, size in zip(starts, sizes, strict=True)]


def _frequencies(config: LlamaConfig) -> np.ndarray:
    """Return RoPE's angles a token, the fastest pair first; a pair is dims i and i + D/2."""
    half = config.head_dim // 2
    return config.rope_theta ** (-np.arange(half) / half)


def _slow_pairs(config: LlamaConfig) -> np.ndarray:
    """Return the pairs that distance hardly turns."""
    return np.flatnonzero(_frequencies(config) * NEAR <= 1.0)


def _orthogonal(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Return a random map of which the rows, or else the columns, are orthonormal."""
    size = max(rows, columns)
    return np.linalg.qr(rng.normal(size=(size, size)))[0][:rows, :columns]


def _look_back(layer: Any, config: LlamaConfig, sight: np.ndarray, rooms: list[slice]) -> None:
    """Make the first layer's heads write the tokens 1, 2, 3 places back into `rooms`."""
    own, dim, half = config.embed_dim // 2, config.head_dim, config.head_dim // 2
    per_group = config.num_heads // config.num_kv_heads
    # The norm makes the stream's mean square 1: what an entry of SCALE and the constant become.
    unit = (config.embed_dim / (own - 1 + CONSTANT**2)) ** 0.5
    size = (LOOK / FAST * dim**0.5) ** 0.5 / (CONSTANT * unit)
    angles = _frequencies(config)
    fast = np.where(np.arange(half) < FAST, size, 0.0)
    for head, room in enumerate(rooms):
        back, group = head + 1, head // per_group
        q, k, v, o = _heads(layer, config, head, group)
        q *= 0.1
        k *= 0.1
        # Turned by m and by n, the score is that of cos((m - back - n) angle).
        q[0] = np.concatenate([fast * np.cos(back * angles), -fast * np.sin(back * angles)])
        k[0] = np.concatenate([fast, np.zeros(half)])
        v[:] = 0.0
        v[1:own] = sight.T / unit
        o *= 0.1
        count = room.stop - room.start
        o[np.arange(count), np.arange(room.start, room.stop)] = SCALE


def _match_and_copy(
    layer: Any, config: LlamaConfig, sight: np.ndarray, rooms: list[slice], rng: np.random.Generator
) -> None:
    """Make the second layer's heads attend to what followed the same tokens, and copy it."""
    own, dim = config.embed_dim // 2, config.head_dim
    per_group = config.num_heads // config.num_kv_heads
    unit = (config.embed_dim / (config.embed_dim - 1 + CONSTANT**2)) ** 0.5
    slow = _slow_pairs(config)
    slow = np.concatenate([slow, slow + dim // 2])
    size = (MATCH * dim**0.5 / len(slow)) ** 0.5 / unit
    maps = [_orthogonal(rng, len(slow), room.stop - room.start) for room in rooms]
    maps = [each * share**0.5 * size for each, share in zip(maps, SHARES, strict=True)]
    copied = min(own // config.num_kv_heads, dim)
    for head in range(config.num_heads):
        group = head // per_group
        q, k, v, o = _heads(layer, config, head, group)
        q *= 0.2
        if head % per_group == 0:  # a group's keys and values are its heads' together
            k *= 0.2
            for room, each in zip(rooms, maps, strict=True):
                k[room, slow] += each.T
            v[:] = 0.0  # below, the constant is left out
            v[group * copied + np.arange(copied), np.arange(copied)] = 1.0 / unit
            v[0] = 0.0
        q[1:own, slow] += (maps[0] @ sight[: maps[0].shape[1]]).T
        for before, each in zip(rooms[:-1], maps[1:], strict=True):
            room = slice(before.start, before.start + each.shape[1])
            q[room, slow] += each.T
        o *= 0.2
        o[np.arange(copied), group * copied + np.arange(copied)] += COPY * SCALE / per_group


def _heads(
    layer: Any, config: LlamaConfig, head: int, group: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return views of one head's q [E, D], k [E, D], v [E, D] and o [D, E]."""
    dim = config.head_dim
    mine, shared = slice(head * dim, (head + 1) * dim), slice(group * dim, (group + 1) * dim)
    return (
        layer["q"]["kernel"][:, mine],
        layer["k"]["kernel"][:, shared],
        layer["v"]["kernel"][:, shared],
        layer["o"]["kernel"][mine],
    )
