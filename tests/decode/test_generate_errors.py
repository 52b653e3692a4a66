"""What `generate` refuses, before it compiles: one line with argument, value, bound and cure."""

import dataclasses
import re

import numpy as np
import pytest

from mtad_jax import recipes
from mtad_jax.decode.arguments import as_prompts
from mtad_jax.decode.engine import generate, stream
from mtad_jax.decode.loop import run_rounds
from mtad_jax.decode.warp import Warp
from mtad_jax.testing import table_lm

NAN = float("nan")


def lm(vocab=8, positions=64):
    return table_lm(np.zeros((7, vocab)), positions)


GOOD = {
    "prompt_ids": [[1, 2, 3], [4, 5, 0]],
    "prompt_length": [3, 2],
    "strategy": recipes.mtad(2, 2),
    "draft": lm(),
    "max_new_tokens": 10,
}
SPECULATIVE = recipes.speculative(2)

BAD = {
    "tau 0": ({"strategy": recipes.mtad(2, 2, 0.0)}, r"tau=0\.0 must be > 0"),
    "tau negative": ({"strategy": recipes.mmtad(2, 2, -0.5)}, r"tau=-0\.5 must be > 0"),
    "tau nan": ({"strategy": recipes.mtad(2, 2, NAN)}, r"tau=nan must be > 0"),
    "depth 0": ({"strategy": recipes.speculative(0)}, r"depth=0 must be >= 1"),
    "beam depth": ({"strategy": recipes.mmtad(-1, 2)}, r"depth=-1 must be >= 1"),
    "width 0": ({"strategy": recipes.mtad(2, 0)}, r"width=0 must be between 1 and .*: lower"),
    "width, V": ({"strategy": recipes.mmtad(2, 9)}, r"width=9 .* 1 and vocabulary=8: lower width"),
    "width, top-k": (
        {"strategy": recipes.mmtad(2, 4), "warp": Warp(top_k=3)},
        r"width=4 must be between 1 and top_k=3: lower width",
    ),
    "beams": ({"strategy": recipes.beam(9), "draft": None}, r"width=9 .* vocabulary=8: lower"),
    "draw": ({"strategy": recipes.mtad(2, 2, 0.5, "x")}, r"draw='x' must be .*search.*sample"),
    "temperature": ({"warp": Warp(-1.0)}, r"temperature=-1\.0 must be finite and >= 0"),
    "temperature nan": ({"warp": Warp(NAN)}, r"temperature=nan must be finite and >= 0"),
    "top_p": ({"warp": Warp(1.0, 1.5)}, r"top_p=1\.5 must be in \[0, 1\]"),
    "top_p negative": ({"warp": Warp(1.0, -0.5)}, r"top_p=-0\.5 must be in \[0, 1\]"),
    "top_k": ({"warp": Warp(1.0, 1.0, -2)}, r"top_k=-2 must be >= 0"),
    "end": ({"eos_id": 8}, r"eos_id=8 is outside \[0, 7\]"),
    "one end of two": ({"eos_id": [2, -1]}, r"eos_id=-1 is outside \[0, 7\]"),
    "half an end": ({"eos_id": 1.5}, r"eos_id=1\.5 must be a token id"),
    "half a row id": ({"row_ids": [0.5, 1.0]}, r"row_ids has dtype float64: give one integer"),
    "half a seed": ({"seed": 0.5}, r"seed=0\.5 must be an integer"),
    "no tokens": ({"max_new_tokens": 0}, r"max_new_tokens=0 must be"),
    "half a token": ({"max_new_tokens": 2.5}, r"max_new_tokens=2\.5 must be"),
    "empty prompt": ({"prompt_length": [3, 0]}, r"prompt_length\[1\]=0 must be in \[1, 3\]"),
    "long length": ({"prompt_length": [4, 2]}, r"prompt_length\[0\]=4 must be in \[1, 3\]"),
    "lengths": ({"prompt_length": [3]}, r"prompt_length has shape \(1,\), not \(2,\)"),
    "real lengths": ({"prompt_length": [3.0, 2.0]}, r"prompt_length has .* integers"),
    "no columns": ({"prompt_ids": [[], []]}, r"prompt_ids has shape \(2, 0\)"),
    "no rows": ({"prompt_ids": np.zeros((0, 3), int), "prompt_length": []}, r"prompt_ids has"),
    "flat": ({"prompt_ids": [1, 2, 3]}, r"prompt_ids has shape \(3,\) .* \[B, P\]"),
    "ragged": (
        {"prompt_ids": [[1, 2, 3], [4, 5]]},
        r"prompt_ids .* different lengths: give integers \[B, P\]",
    ),
    "real ids": ({"prompt_ids": [[1.0, 2, 3], [4, 5, 0]]}, r"prompt_ids has .*float64.*integers"),
    "text": ({"prompt_ids": [["a", "b", "c"]] * 2}, r"prompt_ids has .*integers"),
    "large id": ({"prompt_ids": [[1, 8, 3], [4, 5, 0]]}, r"prompt_ids\[0\] holds id 8.*\[0, 7\]"),
    "negative id": ({"prompt_ids": [[1, 2, 3], [-1, 5, 0]]}, r"prompt_ids\[1\] holds id -1"),
    "huge id": ({"prompt_ids": [[1, 2, 3], [4, 2**40, 0]]}, r"prompt_ids\[1\] holds id \d+,"),
    "row ids": ({"row_ids": [1]}, r"row_ids has shape \(1,\)"),
    "no draft": ({"draft": None}, r"draft=None: .* give draft="),
    "vocabularies": ({"draft": lm(9)}, r"draft vocabulary 9 != target vocabulary 8"),
    "draft positions": (
        {"draft": lm(positions=13)},
        r"positions=13 of the draft < 14 = prompt 3 \+ new 10 \+ look-ahead 1: lower",
    ),
    "min_p": ({"warp": Warp(min_p=1.5)}, r"min_p=1\.5 must be in \[0, 1\]"),
    "min_p nan": ({"warp": Warp(min_p=NAN)}, r"min_p=nan must be in \[0, 1\]"),
    "draft's warp": ({"draft_warp": Warp(-1.0)}, r"temperature=-1\.0 must be finite and >= 0"),
    "draft's top-k": (
        {"draft_warp": Warp(top_k=1)},
        r"width=2 must be between 1 and top_k=1: lower width",
    ),
    "warp of no draft": (
        {"strategy": recipes.sample(), "draft_warp": Warp()},
        r"draft_warp is given, but this strategy has no draft model: leave it out",
    ),
    "penalty 0": ({"repetition_penalty": 0.0}, r"repetition_penalty=0\.0 must be finite and > 0"),
    "penalty nan": ({"repetition_penalty": NAN}, r"repetition_penalty=nan must be finite and > 0"),
    "penalty inf": ({"repetition_penalty": np.inf}, r"repetition_penalty=inf must be finite"),
    "banned": ({"banned_ids": [1, 8]}, r"banned_ids holds 8, outside \[0, 7\]"),
    "banned in rows": ({"banned_ids": [[1], [2]]}, r"banned_ids=\[\[1\], \[2\]\] must be a list"),
    "banned, ragged": ({"banned_ids": [[1], [2, 3]]}, r"banned_ids=.* must be a list of token"),
    "ends in rows": ({"eos_id": [[1]]}, r"eos_id=\[\[1\]\] must be a token id or a list of them"),
    "banned negative": ({"banned_ids": [-1]}, r"banned_ids holds -1, outside \[0, 7\]"),
    "half banned": ({"banned_ids": [1.5]}, r"banned_ids=\[1\.5\] must be a list of token ids"),
    "all banned": ({"banned_ids": range(8)}, r"banned_ids holds all 8 tokens: leave at least one"),
    "ends alone are left": (
        {"banned_ids": range(2, 8), "eos_id": [0, 1], "min_new_tokens": 1},
        r"banned_ids leaves end tokens only, which min_new_tokens=1 forbids: ban fewer",
    ),
    "minimum": ({"min_new_tokens": 11}, r"min_new_tokens=11 > max_new_tokens=10: lower the first"),
    "minimum below 0": ({"min_new_tokens": -1}, r"min_new_tokens=-1 must be a whole number >= 0"),
    "no minimum": ({"min_new_tokens": NAN}, r"min_new_tokens=nan must be a whole number >= 0"),
    "no samples": ({"samples": 0}, r"samples=0 must be a whole number >= 1"),
    "yes to samples": ({"samples": True}, r"samples=True must be a whole number >= 1"),
    "samples as text": ({"samples": "2"}, r"samples='2' must be a whole number >= 1"),
    "infinitely many": ({"samples": np.inf}, r"samples=inf must be a whole number >= 1"),
    "samples, cold": (
        {"samples": 2, "warp": Warp(0.0)},
        r"samples=2 at temperature 0 would all be the same text: raise the temperature",
    ),
    "samples, greedy": (
        {"samples": 2, "strategy": recipes.greedy()},
        r"samples=2: this strategy draws nothing.*: use sample or ask for one",
    ),
    "samples, a chosen bonus": (
        {"samples": 2, "strategy": recipes.mmtad(2, 2, bonus_temperature=0.0)},
        r"samples=2: this strategy draws nothing.*: use a bonus_temperature above 0 or ask for one",
    ),
    "a bonus below zero": (
        {"strategy": recipes.mtad(2, 2, bonus_temperature=-0.5)},
        r"bonus_temperature=-0\.5 must be finite and >= 0",
    ),
    "a bonus of its own after tests": (
        {"strategy": dataclasses.replace(recipes.speculative(2), bonus_temperature=0.0)},
        r"bonus_temperature=0\.0: what follows is drawn from what the tests of Rejection left",
    ),
    "samples, beams": (
        {"samples": 2, "strategy": recipes.beam(2)},
        r'samples=2: this strategy draws nothing.*: use draw="sample" or ask for one',
    ),
    "seeds": ({"seed": [1, 2, 3]}, r"seed has 3 items, not one for each of 2 prompts"),
    "seeds of samples": (
        {"seed": [1, 2, 3, 4], "samples": 2},
        r"seed has 4 items, not one for each of 2 prompts",
    ),
    "half seeds": ({"seed": [1.5, 2]}, r"seed=\[1\.5, 2\] must be an integer, or a list"),
    "seeds of seeds": ({"seed": [[1, 2]]}, r"seed=\[\[1, 2\]\] must be an integer, or a list"),
    "huge row id": ({"row_ids": [0, 2**40]}, r"row_ids holds 1099511627776: give ids in \[-2"),
    "row ids of samples": (
        {"row_ids": [0, 1], "samples": 2},
        r"row_ids has shape \(2,\), not one id for each of 4 rows",
    ),
    "n-gram": (
        {"strategy": recipes.lookup(2, 3), "draft": None},
        r"ngram=3 > 2 = the shortest prompt: lower ngram",
    ),
    "slots": (
        {"slots": 17},
        r"slots=17 < 18 = prompt 3 \+ new 10 \+ scratch 5: lower max_new_tokens or raise slots",
    ),
}


def refused(match: str, call=generate, **arguments):
    before = run_rounds._cache_size()
    with pytest.raises(ValueError) as error:
        call(lm(), **GOOD | arguments)
    message = str(error.value)
    assert re.search(match, message), message
    assert "\n" not in message
    assert run_rounds._cache_size() == before


@pytest.mark.parametrize(("change", "match"), BAD.values(), ids=BAD)
def test_refused(change, match):
    refused(match, **change)


def test_refused_by_stream_before_the_first_item():
    refused(r"rounds=0 must be a whole number >= 1", stream, rounds=0)
    refused(r"tau=0\.0 must be > 0", stream, strategy=recipes.mtad(2, 2, 0.0))


@pytest.mark.parametrize("prompts", [b"Once", {"Once": 1}, {"Once"}, frozenset(["Once"]), 7])
def test_prompts_that_are_no_list(prompts):
    with pytest.raises(TypeError, match=r"^prompts=.* is a \w+: give a list of texts, or of lists"):
        as_prompts(prompts)
    assert as_prompts("Once") == as_prompts(("Once",)) == ["Once"]


def test_positions_of_the_target():
    with pytest.raises(ValueError, match=r"positions=13 of the target < 14 = prompt 3"):
        generate(lm(positions=13), **GOOD)


def test_the_tightest_call_is_not_refused():
    """One position or slot less is refused above."""
    small = lm(positions=14)
    result = generate(small, **GOOD | {"draft": small, "slots": 18})
    assert result.length.tolist() == [10, 10]
    # A draft that is given to a strategy without one may be anything.
    other = {"strategy": recipes.sample(), "draft": lm(9)}
    assert generate(small, **GOOD | other).length.tolist() == [10, 10]


def test_settings_that_there_are_not():
    for change, message in (
        ({"temperature": 1.0}, r"no setting is called temperature: give warp=Warp"),
        ({"max_new_tokens": None}, "max_new_tokens is missing"),
    ):
        call = {name: x for name, x in (GOOD | change).items() if x is not None}
        with pytest.raises(TypeError, match=message):
            generate(lm(), **call)


def test_what_is_odd_but_not_wrong():
    """Cuts at temperature 0 are skipped; an end that is banned never comes; seeds may be huge."""
    cold = {"warp": Warp(0.0, 0.5, 1, min_p=1.0), "strategy": recipes.mtad(2, 1)}
    ends = {"eos_id": 0, "banned_ids": [0], "min_new_tokens": 10}
    for change in (cold, ends, {"seed": [2**70, -1]}, {"min_new_tokens": 3}):
        assert generate(lm(), **GOOD | change).length.tolist() == [10, 10]


def test_padding_may_hold_anything():
    junk = {"prompt_ids": [[1, 2, 3, -7], [4, 5, 99, 2**40]]}
    clean, dirty = (generate(lm(), **GOOD | change) for change in ({}, junk))
    np.testing.assert_array_equal(clean.tokens, dirty.tokens)
