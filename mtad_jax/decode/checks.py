"""Host checks of what `generate` is given, before anything is compiled."""

import numbers
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mtad_jax.decode import arguments
from mtad_jax.decode.loop import bucket
from mtad_jax.decode.protocols import Strategy
from mtad_jax.decode.request import Request, check_number
from mtad_jax.decode.warp import Warp, check_warp
from mtad_jax.devices.sharding import check_axes
from mtad_jax.models.protocol import BoundLM
from mtad_jax.types import Array, Bool


def check_rule(
    strategy: Strategy,
    target: BoundLM,
    draft: BoundLM | None,
    *,
    shortest: int,
    samples: int,
    rows: int,
    warp: Warp,
    draft_warp: Warp | None,
    penalty: float | None,
) -> None:
    """Check a strategy and the warps of both models against all that is asked of it.

    Raises:
      ValueError: a setting is out of range, or something is asked that the rule cannot honour.
    """
    check_warp(warp)
    if draft_warp is not None:
        check_warp(draft_warp)
        if not strategy.needs_draft:
            raise ValueError(
                "draft_warp is given, but this strategy has no draft model: leave it out or use a "
                "strategy that drafts"
            )
    if penalty is not None and not (0 < check_number("repetition_penalty", penalty) < float("inf")):
        raise ValueError(
            f"repetition_penalty={penalty} must be finite and > 0 (1 changes nothing; above 1 "
            "tokens of the text get less likely)"
        )
    if samples > 1 and float(warp.temperature) == 0:
        raise ValueError(
            f"samples={samples} at temperature 0 would all be the same text: raise the "
            "temperature or ask for one sample"
        )
    models = [target] if draft is None else [target, draft]
    strategy.check(
        Request(
            vocab=target.vocab_size,
            top_k=warp.top_k,
            draft_top_k=(draft_warp or warp).top_k,
            shortest=shortest,
            samples=samples,
            rows=rows,
            penalty=penalty is not None,
            trees=all(lm.model.trees for lm in models),
        )
    )


def check_count(name: str, value: int, least: int) -> int:
    """Return a whole number.

    Raises:
      ValueError: no whole number, or below `least`.
    """
    whole = isinstance(value, numbers.Real) and not isinstance(value, bool)
    whole = whole and (isinstance(value, numbers.Integral) or float(value).is_integer())
    if not (whole and value >= least):
        raise ValueError(f"{name}={arguments.shown(value)} must be a whole number >= {least}")
    return int(value)


def check_banned(
    banned_ids: Sequence[int] | None, ends: np.ndarray, vocab: int, min_new_tokens: int
) -> Bool[Array, " V"] | None:
    """Return which tokens may not come; None where none is banned.

    Raises:
      ValueError: not ids of the vocabulary, or no token that could come is left.
    """
    ids = _as_ids(banned_ids, f"banned_ids={banned_ids!r} must be a list of token ids")
    for i in ids:
        if not 0 <= i < vocab:
            raise ValueError(f"banned_ids holds {i}, outside [0, {vocab - 1}]")
    gone = set(ids.tolist())
    if len(gone) == vocab:
        raise ValueError(f"banned_ids holds all {vocab} tokens: leave at least one")
    if min_new_tokens and len(gone | set(ends.tolist())) == vocab:
        raise ValueError(
            f"banned_ids leaves end tokens only, which min_new_tokens={min_new_tokens} forbids: "
            "ban fewer tokens or set min_new_tokens=0"
        )
    if not gone:
        return None
    return jnp.asarray(np.isin(np.arange(vocab), ids))


def _as_ids(ids: int | Sequence[int] | None, message: str) -> np.ndarray:
    """Return ids as an array [n].

    Raises:
      ValueError: with this message, where they are no integers or no flat list.
    """
    try:
        found = np.atleast_1d(np.asarray([] if ids is None else ids))
    except ValueError as error:  # rows of different lengths
        raise ValueError(message) from error
    if found.ndim > 1 or (found.size and found.dtype.kind not in "iu"):
        raise ValueError(message)
    return found


def check_seeds(seed: int | Sequence[int], row_ids, rows: int, samples: int) -> tuple:
    """Return a seed and a row id for each of `rows * samples` rows.

    One seed: a row's stream is that of its place in the call. A seed a prompt: its stream is that
    of its seed and of which sample it is, wherever it stands. Row ids go before both.

    Raises:
      ValueError: not integers, or not one a row.
      TypeError: a random key of JAX.
    """
    arguments.check_seed_kind(seed)
    # Objects: Python's integers may be larger than any of numpy's.
    seeds = np.asarray(seed, dtype=object)
    whole = all(isinstance(x, numbers.Integral) and not isinstance(x, bool) for x in seeds.flat)
    if seeds.ndim > 1 or not whole:
        raise ValueError(f"seed={seed!r} must be an integer, or a list of one integer a prompt")
    if seeds.ndim == 1 and len(seeds) != rows:
        raise ValueError(f"seed has {len(seeds)} items, not one for each of {rows} prompts")
    if row_ids is not None:
        ids = np.asarray(row_ids)
        if ids.dtype.kind not in "iu":
            raise ValueError(f"row_ids has dtype {ids.dtype}: give one integer a row")
        if ids.shape != (rows * samples,):
            raise ValueError(
                f"row_ids has shape {ids.shape}, not one id for each of {rows * samples} rows"
            )
        for i in ids:
            if not -(2**31) <= i < 2**31:
                raise ValueError(f"row_ids holds {i}: give ids in [-2^31, 2^31 - 1]")
    elif seeds.ndim == 1:
        ids = np.tile(np.arange(samples), rows)
    else:
        ids = np.arange(rows * samples)
    every = np.repeat(seeds, samples) if seeds.ndim else np.broadcast_to(seeds, ids.shape)
    return (every % 2**32).astype(np.uint32), ids.astype(np.int32)


def check_prompts(prompt_ids, prompt_length, vocab: int) -> tuple[np.ndarray, np.ndarray]:
    """Return prompts as int32 arrays.

    Raises:
      ValueError: not [B, P] integers, lengths out of range, ids outside the vocabulary.
    """
    try:
        ids, length = np.asarray(prompt_ids), np.asarray(prompt_length)
    except ValueError as error:  # numpy does not say which argument
        raise ValueError(
            "prompt_ids or prompt_length has rows of different lengths: give integers [B, P] and "
            "[B], prompts padded on the right with anything"
        ) from error
    if ids.ndim != 2 or ids.dtype.kind not in "iu" or 0 in ids.shape:
        raise ValueError(
            f"prompt_ids has shape {ids.shape} and dtype {ids.dtype}: give integers [B, P]"
        )
    if length.shape != ids.shape[:1] or length.dtype.kind not in "iu":
        raise ValueError(f"prompt_length has shape {length.shape}, not ({ids.shape[0]},) integers")
    for row, n in enumerate(length):
        if not 1 <= n <= ids.shape[1]:
            raise ValueError(
                f"prompt_length[{row}]={n} must be in [1, {ids.shape[1]}]: an empty prompt needs "
                "at least a start token"
            )
        bad = ids[row, :n][(ids[row, :n] < 0) | (ids[row, :n] >= vocab)]
        if bad.size:
            raise ValueError(f"prompt_ids[{row}] holds id {bad[0]}, outside [0, {vocab - 1}]")
    return np.clip(ids, 0, vocab - 1).astype(np.int32), length.astype(np.int32)


def check_ends(eos_id: int | Sequence[int] | None, vocab: int) -> np.ndarray:
    """Return the end tokens as an array, empty for None.

    Raises:
      ValueError: not integers, or outside the vocabulary.
    """
    ends = _as_ids(eos_id, f"eos_id={eos_id!r} must be a token id or a list of them")
    for end in ends:
        if not 0 <= end < vocab:
            raise ValueError(f"eos_id={end} is outside [0, {vocab - 1}]: give the model's own end")
    return ends.astype(np.int32)


def check_draft(target: BoundLM, draft: BoundLM | None, strategy: Strategy) -> BoundLM | None:
    """Return the draft if the strategy uses one.

    Raises:
      ValueError: a draft is needed and missing; vocabularies differ.
      TypeError: one of the three is something else.
    """
    arguments.check_model("target", target)
    arguments.check_strategy(strategy)
    if not strategy.needs_draft:
        return None
    if draft is None:
        raise ValueError("draft=None: this strategy drafts; give draft=<BoundLM>")
    arguments.check_model("draft", draft)
    if draft.vocab_size != target.vocab_size:
        raise ValueError(
            f"draft vocabulary {draft.vocab_size} != target vocabulary {target.vocab_size}: both "
            "models must share one tokenizer; where only padding differs, give both vocab="
            f"{min(draft.vocab_size, target.vocab_size)}"
        )
    if draft.mesh != target.mesh:
        raise ValueError(
            f"the draft lies on {_devices(draft)}, the target on {_devices(target)}: load both "
            "with the same mesh"
        )
    return draft


def _devices(lm: BoundLM) -> str:
    """Say where a model lies."""
    return "no mesh" if lm.mesh is None else f"mesh {dict(lm.mesh.shape)}"


def check_rows(rows: int, mesh: Mesh | None) -> None:
    """Check that the rows of a call can be split evenly over the mesh.

    Raises:
      ValueError: they cannot; the mesh has other axes than `make_mesh` gives.
    """
    if mesh is not None:
        check_axes(mesh)
    split = 1 if mesh is None else mesh.shape["data"]
    if rows % split:
        raise ValueError(
            f"batch of {rows} rows on mesh axis data:{split}: give a multiple of {split} rows, or "
            "a mesh without data (model:N)"
        )


def check_positions(
    target: BoundLM, draft: BoundLM | None, prompt: int, new: int, lookahead: int
) -> None:
    """Check the deepest position of the last round.

    Raises:
      ValueError: it is past what either model was made for.
    """
    ahead = max(lookahead - 1, 0)  # no round starts nearer to the limit than a token before it
    need = prompt + new + ahead
    for name, lm in (("target", target), ("draft", draft)):
        if lm is not None and need > lm.model.max_positions:
            raise ValueError(
                f"positions={lm.model.max_positions} of the {name} < {need} = prompt {prompt} + "
                f"new {new} + look-ahead {ahead}: lower max_new_tokens or shorten "
                "the prompt"
            )


def check_slots(slots: int | None, prompt: int, new: int, scratch: int) -> int:
    """Return the cache size.

    Raises:
      ValueError: fewer slots asked for than a call can touch.
    """
    need = prompt + new + scratch
    if slots is None:
        return bucket(need)
    if check_count("slots", slots, 1) < need:
        raise ValueError(
            f"slots={slots} < {need} = prompt {prompt} + new {new} + scratch {scratch}: lower "
            "max_new_tokens or raise slots"
        )
    return int(slots)


def check_lengths(least: int, most: int) -> None:
    """Check the bounds of a text's length against each other.

    Raises:
      ValueError: the lower is above the upper.
    """
    if least > most:
        raise ValueError(
            f"min_new_tokens={least} > max_new_tokens={most}: lower the first or raise the second"
        )
