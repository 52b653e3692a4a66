"""ROUGE by the `rouge_score` package: words of a reference that a text has, too.

Source: Lin, 2004, "ROUGE: A Package for Automatic Evaluation of Summaries"; words are stemmed, as
papers on summaries have it.
"""

import functools
from collections.abc import Sequence
from typing import Any

from mtad_jax.errors import install_hint


@functools.cache
def scorer(*names: str) -> Any:
    """Return the package's scorer of `rouge1`, `rouge2` or `rougeL`.

    Raises:
      ValueError: the package is not installed.
    """
    try:
        from rouge_score import rouge_scorer
    except ImportError as error:
        raise ValueError(f"ROUGE needs rouge_score: {install_hint('tasks')}") from error
    return rouge_scorer.RougeScorer(list(names), use_stemmer=True)


def rouge(names: Sequence[str], reference: str, text: str) -> dict[str, float]:
    """Return a text's F1 by each of the names."""
    found = scorer(*names).score(reference, text)
    return {name: float(found[name].fmeasure) for name in names}
