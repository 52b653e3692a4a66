"""Multi-token joint decoding: exact blocks against enumeration, its limits, its refusals."""

import math
from collections import Counter

import numpy as np
import pytest
import reference as ref
import replay
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtad_jax import recipes
from mtad_jax.decode.engine import generate
from mtad_jax.decode.request import Request
from mtad_jax.decode.state import DEPTH, END, LENGTH
from mtad_jax.decode.target_beams.mtjd import MTJD
from mtad_jax.decode.warp import Warp
from mtad_jax.testing import table_lm

SETTINGS = settings(
    max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
ROWS, BATCH, LIMIT, K, V = 31, 5, 10, 3, 4


def case(seed, ends, temperature=1.0, top_p=1.0):
    """A table whose end tokens are rare, the target's law, prompts, and settings of a call."""
    random = np.random.default_rng(seed)
    table = random.normal(scale=1.5, size=(ROWS, V)).astype(np.float32)
    table[:, ends] -= 2.0
    warp = Warp(temperature, top_p)
    model = ref.TableModel(table.astype(float))
    law = replay.WatchedLaw(ref.ControlledLaw(model, temperature, 0, top_p))
    prompts, lengths = random.integers(0, V, (BATCH, 6)), random.integers(1, 7, BATCH)
    call = {"warp": warp, "max_new_tokens": LIMIT, "eos_id": list(ends), "seed": seed}
    return table_lm(table), law, prompts, lengths, call


def blocks_of(result, prompts, lengths):
    """Each block: row, text before it, tokens, why it ended."""
    for row, n in enumerate(np.asarray(result.length)):
        tokens = np.asarray(result.tokens)[row, :n].tolist()
        ending = np.asarray(result.trace.ending)[row, :n]
        starts = [*np.flatnonzero(ending).tolist(), n]
        prompt = tuple(prompts[row, : lengths[row]].tolist())
        for start, end in zip(starts, starts[1:], strict=False):
            text = prompt + tuple(tokens[:start])
            yield row, text, tuple(tokens[start:end]), int(ending[start])


def why(block, room, ends):
    """How a chosen block must end."""
    cut = block[:room]
    if cut[-1] in ends:
        return END
    return LENGTH if len(cut) == room else DEPTH


def check_blocks(case_, result, want, tally):
    """`want(text, row)` is the chosen block and how near it came to another."""
    _, law, prompts, lengths, call = case_
    ends = frozenset(call["eos_id"])
    for row, text, tokens, ending in blocks_of(result, prompts, lengths):
        law.gap = math.inf
        block, gap = want(text, row)
        room = LIMIT - (len(text) - int(lengths[row]))
        tally["all"] += 1
        if min(gap, law.gap) > replay.EDGE:
            tally["checked"] += 1
            tally["short" if block[-1] in ends and len(block) < K else "whole"] += 1
            assert tokens == block[:room] and ending == why(block, room, ends), (row, text, block)


def check_tally(tally):
    assert tally["checked"] > 0.9 * tally["all"] and tally["short"] and tally["whole"], tally


SEEDS = st.integers(0, 2**31 - 1)
ENDS = st.lists(st.integers(0, V - 1), min_size=2, max_size=2)


def test_exact_blocks_are_the_likeliest_of_all():
    tally: Counter = Counter()

    @SETTINGS
    @given(SEEDS, ENDS, st.sampled_from([1.0, 0.7]), st.sampled_from([1.0, 0.8]))
    def every_block(seed, ends, temperature, top_p):
        subject = case(seed, ends, temperature, top_p)
        lm, law, prompts, lengths, call = subject
        found = frozenset(ends)

        def want(text, row):
            block, _ = ref.exact_block(law, text, K, found)
            return block, ref.block_gap(law, text, K, found)

        exact = generate(lm, prompts, lengths, strategy=MTJD(K, 0, "exact"), **call)
        check_blocks(subject, exact, want, tally)
        # With V^(K-1) beams nothing that matters is pruned.
        wide = generate(lm, prompts, lengths, strategy=MTJD(K, V ** (K - 1), "search"), **call)
        np.testing.assert_array_equal(wide.tokens, exact.tokens)

    every_block()
    check_tally(tally)


def test_one_beam_and_temperature_0_are_greedy():
    lm, _, prompts, lengths, call = case(3, [1, 2])
    want = generate(lm, prompts, lengths, strategy=recipes.greedy(), **call)
    one = generate(lm, prompts, lengths, strategy=MTJD(K, 1, "search"), **call)
    np.testing.assert_array_equal(one.tokens, want.tokens)
    np.testing.assert_allclose(one.trace.logp, want.trace.logp, atol=1e-5)
    call["warp"] = Warp(0.0)
    for strategy in (MTJD(K, 0, "exact"), MTJD(K, 3, "sample")):
        got = generate(lm, prompts, lengths, strategy=strategy, **call)
        np.testing.assert_array_equal(got.tokens, want.tokens)


def test_a_block_of_one_is_a_greedy_step():
    lm, _, prompts, lengths, call = case(5, [0, 3])
    want = generate(lm, prompts, lengths, strategy=recipes.greedy(), **call)
    got = generate(lm, prompts, lengths, strategy=MTJD(1, 2, "search"), **call)
    np.testing.assert_array_equal(got.tokens, want.tokens)


CHAINS = Request(trees=False)
BAD = {
    "depth": (MTJD(0, 2, "search"), Request(), r"depth=0 must be >= 1"),
    "draw": (MTJD(2, 2, "all"), Request(), r"draw='all' must be exact or search or sample"),
    "width": (MTJD(2, 0, "search"), Request(), r"width=0 must be between 1 and"),
    "too wide": (MTJD(2, 10, "sample"), Request(vocab=9, top_k=3), r"width=10 .* 1 and 9 = .*"),
    "width of exact": (MTJD(2, 4, "exact"), Request(vocab=4), r"width=4: .* set width=0 or use"),
    "many blocks": (
        MTJD(3, 0, "exact"),
        Request(vocab=17),
        r"vocabulary=17 has 17\^3 blocks of depth=3 > 4096: lower depth or use",
    ),
    "chains only": (MTJD(2, 2, "search"), CHAINS, r"a model runs chains only"),
    "samples": (MTJD(2, 2, "search"), Request(samples=2), r"samples=2: .* draws nothing"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_setting_is_named(name):
    strategy, request, message = BAD[name]
    with pytest.raises(ValueError, match=message) as error:
        strategy.check(request)
    assert "\n" not in str(error.value)


def test_what_is_in_range_passes():
    MTJD(3, 0, "exact").check(Request())  # a vocabulary that is not known yet refuses nothing
    MTJD(3, 0, "exact").check(Request(vocab=16))
    MTJD(1, 2, "sample").check(Request(trees=False, samples=3))
    MTJD(2, 9, "sample").check(Request(vocab=9, top_k=3))
    assert MTJD(2, 0, "exact").scratch(9) == 1 + 64 and MTJD(3, 4, "search").scratch(9) == 9


def test_the_whole_block_needs_positions():
    lm = table_lm(np.zeros((7, 8)), max_positions=12)
    call = {"strategy": MTJD(4, 2, "search"), "max_new_tokens": 8}
    generate(lm, [[1, 2]], [2], **call)
    with pytest.raises(ValueError, match=r"positions=12 .* < 13 = prompt 3 \+ new 8 \+ look-ahea"):
        generate(lm, [[1, 2, 3]], [3], **call)
