"""What a result says of its rounds: blocks, endings, log-ratios, and the joint rules' promise."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref

import mtad_jax
from mtad_jax import recipes
from mtad_jax.decode.engine import generate
from mtad_jax.decode.warp import Warp
from mtad_jax.testing import table_lm, tiny_pair

VOCAB, ROWS, LIMIT, BATCH = 8, 31, 14, 6
WARP = Warp(1.1, 0.95, 6)
ENDS = [0, 3]
CASES = {
    "speculative": recipes.speculative(3),
    "mtad": recipes.mtad(3, 3, 0.4),
    "mmtad": recipes.mmtad(3, 3, 0.4),
}


def tables():
    rng = np.random.default_rng(5)
    target = rng.normal(scale=1.5, size=(ROWS, VOCAB))
    pair = np.stack([target, target + rng.normal(scale=0.8, size=target.shape)])
    pair[:, :, ENDS] -= 1.0
    return pair.astype(np.float32)


TABLES = tables()
PROMPTS = np.random.default_rng(1).integers(0, VOCAB, (BATCH, 4))
LENGTHS = np.array([4, 1, 3, 2, 4, 2])


def decode(strategy, limit=LIMIT, seed=0):
    target, draft = (table_lm(table) for table in TABLES)
    return generate(
        target, PROMPTS, LENGTHS, strategy=strategy, draft=draft, warp=WARP, max_new_tokens=limit,
        eos_id=ENDS, seed=seed,
    )  # fmt: skip


def laws():
    """The warped laws of target and draft, by the reference."""
    setting = float(WARP.temperature), WARP.top_k, float(WARP.top_p)
    models = [ref.TableModel(table.astype(float)) for table in TABLES]
    return [lambda text, m=m: ref.warp(m.logits(text), *setting) for m in models]


def joint(law, text, tokens):
    """Log-probability of tokens after a text."""
    total = 0.0
    for token in tokens:
        total += float(law(text)[token])
        text = (*text, token)
    return total


def every_block(result):
    for row, blocks in enumerate(result.blocks()):
        tokens = np.asarray(result.tokens[row])
        for block in blocks:
            text = (*PROMPTS[row, : LENGTHS[row]].tolist(), *tokens[: block.start].tolist())
            accepted = tokens[block.start : block.start + block.accepted].tolist()
            yield row, block, text, tuple(accepted)


def log_q(name, draft, text, accepted):
    """What the accepted tokens are compared with: their own log q, or that of x*'s ancestor."""
    if name != "mmtad":
        return joint(draft, text, accepted)
    lattice = ref.draft_search(draft, text, depth=3, width=3, ends=frozenset(ENDS))
    verdict = ref.mmtad_accept(lattice, laws()[0], text, 0.4)
    assert verdict.tokens == accepted
    return verdict.log_q_star


@pytest.mark.parametrize("name", CASES)
def test_log_ratio_is_that_of_the_accepted_tokens(name):
    target, draft = laws()
    result, seen = decode(CASES[name]), 0
    for row, block, text, accepted in every_block(result):
        if not block.accepted:
            assert block.log_ratio == 0 or block.ending == "length"
            continue
        if block.ending == "length":  # the limit may have cut what the ratio is of
            continue
        stop = block.start + block.accepted
        by_trace = float(np.asarray(result.trace.logp)[row, block.start : stop].sum())
        want = log_q(name, draft, text, accepted)
        assert block.log_ratio == pytest.approx(by_trace - want, abs=2e-5)
        assert by_trace == pytest.approx(joint(target, text, accepted), abs=2e-5)
        seen += 1
    assert seen > 8


@pytest.mark.parametrize("name", CASES)
def test_a_limit_cuts_blocks_and_leaves_their_log_ratio(name):
    whole = decode(CASES[name])
    found = cut_rounds = 0
    for limit in (3, 5, 6):
        short = decode(CASES[name], limit)
        for full, cut in zip(whole.blocks(), short.blocks(), strict=True):
            assert sum(b.tokens for b in cut) == min(limit, sum(b.tokens for b in full))
            for a, b in zip(full, cut, strict=False):
                assert (a.start, a.log_ratio) == (b.start, b.log_ratio)
                if a != b:
                    assert b is cut[-1] and b.ending == "length"
                    assert b.accepted <= a.accepted and b.candidate <= a.candidate
                    cut_rounds += b.tokens < a.tokens
                found += 1
    assert found > 20 and cut_rounds > 2


@pytest.mark.parametrize("name", CASES)
def test_a_cut_of_the_counters_is_that_of_the_blocks(name):
    result = decode(CASES[name])
    for cut in (None, np.zeros(BATCH, int), np.array([1, 2, 3, 4, 5, 6]), np.full(BATCH, 99)):
        stats, rows = result.stats(cut), result.blocks(cut)
        for row, blocks in enumerate(rows):
            kept = int(result.length[row]) if cut is None else min(cut[row], result.length[row])
            assert sum(b.tokens for b in blocks) == kept
            assert len(blocks) == stats.rounds[row] == stats.endings[row].sum()
            assert sum(b.accepted for b in blocks) == stats.accepted[row]
            assert sum(b.candidate for b in blocks) == stats.drafted[row]
            names = ["rejected", "depth", "end", "length"]
            assert [sum(b.ending == n for b in blocks) for n in names] == list(stats.endings[row])


def test_a_cut_through_a_round_counts_as_the_limit_itself_would():
    whole, checked = decode(CASES["mtad"]), 0
    for limit in (3, 5, 6):
        short, cut = decode(CASES["mtad"], limit), np.full(BATCH, limit)
        for a, b in zip(whole.blocks(cut), short.blocks(), strict=True):
            assert a[:-1] == b[:-1]
            if a[-1].ending == "length":  # at the end of a round it keeps its own ending
                assert a[-1] == b[-1]
                checked += 1
    assert checked > 2


def test_endings_are_what_the_text_shows():
    result = decode(CASES["speculative"])
    seen = set()
    for row, block, _, _ in every_block(result):
        stop = block.start + block.tokens
        last = int(result.tokens[row, stop - 1])
        at_end = stop == int(result.length[row])
        assert (block.ending == "end") == (last in ENDS)
        assert (block.ending == "length") == (at_end and last not in ENDS)
        if block.ending == "depth":
            assert block.accepted == block.candidate
        if block.ending == "rejected":
            assert block.accepted < block.candidate
        seen.add(block.ending)
    assert seen == {"rejected", "depth", "end", "length"}


def test_plain_decoding_and_beam_search_have_blocks_too():
    for strategy in (recipes.sample(), recipes.beam(3)):
        result = decode(strategy)
        for row, blocks in enumerate(result.blocks()):
            assert sum(b.tokens for b in blocks) == int(result.length[row])
            assert all(b.accepted == b.candidate == 0 for b in blocks)
            assert {b.ending for b in blocks[:-1]} <= {"depth"}
            assert blocks[-1].ending in ("end", "length")


@pytest.mark.parametrize("name", ["mtad", "mmtad"])
def test_every_accepted_block_keeps_the_promise(name):
    certificate = mtad_jax.certificate(decode(CASES[name]))
    assert certificate.holds and certificate.margin > 0
    assert certificate.bound == pytest.approx(math.log(0.4))
    blocks = [b for _, b, _, _ in every_block(decode(CASES[name])) if b.accepted]
    assert [c.log_ratio for c in certificate.blocks] == [b.log_ratio for b in blocks]
    assert certificate.margin == min(b.log_ratio for b in blocks) - certificate.bound
    text = str(certificate)
    assert "HOLDS for every block" in text and len(text.splitlines()) <= 20


@pytest.mark.slow
def test_a_model_keeps_the_promise_and_its_own_draft_has_ratio_zero():
    target, draft = tiny_pair()
    call = {"strategy": recipes.mmtad(3, 3, 0.6, "sample"), "warp": WARP, "max_new_tokens": 24}
    ids, lengths = np.random.default_rng(0).integers(0, 64, (8, 5)), np.arange(8) % 5 + 1
    certificate = mtad_jax.certificate(generate(target, ids, lengths, draft=draft, **call))
    assert certificate.holds and len(certificate.blocks) > 20
    own = mtad_jax.certificate(generate(target, ids, lengths, draft=target, **call))
    assert all(b.log_ratio > -2e-5 for b in own.blocks)  # x* or a path as probable
    assert len(own.blocks) == own.rounds


@pytest.mark.parametrize("value", [-5.0, math.nan])
def test_a_tampered_result_is_seen(value):
    result = decode(CASES["mtad"])
    row, block = next((r, b) for r, b, _, _ in every_block(result) if b.accepted)
    ratio = jnp.asarray(result.trace.log_ratio).at[row, block.start].set(value)
    trace = dataclasses.replace(result.trace, log_ratio=ratio)
    certificate = mtad_jax.certificate(dataclasses.replace(result, trace=trace))
    assert not certificate.holds
    assert "BROKEN by 1 blocks" in str(certificate)
    broken = [b for b in certificate.blocks if not b.holds]
    assert [(b.row, b.start) for b in broken] == [(row, block.start)]
    assert str(certificate).splitlines()[3].endswith("BROKEN")


def test_nothing_accepted_is_a_certificate_of_nothing():
    certificate = mtad_jax.certificate(decode(recipes.mtad(3, 3, 1e6)))
    assert certificate.holds and not certificate.blocks and certificate.margin == math.inf
    assert "0 accepted blocks" in str(certificate)


@pytest.mark.parametrize("strategy", [recipes.sample(), recipes.speculative(2)])
def test_rules_without_a_promise_are_refused(strategy):
    with pytest.raises(ValueError, match=r"bound=None.*recipes\.mtad or recipes\.mmtad"):
        mtad_jax.certificate(decode(strategy))
