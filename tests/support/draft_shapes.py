"""One rule for each shape of a draft: what a rule does with a cache depends on the shape alone."""

from collections.abc import Iterable

import pytest

OF_EACH_SHAPE = {
    "none": "sample",
    "target's beams": "beam",
    "target's blocks": "mtjd",
    "chain": "speculative",
    "confident chain": "bild",
    "lookup": "lookup",
    "tree": "specinfer",
    "learnt tree": "recycle",
    "beam tree": "threshold",
    "pairs": "dsbd",
    "lattice": "mmtad",
}


def each(
    names: Iterable[str],
    first: Iterable[str] = (),
    among: Iterable[str] = OF_EACH_SHAPE.values(),
    others: str = "heavy",
) -> list:
    """Return rules as pytest's parameters: a program each.

    Those in `first` have no mark, those in `among` are slow, all `others` are marked so.
    """

    def marks(name: str):
        if name in first:
            return ()
        return getattr(pytest.mark, "slow" if name in among else others)

    return [pytest.param(name, marks=marks(name)) for name in names]
