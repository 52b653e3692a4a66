"""Pictures of rounds and of rules, told apart without colours; the extra `plots` has matplotlib.

from mtad_jax import plots

plots.tree(pipe.explain("Once upon a time", strategy=recipes.mmtad(), max_new_tokens=8))

Each function returns a matplotlib `Figure`, which notebooks show and `savefig` writes; none touches
`pyplot`. Without matplotlib each raises `ValueError`, on one line with the cure.
"""

from mtad_jax.plots.lines import acceptance, front
from mtad_jax.plots.trees import tree

__all__ = ["acceptance", "front", "tree"]
