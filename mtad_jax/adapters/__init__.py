"""Models of other libraries as target or draft: a function that calls one is all it takes.

    from mtad_jax import adapters

    def call(model, x):
        return model(x.tokens, x.positions, x.cache, x.mask)  # --> logits, cache

    target = adapters.from_nnx(model, call, model.init_cache, max_positions=40960)

`from_linen` and `from_function` (any function of parameters) do the same. What comes back is a
`BoundLM`, as `mtad_jax.generate` takes it; `mtad_jax.testing.check_causal_lm` says whether it keeps
its promises. docs/own_model.md has the whole of it.
"""

from mtad_jax.adapters.build import from_function, from_linen, from_nnx
from mtad_jax.adapters.model import AdaptedLM, Inputs

__all__ = ["AdaptedLM", "Inputs", "from_function", "from_linen", "from_nnx"]
