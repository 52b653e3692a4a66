"""Mistakes of callers: one line that names the argument and the cure, before anything compiles."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mtad_jax
from mtad_jax import Candidate, Completion, Warp, certificate, recipes
from mtad_jax.decode.engine import generate, stream
from mtad_jax.decode.loop import run_rounds
from mtad_jax.testing import table_lm

LM = table_lm(np.zeros((7, 8)), 64)
RULE = recipes.speculative(2)
GOOD = {
    "target": LM,
    "prompt_ids": [[1, 2]],
    "prompt_length": [2],
    "strategy": RULE,
    "draft": LM,
    "max_new_tokens": 4,
}
STRATEGIES = {
    "name": ("mmtad", r"strategy='mmtad' is no decoding rule: give .* recipes\.mmtad\(\)"),
    "uncalled": (recipes.mmtad, r"strategy=mmtad is no .*: call it: strategy=mmtad\(\.\.\.\)"),
    "class": (type(RULE), r"strategy=DraftVerify is no .*: call it"),
    "none": (None, r"strategy=None is no .*: give one, such as recipes\.mmtad\(depth=4\)"),
    "drafter": (RULE.drafter, r"strategy=Chain\(depth=2\) is no decoding rule: give one"),
    "candidate": (Candidate.of("mtad"), r"strategy=<Candidate> is no .*: give its rule: <it>\.st"),
    "depth": (recipes.mmtad("4"), r"depth='4' must be a whole number: write it as an integer"),
    "tau": (recipes.mmtad(2, 2, "0.5"), r"tau='0\.5' must be a number: write it without quotes"),
    "no tau": (recipes.mtad(2, 2, None), r"tau=None must be a number"),
    "taus": (recipes.mtad(2, 2, np.array([0.1, 0.2])), r"tau has shape \(2,\) .*: give one number"),
    "leniency": (recipes.lenient(2, "x"), r"leniency='x' must be a number"),
    "epsilon": (recipes.typical(2, 2, epsilon="x"), r"epsilon='x' must be a number"),
    "alpha": (recipes.typical(2, 2, alpha=None), r"alpha=None must be a number"),
    "accept": (recipes.dsbd(2, 2, "x"), r"accept='x' must be a number"),
    "fallback": (recipes.bild(2, "x"), r"fallback='x' must be a number"),
    "rollback": (recipes.bild(2, 0.5, "x"), r"rollback='x' must be a number"),
}
WARPS = {
    "dictionary": ({"top_k": 3}, r"warp=\{'top_k': 3\} must be a Warp: write .*Warp\(\*\*\{'top_k"),
    "temperature": (0.7, r"warp=0\.7 must be a Warp: write warp=mtad_jax\.Warp\(temperature="),
    "zero": (0, r"warp=0 must be a Warp"),
    "uncalled": (Warp, r"warp=<class .* must be a Warp"),
    "text inside": (Warp("0.7"), r"temperature='0\.7' must be a number"),
    "none inside": (Warp(None), r"temperature=None must be a number"),
    "a row each": (Warp(np.ones(2)), r"temperature has shape \(2,\) .*: give one number"),
    "top_p": (Warp(1.0, "0.9"), r"top_p='0\.9' must be a number"),
    "min_p": (Warp(min_p="0.1"), r"min_p='0\.1' must be a number"),
    "real top_k": (Warp(1.0, 0.9, 10.0), r"top_k=10\.0 must be a whole number"),
    "no top_k": (Warp(1.0, 0.9, None), r"top_k=None must be a whole number"),
    "array top_k": (Warp(1.0, 0.9, jnp.int32(3)), r"top_k=Array\(3, dtype=int32\) must be a whole"),
}
SETTINGS = {
    "temperature": (0.7, r"no setting is called temperature: give warp=Warp\(temperature=\.\.\.\)"),
    "top_k": (5, r"no setting is called top_k: give warp=Warp\(top_k"),
    "tau": (0.5, r"no setting is called tau: give strategy=recipes\.mmtad\(tau=\.\.\.\)"),
    "max_tokens": (4, r"no setting is called max_tokens: give max_new_tokens=\.\.\."),
    "do_sample": (True, r"no setting is called do_sample: give strategy=recipes\.sample\(\)"),
    "stop": (["x"], r"no setting is called stop: give stop=\[\.\.\.\] to a Pipeline"),
    "mesh": (None, r"no setting is called mesh: give the mesh when loading"),
    "colour": (1, r"no setting is called colour: there are max_new_tokens, warp"),
    "max_new_tokens": ("4", r"max_new_tokens='4' must be a whole number >= 1"),
    "samples": (float("nan"), r"samples=nan must be a whole number"),
    "repetition_penalty": ("1.2", r"repetition_penalty='1\.2' must be a number"),
    "slots": ("64", r"slots='64' must be a whole number >= 1"),
    "draft_warp": ({}, r"draft_warp=\{\} must be a Warp"),
    "eos_id": ("</s>", r"eos_id='</s>' must be a token id or a list of them"),
    "banned_ids": (["the"], r"banned_ids=\['the'\] must be a list of token ids"),
    "row_ids": (3, r"row_ids has shape \(\), not one id for each of 1 rows"),
}
MODELS = {
    "parameters": (LM.params, r"parameters alone are no model: give {}=mtad_jax\.BoundLM\(params"),
    "module": (LM.model, r"{} is a TableLM, not a BoundLM: give its parameters too"),
    "folder": ("target/", r"{} is a str, not a BoundLM: load one: {}=mtad_jax\.load\(folder\)\.lm"),
}
ELSEWHERE = {
    "key": (functools.partial(generate, **GOOD, seed=jax.random.key(0)), "seed is a random key"),
    "old key": (
        functools.partial(generate, **GOOD, seed=jax.random.PRNGKey(0)),
        "seed is a random key of JAX: give an integer, such as seed=0",
    ),
    "rounds": (functools.partial(stream, **GOOD, rounds="1"), r"rounds='1' must be a whole number"),
    "completion": (
        lambda: certificate(Completion([1], [1], "", [0.0], [0.0], None, "end")),
        r"result is a Completion, not a DecodeResult: give what mtad_jax\.generate returned",
    ),
    "branching": (lambda: recipes.mcsd(4), r"branching=4 must be a number a level, such as \(4, 2"),
    "branching's text": (lambda: recipes.specinfer("4,2"), r"branching='4,2' must be a number a"),
    "mesh": (lambda: mtad_jax.make_mesh(2), r'shape=2 must be sizes of axes: write "data:1,model'),
    "mesh's size": (lambda: mtad_jax.make_mesh({"model": "1"}), r"axis model:'1' must be an int"),
    "no folder": (lambda: mtad_jax.load(None), r"path is a NoneType: give the name of a check"),
    "save": (lambda: mtad_jax.save(LM, "x"), r"loaded is a BoundLM, not a LoadedModel: write save"),
    "pipeline": (lambda: mtad_jax.Pipeline("x"), r"target is a str, not a LoadedModel: give targ"),
    "pipeline of arrays": (
        lambda: mtad_jax.Pipeline(LM, LM),
        r"target is a BoundLM, not a LoadedModel: .* or open folders by Pipeline\.load",
    ),
    "budget": (
        lambda: mtad_jax.calibrate(LM, LM, [[1]], [1], budget_s="4", max_new_tokens=4),
        r"budget_s='4' must be a number",
    ),
    "calibrated parameters": (
        lambda: mtad_jax.calibrate(LM.params, LM, [[1]], [1], max_new_tokens=4),
        r"target is a dict, not a BoundLM",
    ),
}


def refused(call, match):
    """The call ends in one line of TypeError or ValueError, raised for no other error."""
    before = run_rounds._cache_size()
    with pytest.raises((TypeError, ValueError)) as error:
        call()
    message = str(error.value)
    assert re.search(match, message), message
    assert "\n" not in message and len(message) < 200
    assert error.value.__cause__ is None and run_rounds._cache_size() == before


@pytest.mark.parametrize(("strategy", "match"), STRATEGIES.values(), ids=STRATEGIES)
def test_rules(strategy, match):
    refused(lambda: generate(**GOOD | {"strategy": strategy}), match)


@pytest.mark.parametrize(("warp", "match"), WARPS.values(), ids=WARPS)
def test_warps(warp, match):
    refused(lambda: generate(**GOOD, warp=warp), match)


@pytest.mark.parametrize("name", SETTINGS)
def test_settings(name):
    value, match = SETTINGS[name]
    refused(lambda: generate(**GOOD | {name: value}), match)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("role", ["target", "draft"])
def test_models(name, role):
    value, match = MODELS[name]
    refused(lambda: generate(**GOOD | {role: value}), match.replace("{}", role))


@pytest.mark.parametrize(("call", "match"), ELSEWHERE.values(), ids=ELSEWHERE)
def test_other_calls(call, match):
    refused(call, match)


@pytest.mark.parametrize(
    ("name", "make", "value"),
    [
        ("prompt_ids", lambda x: x, jnp.ones((1, 2), jnp.int32)),
        ("prompt_length", lambda x: x, jnp.full((1,), 2)),
        ("warp", Warp, 0.5),
        ("strategy", lambda x: recipes.mtad(2, 2, x), 0.5),
        ("target", lambda x: x, LM),
        ("draft", lambda x: x, LM),
        ("seed", lambda x: x, 3),
        ("repetition_penalty", lambda x: x, 1.2),
    ],
)
def test_inside_jit(name, make, value):
    decode = jax.jit(lambda x: generate(**GOOD | {name: make(x)}).tokens)
    refused(lambda: decode(value), rf"^{name} is traced .*: call it outside jit, vmap and grad$")
