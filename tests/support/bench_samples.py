"""Samples of the benchmark, made by hand."""

import dataclasses

from experiments.bench.measure import Sample
from mtad_jax.decode.warp import Warp

WARP = Warp(temperature=1.0, top_p=0.9, top_k=10)
SAMPLE = Sample("sample", 0, 0, "story", 10, 5, 4, 8, -20.0, 2.0, 0.5, "", None)


def sample(**changes):
    return dataclasses.replace(SAMPLE, **changes)
