"""Models of tunix (PyPI: google-tunix) as target and draft, by the snippets of the page."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from doc_snippets import run_snippet
from flax import nnx

from mtad_jax import Warp, adapters, generate, recipes
from mtad_jax.models.linen import LinenLM
from mtad_jax.models.llama import Llama, LlamaConfig
from mtad_jax.testing import check_causal_lm

pytest.importorskip("tunix")
pytestmark = [
    pytest.mark.slow,
    # tunix 0.1.7 uses what flax and jax are about to drop; none of it is called from here.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

SHAPE = {
    "num_layers": 2, "embed_dim": 16, "hidden_dim": 24, "num_heads": 4, "head_dim": 8,
    "num_kv_heads": 2,
}  # fmt: skip
VOCAB, PADDED = 40, 48
PROMPTS, LENGTH = [[3, 1, 4, 1], [5, 9, 0, 0]], [4, 2]


def made(cls, **config):
    """Return a model of random parameters, those that begin as zeros among them."""
    model = cls(config=config.pop("config"), rngs=nnx.Rngs(0))
    static, params = nnx.split(model)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    leaves = [
        x + 0.3 * jax.random.normal(key, x.shape) for x, key in zip(leaves, keys, strict=True)
    ]
    return nnx.merge(static, jax.tree.unflatten(tree, leaves))


def llama():
    from tunix.models.llama3 import model as llama3

    config = llama3.ModelConfig(**SHAPE, vocab_size=PADDED, rope_theta=1_000_000, norm_eps=1e-5)
    return made(llama3.Llama3, config=config)


def qwen():
    from tunix.models.qwen3 import model as qwen3

    config = qwen3.ModelConfig(**SHAPE, vocab_size=VOCAB, rope_theta=10_000, norm_eps=1e-6)
    return made(qwen3.Qwen3, config=config)


def gemma():
    """Return a Gemma 2 with a window of 5 positions in every other layer."""
    from tunix.models.gemma import model as gemma2

    kinds = (gemma2.AttentionType.LOCAL_SLIDING, gemma2.AttentionType.GLOBAL)
    config = gemma2.ModelConfig(
        **SHAPE, num_embed=VOCAB, final_logit_softcap=30.0, attn_logits_soft_cap=50.0,
        use_post_attn_norm=True, use_post_ffw_norm=True, attention_types=kinds,
        sliding_window_size=5,
    )  # fmt: skip
    return made(gemma2.Gemma, config=config)


@functools.cache
def page_of_qwen():
    replace = ("151669", str(VOCAB))
    return run_snippet(
        "own_model.md", "given `model`, of tunix.models.qwen3", replace, model=qwen()
    )


def adapted(model, **changes):
    """Return a model by the page's `call`, its cache by its own means or by the page's."""
    call = page_of_qwen()["call"]
    page = run_snippet("own_model.md", "given `model`, of tunix.models.llama3", model=model)
    init_cache = getattr(model, "init_cache", page["init_cache"])
    return adapters.from_nnx(model, call, init_cache, **({"max_positions": 64} | changes))


@pytest.mark.parametrize("make", [llama, qwen, gemma])
def test_it_is_a_causal_model(make):
    check_causal_lm(adapted(make()))


def test_its_llama_is_ours():
    """The same parameters in both give the same logits."""
    model = llama()
    c = model.config
    config = LlamaConfig(
        vocab_size=PADDED, embed_dim=c.embed_dim, mlp_dim=c.hidden_dim, num_layers=c.num_layers,
        num_heads=c.num_heads, num_kv_heads=c.num_kv_heads, head_dim=c.head_dim, max_positions=64,
        norm_eps=c.norm_eps, rope_theta=1e6, rope_scaling=None, tied_head=False,
        attention_bias=False, mlp_bias=False,
    )  # fmt: skip

    def layer(block):
        def dense(kernel, rows):
            return {"kernel": jnp.asarray(kernel[...]).reshape(rows, -1)}

        attn, mlp, width = block.attn, block.mlp, c.embed_dim
        return {
            "attn_norm": {"scale": block.input_layernorm.w[...]},
            "mlp_norm": {"scale": block.post_attention_layernorm.w[...]},
            "q": dense(attn.q_proj.w, width), "k": dense(attn.k_proj.w, width),
            "v": dense(attn.v_proj.w, width), "o": dense(attn.o_proj.w, c.num_heads * c.head_dim),
            "gate": dense(mlp.gate_proj.kernel, width), "up": dense(mlp.up_proj.kernel, width),
            "down": dense(mlp.down_proj.kernel, c.hidden_dim),
        }  # fmt: skip

    params = {f"layer_{i}": layer(block) for i, block in enumerate(model.layers)} | {
        "embed": {"table": model.embedder.input_embedding[...]},
        "final_norm": {"scale": model.final_norm.w[...]},
        "head": {"kernel": model.lm_head.w[...]},
    }
    ours = LinenLM(Llama(config))
    tokens = np.arange(12).reshape(2, 6)
    want = ours.train_logits(params, jnp.asarray(tokens))
    lm, at = adapted(model), jnp.zeros(2, jnp.int32)
    got, _ = lm.model.apply(
        lm.params, jnp.asarray(tokens), positions=jnp.arange(6) + at[:, None], write_at=at,
        prefix=at, window=None, cache=lm.model.init_cache(2, 8, lm.dtype),
    )  # fmt: skip
    np.testing.assert_allclose(got, want, atol=2e-5)


@pytest.mark.parametrize("rule", ["speculative", "mmtad"])
def test_a_padded_target_and_a_draft_of_another_family(rule):
    """At temperature 0 the text is the target's own, and no row of padding is chosen."""
    target, draft = adapted(llama(), vocab=VOCAB), adapted(qwen())
    drafts = {"speculative": recipes.speculative(3), "mmtad": recipes.mmtad(3, 2)}
    call = {"draft": draft, "warp": Warp(0.0), "max_new_tokens": 16}
    one, two = (
        generate(target, PROMPTS, LENGTH, strategy=s, **call)
        for s in (drafts[rule], recipes.greedy())
    )
    np.testing.assert_array_equal(one.tokens, two.tokens)
    assert int(jnp.max(one.tokens)) < VOCAB
