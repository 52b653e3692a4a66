"""A completion as JSON holds it."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from mtad_jax.completions import Completion


def row_of(row: Completion) -> dict[str, Any]:
    """Return a completion's part of an output row; see `docs/records.md`."""
    return {
        "prompt_ids": row.prompt_ids,
        "tokens": row.tokens,
        "text": row.text,
        "logp_raw": _finite(row.logp_raw),
        "logp": _finite(row.logp),
        "stats": dataclasses.asdict(row.stats),
        "finish_reason": row.finish_reason,
    }


def _finite(values: Sequence[float]) -> list[float | None]:
    """Return log-probabilities with null for one that is not finite.

    (A rule that decides by raw distributions may keep a token that the warp would have cut; a
    target with broken weights gives no numbers at all.)
    """
    return [value if math.isfinite(value) else None for value in values]
