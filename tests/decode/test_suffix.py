"""Suffix lookup against plain loops: places of a corpus, the search for a text's end, the draft."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
from jitted import jit_of_rule

from mtad_jax import recipes
from mtad_jax.decode.draft_verify import DraftVerify
from mtad_jax.decode.drafters import corpus as corpora
from mtad_jax.decode.drafters.chain import Chain
from mtad_jax.decode.drafters.corpus import build_corpus, last_match
from mtad_jax.decode.drafters.suffix import Suffix
from mtad_jax.decode.engine import generate, prepare
from mtad_jax.decode.request import Request
from mtad_jax.decode.verifiers.plain import Ancestral
from mtad_jax.decode.warp import Warp
from mtad_jax.testing import table_lm

VOCAB, BATCH, WIDTH = 4, 32, 12
DOCUMENTS = [[3, 1, 2], [1, 2, 3], [2], [], [3, 3]]

_search = jax.jit(last_match)
_propose = jit_of_rule(lambda drafter, lm, state, controls: drafter.propose(lm, state, controls)[0])


def drawn(seed, *, size=40):
    """An array of documents, many of them short; always 25 places, so that programs are shared."""
    rng = np.random.default_rng(seed)
    ends = rng.permutation(np.repeat([False, True], [size - 8, 8]))
    ids = np.where(ends, -rng.integers(1, VOCAB, size), rng.integers(0, VOCAB, size))
    while True:
        flat = np.pad(ids, 1, constant_values=-1)
        places = ((flat[1:] >= 0) & (flat[:-1] >= 0)).sum()
        if places == 25:
            return ids
        ids = rng.permutation(ids)


def parts(ids):
    """The documents of an array."""
    found = [[]]
    for i in ids:
        found[-1].append(int(i))
        if i < 0:
            found[-1].pop()
            found.append([])
    return [tuple(part) for part in found]


def test_places_are_sorted_by_what_ends_there():
    corpus = build_corpus(DOCUMENTS, 2)
    assert corpus.tokens.tolist() == [-1, 3, 1, 2, -1, 1, 2, 3, -1, 2, -1, -1, 3, 3, -1, -1]
    # Contexts, backwards: 3-, 13 | 1-, 21 | 3-.
    assert corpus.newest[5:].tolist() == [5, 2, 6, 1, 12]
    assert corpus.newest[1:5].tolist() == [12, 12, 6, 12] and corpus.largest == 3
    assert corpus.tokens.dtype == corpus.newest.dtype == np.int32


@pytest.mark.parametrize("count", [1, 2, 3, 6, 7, 8])
def test_the_tree_holds_maxima_of_any_stretch(count):
    leaves = np.random.default_rng(count).permutation(count).astype(np.int32)
    tree = jnp.asarray(corpora._tree_of_maxima(leaves))
    low, high = (x.reshape(-1) for x in np.mgrid[: count + 1, : count + 1])
    got = corpora._largest(tree, jnp.asarray(low), jnp.asarray(high))
    want = [max(leaves[a:b].tolist(), default=-1) for a, b in zip(low, high, strict=True)]
    assert got.tolist() == want


@pytest.mark.parametrize("longest", [1, 3])
def test_the_last_place_that_agrees_in_most_tokens_is_found(longest):
    rng, seen = np.random.default_rng(longest), set()
    for seed in range(8):
        corpus = build_corpus(drawn(seed), longest)
        text = rng.integers(0, VOCAB + 1, (BATCH, longest))  # one token is in no corpus
        text[:4, 1:] = -1  # texts of one token
        place, matched = jax.tree.map(np.asarray, _search(corpus, jnp.asarray(text)))
        for row in range(BATCH):
            agree = {}
            for at in np.sort(corpus.newest[len(corpus.newest) // 2 :]).tolist():
                own = [*corpus.tokens[max(at - longest + 1, 0) : at + 1][::-1].tolist(), -2]
                n = 0
                while n < longest and text[row, n] >= 0 and own[n] == text[row, n]:
                    n += 1
                agree[n] = at  # of equal ones the last
            assert matched[row] == max(agree), (seed, row)
            assert place[row] == agree[max(agree)] or not max(agree), (seed, row)
            seen.add(max(agree))
    assert seen == set(range(longest + 1))


def test_every_end_of_a_place_finds_it_or_a_later_one():
    """Also the first and the last of the sorted places."""
    corpus = build_corpus(DOCUMENTS, 3)
    ends = [[1, 3, -1], [2, 1, -1], [3, -1, -1], [1, -1, -1], [0, 0, 0], [9, 3, 3], [3, 3, -1]]
    place, matched = _search(corpus, jnp.asarray(ends))
    assert matched.tolist() == [2, 2, 1, 1, 0, 0, 1]
    assert place.tolist()[:4] == [2, 6, 12, 5] and place[6] == 12


def propose(drafter, ids, lengths, **settings):
    """The first round's draft."""
    lm = table_lm(np.zeros((3, VOCAB)))
    call = prepare(
        lm, ids, lengths, strategy=DraftVerify(Chain(1), Ancestral()), draft=lm, max_new_tokens=4,
        slots=64, **settings,
    )  # fmt: skip
    return jax.tree.map(np.asarray, _propose(drafter, lm, call.state, call.controls))


def check_drafts(draft, wanted, depth):
    """Every row drafted what was wanted, each token surely."""
    for row, want in enumerate(wanted):
        n = len(want)
        assert draft.tokens[row, 1 : 1 + n].tolist() == list(want), row
        assert draft.valid[row].tolist() == [0 < i <= n for i in range(depth + 1)]
        assert draft.length[row] == n and not draft.reference[row].any()
        point = np.where(np.arange(VOCAB) == draft.tokens[row, 1 : 1 + n, None], 0.0, -np.inf)
        np.testing.assert_array_equal(draft.logq[row, :n], point)


@pytest.mark.parametrize("longest", [1, 4])
def test_the_draft_is_what_followed(longest):
    rng, sizes = np.random.default_rng(longest), set()
    for seed in range(6):
        documents = drawn(seed)
        ids, lengths = rng.integers(0, VOCAB, (BATCH, WIDTH)), rng.integers(1, WIDTH, BATCH)
        texts = [tuple(row[:n].tolist()) for row, n in zip(ids, lengths, strict=True)]
        for given, corpus in ((parts(documents), build_corpus(documents, longest)), ([], None)):
            draft = propose(Suffix(5, longest, corpus), ids, lengths, eos_id=2)
            want = [ref.suffix_chain(t, given, 5, longest, frozenset({2})) for t in texts]
            check_drafts(draft, want, 5)
            sizes |= {len(chain) for chain in want}
            assert draft.tokens.min() >= 0
    assert sizes == set(range(6))


def test_equal_matches_are_those_of_the_text_and_longer_ones_win():
    corpus = build_corpus([[1, 2, 3, 3], [3, 1, 2, 0]], 4)
    ids = np.array([[1, 2, 1, 2], [3, 1, 2, 2], [0, 1, 2, 0], [0, 3, 1, 2]])
    draft = propose(Suffix(3, 4, corpus), ids, np.full(4, 4))
    # (1, 2) is in both; (2) in the text alone, a token for it to overlap; (0) only in the text,
    # where a document ends; (3, 1, 2) in the corpus alone.
    check_drafts(draft, [(1, 2), (2,), (1, 2, 0), (0,)], 3)


def test_a_file_a_list_and_an_array_are_one_corpus(tmp_path):
    array = np.array([3, 1, 2, -1, 1, 2, 3, -7])
    np.save(tmp_path / "ids.npy", array.astype(np.int16))
    both = [[3, 1, 2], np.array([1, 2, 3])], array[:-1], array, str(tmp_path / "ids.npy")
    first, *others = (build_corpus(given, 3) for given in both)
    for other in others:
        np.testing.assert_array_equal(other.newest, first.newest)
        np.testing.assert_array_equal(other.tokens[:8], first.tokens[:8])


def test_a_corpus_makes_texts_that_repeat_it_cheap():
    """The table decides most of the next token by the last few: its own greedy text is a corpus."""
    lm = table_lm(np.random.default_rng(0).normal(scale=4.0, size=(31, 12)))
    call = {"max_new_tokens": 24, "warp": Warp(temperature=0.0)}
    first = generate(lm, [[1, 2, 3]], [3], strategy=recipes.greedy(), **call)
    text = [1, 2, 3, *np.asarray(first.tokens[0]).tolist()]
    again = generate(lm, [[1, 2, 3]], [3], strategy=recipes.suffix(6, 24, [text]), **call)
    assert again.tokens[0].tolist() == text[3:]
    assert int(again.stats().rounds[0]) == 4  # of 7 tokens each, the last one shorter


CORPUS = build_corpus(DOCUMENTS, 3)
BAD = {
    "depth": (Suffix(0, 1), Request(), r"depth=0 must be >= 1"),
    "longest": (Suffix(2, 0), Request(), r"longest=0 must be in \[1, 64\]"),
    "too long": (Suffix(2, 65), Request(), r"longest=65 must be in \[1, 64\]"),
    "no number": (Suffix(2, 1.0), Request(), r"longest=1\.0 must be a whole number"),
    "built": (Suffix(2, 4, CORPUS), Request(), r"longest=4 > 3, by which the corpus was built"),
    "ids": (Suffix(2, 3, CORPUS), Request(vocab=3), r"corpus holds id 3, outside \[0, 2\]"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_setting_is_named(name):
    drafter, request, message = BAD[name]
    with pytest.raises(ValueError, match=message) as error:
        drafter.check(request)
    assert "\n" not in str(error.value)


def test_what_is_in_range_passes():
    Suffix(1, 64).check(Request(shortest=1))
    Suffix(2, 3, CORPUS).check(Request(vocab=4))
    Suffix(2, 1, CORPUS).check(Request())


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([[1], [2], []], "corpus has no document of two tokens"),
        ([], "corpus has no document of two tokens"),
        ([1, 2, 3], "must be lists of token ids, one a document"),
        ([[1.5, 2.0]], "must be lists of token ids"),
        (np.zeros((2, 2), int), r"corpus has shape \(2, 2\) and dtype int64: give integers \[N\]"),
        (np.zeros(3), r"dtype float64: give integers"),
        (np.array([1, 2**31]), r"corpus holds id 2147483648"),
        (np.ones(9, int), r"corpus has 11 tokens > 10: .* 12 bytes a token"),
    ],
)
def test_a_bad_corpus_is_refused(documents, message, monkeypatch):
    monkeypatch.setattr(corpora, "MOST_TOKENS", 10)
    with pytest.raises(ValueError, match=message) as error:
        recipes.suffix(2, 3, documents)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("recipe", [recipes.suffix, recipes.recycle])
def test_a_file_of_another_kind_is_refused(recipe, tmp_path):
    name = "corpus" if recipe is recipes.suffix else "table"
    (tmp_path / "text").write_text("1 2 3")
    (tmp_path / "empty").write_bytes(b"")
    np.savez(tmp_path / "two.npz", ids=np.arange(3))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "two.npz").read_bytes()[:60])
    for file in ("text", "empty", "two.npz", "cut.npz"):
        with pytest.raises(ValueError, match=rf"{name}=.*{file}: no \.npy file of token ids"):
            recipe(2, 3, str(tmp_path / file))
    with pytest.raises(FileNotFoundError):
        recipe(2, 3, str(tmp_path / "nowhere.npy"))


@pytest.mark.parametrize("recipe", [recipes.suffix, recipes.recycle])
def test_a_file_may_lie_in_the_home_folder(recipe, tmp_path, monkeypatch):
    """A shell leaves the ~ of `suffix depth=2 corpus=~/x.npy` alone."""
    monkeypatch.setenv("HOME", str(tmp_path))
    np.save(tmp_path / "ids.npy", [[0, 1]] if recipe is recipes.recycle else [0, 1])
    recipe(2, 2, "~/ids.npy")


def test_the_largest_corpus_and_the_largest_id_pass(monkeypatch):
    monkeypatch.setattr(corpora, "MOST_TOKENS", 11)
    assert build_corpus(np.full(9, 2**31 - 1), 1).largest == 2**31 - 1
