"""A round laid open, against the definition in NumPy and against what `generate` did."""

import dataclasses
import functools

import numpy as np
import pytest
import reference as ref

from mtad_jax import recipes
from mtad_jax.decode.engine import generate, prepare
from mtad_jax.decode.explain import explain
from mtad_jax.decode.warp import Warp
from mtad_jax.testing import table_lm

VOCAB, ROWS, LIMIT, DEPTH, WIDTH, TAU = 8, 31, 14, 3, 3, 0.4
WARP = Warp(1.1, 0.95, 6)
ENDS = [0, 3]
PROMPTS = [[1, 5, 2, 7], [6], [4, 4, 1], [2, 7], [5, 5]]
RULES = {
    "mmtad": recipes.mmtad(DEPTH, WIDTH, TAU),
    "mtad": recipes.mtad(DEPTH, WIDTH, TAU),
    "speculative": recipes.speculative(DEPTH),
    "lookup": recipes.lookup(DEPTH, 1),
    "sample": recipes.sample(),
}


def tables():
    rng = np.random.default_rng(5)
    target = rng.normal(scale=1.5, size=(ROWS, VOCAB))
    pair = np.stack([target, target + rng.normal(scale=0.8, size=target.shape)])
    pair[:, :, ENDS] -= 1.5
    return pair.astype(np.float32)


TABLES = tables()
MODELS = [table_lm(table) for table in TABLES]


def law(table):
    model = ref.TableModel(table.astype(float))
    return lambda text: ref.warp(model.logits(text), 1.1, 6, 0.95)


TARGET, DRAFT = map(law, TABLES)


def arguments(name, prompt):
    draft = MODELS[1] if RULES[name].needs_draft else None
    call = {"strategy": RULES[name], "draft": draft, "warp": WARP, "max_new_tokens": LIMIT}
    return (MODELS[0], [prompt], [len(prompt)]), call | {"eos_id": ENDS}


@functools.cache
def rounds(name):
    """Every round of every prompt: the text before it, its block, its tokens, and it laid open."""
    found = []
    for prompt in PROMPTS:
        ids, call = arguments(name, prompt)
        result = generate(*ids, **call)
        tokens = np.asarray(result.tokens)[0].tolist()
        for number, block in enumerate(result.blocks()[0]):
            opened = explain(prepare(*ids, **call), number)
            text = (*prompt, *tokens[: block.start])
            given = tokens[block.start : block.start + block.tokens]
            found.append((text, block, given, opened))
    return found


def joint(law, text, tokens):
    total = 0.0
    for token in tokens:
        total += float(law(text)[token])
        text = (*text, token)
    return total


def path(found, node):
    """The tokens down to a node."""
    by_index = {n.index: n for n in found.nodes}
    tokens = []
    while node is not None:
        tokens.insert(0, node.token)
        node = by_index.get(node.parent)
    return tuple(tokens)


@pytest.mark.parametrize("name", RULES)
def test_a_round_is_what_generate_did(name):
    seen = 0
    for text, block, tokens, found in rounds(name):
        assert (found.start, found.accepted) == (block.start, block.accepted)
        assert (found.ending, found.root) == (block.ending, str(text[-1]))
        assert found.log_ratio == pytest.approx(block.log_ratio, abs=1e-5)
        kept = sorted((n for n in found.nodes if n.accepted), key=lambda n: n.depth)
        assert [n.token for n in kept] == tokens[: block.accepted]
        assert [n.depth for n in kept] == list(range(1, block.accepted + 1))
        assert found.bonus == (str(tokens[-1]) if len(tokens) > block.accepted else None)
        for node in found.nodes:
            down = path(found, node)
            assert node.depth == len(down)
            assert node.joint_p == pytest.approx(joint(TARGET, text, down), abs=1e-4)
            before = (*text, *down[:-1])
            assert node.log_p == pytest.approx(float(TARGET(before)[node.token]), abs=1e-4)
            if RULES[name].needs_draft:
                assert node.joint_q == pytest.approx(joint(DRAFT, text, down), abs=1e-4)
                assert node.log_q == pytest.approx(float(DRAFT(before)[node.token]), abs=1e-4)
            else:
                assert node.log_q is None and node.joint_q is None
        if kept and name != "lookup" and block.ending != "length":
            assert found.log_ratio == pytest.approx(kept[-1].log_ratio, abs=1e-5)
        seen += 1
    assert seen > 8


def test_the_lattice_of_mmtad_is_the_definitions():
    checked = failing = 0
    for text, block, _, found in rounds("mmtad"):
        lattice = ref.draft_search(DRAFT, text, depth=DEPTH, width=WIDTH, ends=frozenset(ENDS))
        if min(lattice.gap, ref.accept_gap(lattice, TARGET, text, TAU)) < 1e-4:
            continue
        places = {
            1 + (d - 1) * WIDTH + i: (d, i)
            for d in range(1, DEPTH + 1)
            for i, node in enumerate(lattice.depths[d])
            if node.valid and not node.filler
        }
        assert [n.index for n in found.nodes] == list(places)
        passing, star = ref.passing(lattice, TARGET, text, TAU), ref.star_log_q(lattice)
        verdict = ref.mmtad_accept(lattice, TARGET, text, TAU)
        kept = lattice.places(verdict.depth, verdict.place)
        for node in found.nodes:
            d, i = places[node.index]
            assert node.token == lattice.depths[d][i].token
            assert node.joint_q == pytest.approx(lattice.depths[d][i].log_q, abs=1e-4)
            assert node.reference == pytest.approx(star[d], abs=1e-4)
            assert node.passes == (i in passing[d])
            assert node.candidate == (lattice.star[d] == i)
            if block.ending != "length":
                assert node.accepted == (d < len(kept) and kept[d] == i)
            failing += not node.passes
        assert found.bound == pytest.approx(np.log(TAU))
        checked += 1
    assert checked > 6 and failing > 6


def test_the_chain_of_mtad_is_the_candidate():
    checked = 0
    for text, _, _, found in rounds("mtad"):
        lattice = ref.draft_search(DRAFT, text, depth=DEPTH, width=WIDTH, ends=frozenset(ENDS))
        if min(lattice.gap, ref.accept_gap(lattice, TARGET, text, TAU)) < 1e-4:
            continue
        assert tuple(n.token for n in found.nodes) == lattice.star_tokens
        star = ref.star_log_q(lattice)
        for node in found.nodes:
            assert node.candidate and node.reference == pytest.approx(star[node.depth], abs=1e-4)
            assert node.passes == (node.log_ratio > np.float32(np.log(TAU)))
        checked += 1
    assert checked > 6


def test_a_round_tells_itself():
    ids, call = arguments("mmtad", PROMPTS[0])
    found = explain(prepare(*ids, **call), spell=lambda token: f"<{token}>")
    text, page = str(found), found._repr_html_()
    assert found.summary in text and len(text.splitlines()) == 3 + len(found.nodes)
    assert "'<" in text and "&lt;" in page and "<td" in page
    assert not any(f"<{token}>" in page for token in range(VOCAB))
    assert repr(found).startswith("ExplainedRound(0, ") and len(repr(found)) < 100
    assert {n.verdict for n in found.nodes} <= {"accepted", "passes, not taken", "fails"}


@pytest.mark.parametrize(
    ("changes", "rule", "round", "message"),
    [
        ({}, recipes.beam(2), 0, "strategy=BeamSearch drafts no tree.*recipes.mmtad"),
        ({"samples": 2}, RULES["mmtad"], 0, r"prompts \* samples = 2.*one prompt"),
        ({}, RULES["mmtad"], -1, "round=-1 must be a whole number >= 0"),
        ({}, RULES["mmtad"], 99, r"round=99: the text ended after \d+: give one below \d+"),
    ],
)
def test_what_cannot_be_laid_open(changes, rule, round, message):
    ids, call = arguments("mmtad", PROMPTS[0])
    if not rule.needs_draft:
        call |= {"draft": None}
    with pytest.raises(ValueError, match=message) as caught:
        explain(prepare(*ids, **call | changes | {"strategy": rule}), round)
    assert "\n" not in str(caught.value)


def test_a_name_is_no_rule():
    ids, call = arguments("mmtad", PROMPTS[0])
    prepared = dataclasses.replace(prepare(*ids, **call), strategy="mmtad")
    with pytest.raises(TypeError, match=r"strategy='mmtad' is no decoding rule.*recipes\.mmtad"):
        explain(prepared)
