"""The settings of a call: what may be asked for, and what it comes to once checked on the host."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Required, TypedDict

import jax.numpy as jnp
import numpy as np

from mtad_jax.decode import arguments, checks
from mtad_jax.decode.protocols import Strategy
from mtad_jax.decode.state import Controls
from mtad_jax.decode.warp import Warp
from mtad_jax.models.protocol import BoundLM
from mtad_jax.types import Int


class Settings(TypedDict, total=False):
    """Keyword settings that `generate`, `stream` and `Pipeline` share.

    Attributes:
      max_new_tokens: most tokens a row gets, end token included. Must be given.
      warp: sharpening of both models' distributions; None: none.
      draft_warp: another sharpening for the draft's; None: the target's.
      eos_id: end token or tokens; None: only `max_new_tokens` ends a row.
      min_new_tokens: no end token comes before a row has got so many tokens.
      banned_ids: tokens that never come.
      repetition_penalty: logits of tokens that the prompt or the text holds are divided by it
        where positive and multiplied where negative, in both models; None: none. (CTRL, arXiv
        1909.05858; as Hugging Face.)
      samples: texts for each prompt; the rows of the result are prompt 0's samples, then prompt
        1's, and so on.
      seed: of the whole call; or one a prompt, which then gets the same texts in any call.
      row_ids: [B * samples] which random stream of its seed each row uses; None: 0, 1, 2, ... of
        one seed, and with a seed a prompt 0, 1, ... of each.
      slots: cache slots a row; None: as few as the smallest bucket that fits.
    """

    max_new_tokens: Required[int]
    warp: Warp | None
    draft_warp: Warp | None
    eos_id: int | Sequence[int] | None
    min_new_tokens: int
    banned_ids: Sequence[int] | None
    repetition_penalty: float | None
    samples: int
    seed: int | Sequence[int]
    row_ids: Sequence[int] | None
    slots: int | None


@dataclass(frozen=True)
class CheckedSettings:
    """Checked settings, spelt out for the `B * samples` rows of a call.

    Attributes:
      controls: what every rule honours.
      length: prompt tokens of each row.
      seed, row_ids: the random stream of each row.
      samples: texts for each prompt.
      max_new_tokens: most tokens a row gets.
      slots: cache slots a row.
    """

    controls: Controls
    length: Int[np.ndarray, " R"]
    seed: Int[np.ndarray, " R"]
    row_ids: Int[np.ndarray, " R"]
    samples: int
    max_new_tokens: int
    slots: int


def check_settings(
    settings: Settings,
    length: Int[np.ndarray, " B"],
    *,
    strategy: Strategy,
    target: BoundLM,
    draft: BoundLM | None,
    rows: int | None = None,
) -> CheckedSettings:
    """Check all settings of a call on prompts of these lengths, on the host.

    Args:
      settings: of the call.
      length: of each prompt.
      strategy, target, draft: that decode.
      rows: texts decoded together; None: all.

    Raises:
      ValueError: one is out of range, or contradicts another, the strategy or a model.
      TypeError: a setting that there is not, or not of its kind; no `max_new_tokens`.
    """
    arguments.check_names(settings, Settings.__annotations__)
    arguments.check_concrete({"target": target, "draft": draft, "strategy": strategy, **settings})
    for name in ("warp", "draft_warp"):
        arguments.check_warp_kind(name, settings.get(name))
    warp, own = settings.get("warp") or Warp(), settings.get("draft_warp")
    penalty = settings.get("repetition_penalty")
    samples = checks.check_count("samples", settings.get("samples", 1), 1)
    checks.check_rule(
        strategy, target, draft, shortest=int(length.min()), samples=samples,
        rows=samples * len(length) if rows is None else rows, warp=warp, draft_warp=own,
        penalty=penalty,
    )  # fmt: skip
    new = checks.check_count("max_new_tokens", settings["max_new_tokens"], 1)
    least = checks.check_count("min_new_tokens", settings.get("min_new_tokens", 0), 0)
    checks.check_lengths(least, new)
    ends = checks.check_ends(settings.get("eos_id"), target.vocab_size)
    banned = checks.check_banned(settings.get("banned_ids"), ends, target.vocab_size, least)
    seed, row_ids = checks.check_seeds(
        settings.get("seed", 0), settings.get("row_ids"), len(length), samples
    )
    longest, length = int(length.max()), np.repeat(length, samples)
    checks.check_positions(target, draft, longest, new, strategy.lookahead)
    slots = checks.check_slots(settings.get("slots"), longest, new, strategy.scratch(new))
    controls = Controls(
        warp=warp,
        draft_warp=warp if own is None else own,
        eos_ids=jnp.asarray(ends, jnp.int32),
        banned=banned,
        penalty=None if penalty is None else jnp.float32(penalty),
        min_length=jnp.asarray(length + np.int32(least)) if least and ends.size else None,
    )
    return CheckedSettings(controls, length, seed, row_ids, samples, new, slots)
