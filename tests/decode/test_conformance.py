"""Every recipe through the conformance suite, on tables and on small random Llamas."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
from draft_shapes import each
from flax import struct

from mtad_jax import recipes
from mtad_jax.calibration.candidates import Candidate
from mtad_jax.decode.draft_verify import DraftVerify
from mtad_jax.decode.drafters.none import NoDraft
from mtad_jax.decode.engine import generate
from mtad_jax.decode.verifiers.plain import Ancestral
from mtad_jax.decode.warp import Warp
from mtad_jax.testing import check_causal_lm, check_strategy, table_lm, tiny_pair
from mtad_jax.types import Array

RECIPES = {
    "greedy": recipes.greedy(),
    "sample": recipes.sample(),
    "beam": recipes.beam(3),
    "beam-sample": recipes.beam(3, draw="sample"),
    "speculative_beam": recipes.speculative_beam(2, 2, 3),
    "speculative_mtjd": recipes.speculative_mtjd(3, 2, 2, 3),
    "speculative": recipes.speculative(3),
    "lenient": recipes.lenient(3),
    "cascade": recipes.cascade(3),
    "cascade-token": recipes.cascade(2, "token3"),
    "fuzzy": recipes.fuzzy(3),
    "mentored": recipes.mentored(3),
    "mentored-share": recipes.mentored(2, 0.9, "share"),
    "block": recipes.block(3),
    "specinfer": recipes.specinfer((2, 2)),
    "mcsd": recipes.mcsd((2, 2)),
    "traversal": recipes.traversal((2, 2)),
    "traversal-anew": recipes.traversal((2, 2), replace=True),
    "rsd_s": recipes.rsd_s(3, 3),
    "spectr": recipes.spectr(2, 3),
    "lookup": recipes.lookup(3, 1),
    "suffix": recipes.suffix(3, 4, np.random.default_rng(7).integers(-1, 12, 200)),
    "recycle": recipes.recycle(2, 3),
    "recycle-table": recipes.recycle(3, 2, np.arange(24).reshape(12, 2) * 5 % 13 - 1),
    "suffix-text": recipes.suffix(3, 4),
    "threshold": recipes.threshold(2, 2),
    "threshold-chain": recipes.threshold(2, draft="chain"),
    "typical": recipes.typical(2, 2),
    "typical-chain": recipes.typical(2, draft="chain"),
    "typical-tree": recipes.typical(2, 2, draft="tree"),
    "bild": recipes.bild(3),
    "dsbd": recipes.dsbd(2, 2),
    "mtjd": recipes.mtjd(2, 3),
    "mtjd-exact": recipes.mtjd(2, draw="exact"),
    "mtjd-sample": recipes.mtjd(2, 2, draw="sample"),
    "mtad": recipes.mtad(3, 3),
    "mtad-sample": recipes.mtad(3, 2, 0.3, "sample"),
    "mmtad": recipes.mmtad(3, 2),
    "mtad-chosen": recipes.mtad(3, 2, bonus_temperature=0.0),
    "mmtad-chosen": recipes.mmtad(2, 3, bonus_temperature=0.0),
    "threshold-chosen": recipes.threshold(3, 2, bonus_temperature=0.0),
    "mmtad-sample": recipes.mmtad(3, 3, 0.3, "sample"),
}

DECIDES_AT_ITS_END = {"final": False}
# A token may be too unlikely for its own model, or another beam likelier than the candidate.
MAY_REFUSE_ITSELF = {"accepts_itself": False}
# Raw probabilities decide: they keep tokens that top-p or temperature 0 would have cut, whose
# warped log-probability is minus infinity.
BY_RAW_LAWS = {"greedy_at_zero": False, "warp": Warp()}
EXPECTED = {
    "beam": DECIDES_AT_ITS_END,
    "beam-sample": DECIDES_AT_ITS_END,
    "speculative_beam": DECIDES_AT_ITS_END,
    "speculative_mtjd": {"one_bonus": False},
    "dsbd": MAY_REFUSE_ITSELF,
    "typical": MAY_REFUSE_ITSELF,
    "typical-chain": MAY_REFUSE_ITSELF,
    "typical-tree": MAY_REFUSE_ITSELF,
    "cascade": BY_RAW_LAWS,
    "cascade-token": MAY_REFUSE_ITSELF | BY_RAW_LAWS,
    "fuzzy": BY_RAW_LAWS,
    "bild": MAY_REFUSE_ITSELF | BY_RAW_LAWS,
}


@struct.dataclass
class Marked(Ancestral):
    """Plain sampling by a rule that holds a table of ids, and a number, that change nothing."""

    ids: Array
    weight: float = 0.5

    def verify(self, tree, logp, logits, keys, controls):
        assert self.ids.dtype == jnp.int32  # a tenth less of it would be a table of floats
        return super().verify(tree, logp + 0 * self.weight * self.ids[0], logits, keys, controls)


def tables():
    """A pair of tables that agree now and then."""
    rng = np.random.default_rng(0)
    target = rng.normal(scale=1.5, size=(31, 12))
    return table_lm(target), table_lm(target + rng.normal(scale=0.7, size=target.shape))


def llamas():
    """A pair of one shape: that the target drafts for itself takes no further program."""
    target, draft = tiny_pair()
    other = tiny_pair(1)[0].params["layer_1"]
    return target, dataclasses.replace(target, params=draft.params | {"layer_1": other})


# Each of these differs from another recipe in its draft only.
VARIANTS = (
    "suffix-text",
    "recycle-table",
    "threshold-chain",
    "threshold-chosen",
    "mtad-chosen",
    "typical-chain",
    "typical-tree",
    "traversal-anew",
    "mtjd-sample",
    "mtjd-exact",
    "cascade-token",
    "mentored-share",
)


PLAIN = [name for name in RECIPES if "-" not in name]


@pytest.mark.parametrize(
    "name",
    each(PLAIN, ("speculative", "beam", "specinfer", "mmtad"), others="slow")
    + each(sorted(RECIPES.keys() - PLAIN)),
)
def test_on_tables(name):
    check_strategy(RECIPES[name], *tables(), **EXPECTED.get(name, {}))


@pytest.mark.parametrize(
    "name", each((n for n in RECIPES if n not in VARIANTS), among=("speculative", "beam", "mmtad"))
)
def test_on_llamas(name):
    """Every rule; its variants use a cache in the same way, and are tried on tables."""
    check_strategy(RECIPES[name], *llamas(), **EXPECTED.get(name, {}))


def pytest_generate_tests(metafunc):
    """Take the rules of `--strategy`, of this package or another one."""
    if "asked" in metafunc.fixturenames:
        given = metafunc.config.getoption("--strategy") or ["outside_rules:slack depth=2"]
        metafunc.parametrize("asked", given)


def test_a_rule_of_the_command_line_on_tables(asked):
    check_strategy(Candidate.parse(asked).strategy, *tables())


@pytest.mark.heavy
def test_a_rule_of_the_command_line_on_llamas(asked):
    check_strategy(Candidate.parse(asked).strategy, *llamas())


@pytest.mark.slow
def test_without_a_warp():
    check_strategy(recipes.mmtad(2, 3), *tables(), warp=Warp())


@pytest.mark.parametrize("slots", [None, 613, 650, 1100])
def test_a_prompt_longer_than_a_chunk_of_prefill(slots):
    """Any cache that is large enough holds the whole prompt, multiple of a chunk or not."""
    target = tables()[0]
    prompts = np.random.default_rng(0).integers(0, 12, (2, 600))
    length = np.array([600, 530])
    call = {"strategy": recipes.greedy(), "max_new_tokens": 12, "slots": slots}
    result = generate(target, prompts, length, **call)
    law = ref.law(ref.TableModel(np.asarray(target.params["table"], float)))
    for prompt, n, got in zip(prompts, length, np.asarray(result.tokens), strict=True):
        want = ref.greedy(law, tuple(prompt[:n].tolist()), max_new_tokens=12)
        assert tuple(got.tolist()) == want


@pytest.mark.slow
@pytest.mark.parametrize("name", ["speculative", "mmtad-sample"])
def test_padding_rows_of_the_vocabulary_are_as_if_they_were_not_there(name):
    pair = tables()
    wide = [np.pad(lm.params["table"], ((0, 0), (0, 4)), constant_values=50.0) for lm in pair]
    padded = [dataclasses.replace(table_lm(table), vocab=12) for table in wide]
    call = {"strategy": RECIPES[name], "max_new_tokens": 12, "seed": 1}
    got, want = (
        generate(target, [[1, 2], [3, 0]], [2, 1], draft=draft, **call)
        for target, draft in (padded, pair)
    )
    jax.tree.map(np.testing.assert_array_equal, got, want)


@pytest.mark.slow
def test_table_and_llama_are_causal_models():
    check_causal_lm(tables()[0], atol=0)
    check_causal_lm(tiny_pair()[0])


@pytest.mark.parametrize("fault", ["slots", "window", "position", "keep", "size"])
def test_the_suite_sees_a_faulty_model(fault):
    """Breaks one promise of the table model at a time."""
    lm = table_lm(np.random.default_rng(0).normal(size=(31, 12)))
    faulty = type("Faulty", (type(lm.model),), FAULTS[fault])(31, 12)
    with pytest.raises(AssertionError):
        check_causal_lm(dataclasses.replace(lm, model=faulty), atol=0)


def test_the_suite_sees_text_decoded_from_a_wrong_cache():
    target, draft = tables()
    model = type("Faulty", (type(target.model),), FAULTS["keep"])(31, 12)
    faulty = dataclasses.replace(target, model=model)
    with pytest.raises(AssertionError, match="logp_raw is .* off the whole call's"):
        check_strategy(recipes.mmtad(2, 2), faulty, draft)


def _fault(**changes):
    """Return an `apply` that changes some arguments of the call."""

    def apply(self, params, tokens, **call):
        base = type(self).__mro__[1]
        for name, change in changes.items():
            call[name] = change(call)
        return base.apply(self, params, tokens, **call)

    return {"apply": apply}


FAULTS = {
    "slots": _fault(write_at=lambda call: call["write_at"] * 0),
    "window": _fault(window=lambda call: None if call["window"] is None else call["window"] | True),
    "position": _fault(positions=lambda call: call["positions"] * 0 + call["positions"][:1]),
    "keep": {"keep": lambda self, cache, source, dest, span: cache},
    "size": _fault(prefix=lambda call: call["prefix"] + 1),
}


def test_tiny_pair_is_a_pair():
    target, draft = tiny_pair(3, vocab=20, max_positions=64)
    assert target.vocab_size == draft.vocab_size == 20
    assert target.model.max_positions == draft.model.max_positions == 64
    assert len(jax.tree.leaves(draft.params)) < len(jax.tree.leaves(target.params))


@pytest.mark.slow
def test_a_rule_may_hold_integers():
    check_strategy(DraftVerify(NoDraft(), Marked(jnp.arange(1, 4))), *tables())
