"""`calibrate`: checks of what it is given, then one search for the rule that pays."""

import math
from collections.abc import Sequence
from typing import Unpack

import numpy as np

from mtad_jax.calibration.candidates import (
    Candidate,
    check_candidates,
    default_candidates,
)
from mtad_jax.calibration.decide import LOSSLESS, Floor, check_floor
from mtad_jax.calibration.meter import EngineMeter, Meter
from mtad_jax.calibration.report import Calibration
from mtad_jax.calibration.search import Progress, Search
from mtad_jax.decode.request import check_number
from mtad_jax.decode.settings import Settings
from mtad_jax.decode.warp import Warp
from mtad_jax.models.protocol import BoundLM
from mtad_jax.types import Array, Int


def calibrate(
    target: BoundLM,
    draft: BoundLM | None,
    prompt_ids: Int[Array | np.ndarray, "B P"] | Sequence[Sequence[int]],
    prompt_length: Int[Array | np.ndarray, " B"] | Sequence[int],
    *,
    floor: Floor = LOSSLESS,
    candidates: Sequence[Candidate] | None = None,
    margin: float = 0.03,
    budget_s: float = 600.0,
    batch_size: int = 1,
    progress: Progress = lambda what: None,
    meter: Meter | None = None,
    **settings: Unpack[Settings],
) -> Calibration:
    """Choose the decoding rule that is fastest here, or plain decoding where none pays.

    Of each family of rules the deepest is run on a few prompts; from its acceptance and from the
    cost of the models' calls all others' speeds are predicted. The best few are timed against
    plain decoding, interleaved, on all prompts. The fastest that is within the floor of quality
    and faster than plain decoding by the margin, beyond noise, is timed once more on fresh draws,
    and chosen if that holds. Host code, interruptible at any time; it compiles one program for
    plain decoding, one a family, one a finalist that was no probe, and at most ten for the costs.

    Args:
      target: the model whose text is wanted.
      draft: the small model; None: only rules without one compete.
      prompt_ids: [B, P] prompts as the rule will get, padded on the right.
      prompt_length: [B] how many of them are the prompt.
      floor: "lossless"; or the highest perplexity allowed under the un-warped target, as a
        multiple of plain decoding's, at least 1; or None: any. Lossless rules meet all floors.
      candidates: the rules that compete; None: those of `default_candidates`.
      margin: gain in tokens per second that is worth not decoding plainly.
      budget_s: seconds after which nothing new is begun; what is compiling is not broken off.
      batch_size: prompts decoded together, as later in use: speculation gains less in batches. With
        prompts for one batch only nothing is beyond noise, and plain decoding is chosen.
      progress: called before each piece of work with what it is.
      meter: what measures; None: the engine.
      **settings: as `mtad_jax.generate`: `max_new_tokens` must be given, `warp` should be; the
        seed and its like are the calibration's own. At temperature 0 every rule that is greedy
        decoding there meets every floor.

    Raises:
      ValueError: bad prompts, candidates that are none, or a setting out of range.
      TypeError: an argument is not of its kind.
    """
    check_floor(floor)
    margin, budget_s = check_number("margin", margin), check_number("budget_s", budget_s)
    if not 0 <= margin < math.inf:
        raise ValueError(f"margin={margin} must be finite and >= 0, such as 0.03 for 3 %")
    if not budget_s > 0:
        raise ValueError(f"budget_s={budget_s} must be > 0")
    if candidates is not None:
        candidates = check_candidates(candidates)
    if meter is None:
        meter = EngineMeter(
            target, draft, prompt_ids, prompt_length, batch_size=batch_size,
            settings=settings,
        )  # fmt: skip
    if candidates is None:
        candidates = default_candidates(draft=draft is not None)
    warp = settings.get("warp") or Warp()
    greedy = float(warp.temperature) == 0
    return Search(meter, tuple(candidates), floor, margin, budget_s, greedy, progress).find()
