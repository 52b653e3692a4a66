"""Fakes and checks for those who write models or decoding rules: plain functions, no pytest.

`check_causal_lm` says whether a model keeps the promises of `CausalLM`, `check_strategy` whether
a rule keeps those of `generate`; both raise AssertionError naming what broke.
"""

from mtad_jax.testing.fakes import TableLM, table_lm, tiny_pair
from mtad_jax.testing.models import check_causal_lm
from mtad_jax.testing.strategies import check_strategy

__all__ = ["TableLM", "check_causal_lm", "check_strategy", "table_lm", "tiny_pair"]
