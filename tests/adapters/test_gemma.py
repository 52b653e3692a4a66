"""DeepMind's gemma (PyPI: gemma; flax.linen) as target and draft, by the page's snippet."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from doc_snippets import run_snippet

from mtad_jax import Warp, generate, recipes
from mtad_jax.testing import check_causal_lm

pytest.importorskip("gemma", exc_type=ImportError)
pytestmark = pytest.mark.slow

PROMPTS, LENGTH = [[3, 1, 4, 1], [5, 9, 0, 0]], [4, 2]


@pytest.fixture(scope="module")
def pair():
    return tuple(adapted(layers) for layers in (2, 1))


def adapted(layers):
    """Return a Gemma 3 with a window of 5 positions in its first layer."""
    from gemma import gm
    from gemma.gm.nn import _config, _modules

    kinds = (_modules.AttentionType.LOCAL_SLIDING, _modules.AttentionType.GLOBAL)[:layers]
    config = _config.TransformerConfig(
        num_embed=40, embed_dim=16, hidden_dim=24, num_heads=4, head_dim=8, num_kv_heads=2,
        final_logit_softcap=None, use_post_attn_norm=True, use_post_ffw_norm=True,
        attention_types=kinds, use_qk_norm=True, sliding_window_size=5,
        local_base_frequency=10_000, global_base_frequency=1_000_000,
    )  # fmt: skip

    module = gm.nn.Transformer(config=config, dtype=jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
    leaves, tree = jax.tree.flatten(shapes["params"])
    keys = jax.random.split(jax.random.key(1), len(leaves))
    leaves = [
        0.4 * jax.random.normal(k, x.shape, x.dtype) for x, k in zip(leaves, keys, strict=True)
    ]
    params = jax.tree.unflatten(tree, leaves)
    page = run_snippet(
        "own_model.md", "given `module`, such as gm.nn", module=module, params=params
    )
    return page["target"]


def test_it_is_a_causal_model(pair):
    check_causal_lm(pair[0], partner=pair[1])


@pytest.mark.parametrize(
    "rule", [recipes.speculative(3), recipes.mmtad(3, 2)], ids=["chain", "tree"]
)
def test_texts_are_those_of_the_target_alone(pair, rule):
    target, draft = pair
    call = {"draft": draft, "warp": Warp(0.0), "max_new_tokens": 16}
    one, two = (
        generate(target, PROMPTS, LENGTH, strategy=s, **call) for s in (rule, recipes.greedy())
    )
    np.testing.assert_array_equal(one.tokens, two.tokens)
