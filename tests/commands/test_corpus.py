"""The training mix, its tokenizer and the story prompts."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from tiny_pair import write_pair

from experiments import corpus
from experiments.tasks import stories
from mtad_jax import Pipeline, Warp, recipes

DATA_DIR = Path(os.environ.get("MTAD_DATA", Path(__file__).parents[3] / "shared" / "data"))
needs_data = pytest.mark.skipif(
    not (DATA_DIR / stories.FOLDER / "train.txt").is_file(),
    reason="no corpora beside the repository",
)


@pytest.fixture(scope="module")
def documents() -> list[str]:
    prose = ["Once there was a fox.\nIt ran 12 miles, and it slept.\n\nThe end."] * 3
    return prose + [each.text for each in corpus.sql_texts("train", 300, seed=0)]


@pytest.fixture(scope="module")
def tokenizer(documents, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    return corpus.train_tokenizer(documents, path, vocab_size=512)


def test_tokenizer_shape(tokenizer):
    assert tokenizer.vocab_size() == 512
    assert (tokenizer.unk_id(), tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.pad_id()) == (
        0,
        1,
        2,
        -1,
    )


@pytest.mark.parametrize("text", ["a fox\n\nran\n", "two  spaces", "caf\u00e9 \u4e2d", "x = 120;"])
def test_tokenizer_round_trip(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.unk_id() not in ids


def test_tokenizer_round_trip_of_documents(tokenizer, documents):
    assert [tokenizer.decode(tokenizer.encode(text)) for text in documents] == documents


def test_digits_and_newlines_are_single_pieces(tokenizer):
    pieces = tokenizer.encode("1990\n", out_type=str)
    assert pieces == ["\u2581", "1", "9", "9", "0", "\n"]


def test_a_prompt_is_a_prefix_of_its_document(tokenizer):
    for example in corpus.text_to_sql.examples("held_out", 100, seed=0):
        prompt = tokenizer.encode(example.prompt)
        assert tokenizer.encode(example.prompt + example.sql)[: len(prompt)] == prompt


def test_tokenizer_is_deterministic(documents, tokenizer, tmp_path):
    path = tmp_path / "again.model"
    corpus.train_tokenizer(documents, path, vocab_size=512)
    assert path.read_bytes() == tokenizer.serialized_model_proto()


def test_encode_documents(documents, tokenizer, tmp_path):
    path = tmp_path / "tokens.npy"
    tokens = corpus.encode_documents(corpus.plain(documents), tokenizer, path, seed=5)
    assert tokens.dtype == np.uint16 and tokens.ndim == 1
    assert np.array_equal(np.load(path), tokens)
    assert tokens[0] == 1 and tokens[-1] == 2
    parts = np.split(tokens, np.flatnonzero(tokens == 1)[1:])
    decoded = [tokenizer.decode(part[1:-1].tolist()) for part in parts]
    assert sorted(decoded) == sorted(documents) and decoded != documents
    again = tmp_path / "again.npy"
    assert np.array_equal(
        corpus.encode_documents(corpus.plain(documents), tokenizer, again, seed=5), tokens
    )


def test_the_answers_of_documents_are_marked(tokenizer, tmp_path):
    asked = corpus.sql_texts("held_out", 20, seed=0)
    texts = [*asked, *corpus.plain(["Once upon a time."])]
    tokens = corpus.encode_documents(texts, tokenizer, tmp_path / "x.npy", seed=1)
    answers = np.load(tmp_path / "x_answers.npy")
    starts = np.flatnonzero(tokens == tokenizer.bos_id())
    assert not answers[starts].any()
    assert answers[np.flatnonzero(tokens == tokenizer.eos_id())].all()
    found = [
        tuple(tokenizer.decode(part[mask == wanted].tolist()) for wanted in (False, True))
        for part, mask in zip(*(np.split(x, starts[1:]) for x in (tokens, answers)), strict=True)
    ]
    assert sorted(found) == sorted((each.question, each.answer) for each in texts)


def test_sentences_are_short_and_lose_no_words():
    text = "some words " * 1000 + "\nlast line"
    pieces = list(corpus.sentences([text, " ", ""]))
    assert max(map(len, pieces)) <= corpus.MAX_SENTENCE
    assert " ".join(pieces).split() == text.split()


@pytest.mark.slow
def test_own_answers_are_the_targets(tmp_path, monkeypatch, capsys):
    target, _ = write_pair(tmp_path / "pair")
    asked = corpus.sql_texts("train", 3, seed=0)
    call = {"strategy": recipes.sample(), "warp": Warp(), "max_new_tokens": 8, "seed": 1}
    rows = Pipeline.load(target)([each.question for each in asked], **call)
    ends = ("length", "end", "end")
    monkeypatch.setattr(corpus, "MAX_ANSWER", 8)
    monkeypatch.setattr(
        Pipeline, "__call__",
        lambda *args, **kwargs: [
            dataclasses.replace(row, finish_reason=end)
            for row, end in zip(rows, ends, strict=True)
        ],
    )  # fmt: skip
    got = corpus.own_answers(target, asked, seed=1)  # the first did not end
    assert [(d.question, d.answer) for d in got] == [
        (d.question, row.text) for d, row in zip(asked[1:], rows[1:], strict=True)
    ]
    assert "2 of 3 ended" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--answers_of=a", "--tokenizer_of=b"], "leave --tokenizer_of out"),
        (["--tokenizer_of=a", "--vocab_size=9"], "--vocab_size means nothing to --tokenizer_of"),
        (["--answers_of=nowhere"], "--answers_of=nowhere: no tokenizer.model in it"),
    ],
)
def test_tokenizers_that_cannot_be_taken(args, message):
    values = flags.FlagValues()
    for name in ("answers_of", "tokenizer_of"):
        flags.DEFINE_string(name, None, "", flag_values=values)
    flags.DEFINE_integer("vocab_size", 2048, "", flag_values=values)
    values(["corpus", *args])
    with pytest.raises((ValueError, OSError), match=message):
        corpus.given_tokenizer(values)


def test_clean():
    assert stories.clean("\u201cNo\u201d \u2014 it\u2019s\u2026\u00a0so \r\n\n\n\nend ") == (
        '"No" - it\'s... so\n\nend'
    )


def test_missing_data_is_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match="--data_dir") as error:
        corpus.training_sources(tmp_path, sql_examples=1, story_repeats=1, seed=0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("size", "bound"), [(100, "100 vs [0-9]+"), (50_000, "<= [0-9]+")])
def test_a_tokenizer_of_too_few_or_too_many_pieces_is_one_line(documents, tmp_path, size, bound):
    with pytest.raises(ValueError, match=f"--vocab_size={size} does not go .*{bound}") as error:
        corpus.train_tokenizer(documents, tmp_path / "tokenizer.model", size)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


@pytest.fixture
def run_corpus(tmp_path, monkeypatch):
    """The program with small prose, in this process; returns the folder that it writes."""
    prose = tmp_path / "data" / stories.FOLDER
    prose.mkdir(parents=True)
    for name in ("train.txt", "val.txt"):
        (prose / name).write_text("Once there was a fox.\n\nThe end.\n")
    monkeypatch.setattr(corpus, "VALIDATION_SQL_EXAMPLES", 5)
    output = tmp_path / "out"

    def run(*args):
        values = flags.FlagValues()
        with monkeypatch.context() as patch:
            patch.setattr(corpus.flags, "FLAGS", values)
            for kind in ("string", "integer", "bool"):
                define = getattr(flags, f"DEFINE_{kind}")
                patch.setattr(
                    corpus.flags, f"DEFINE_{kind}",
                    lambda *a, define=define, **k: define(*a, **k, flag_values=values),
                )  # fmt: skip
            corpus.define_flags()
            small = ["--sql_examples=50", "--story_repeats=0", "--vocab_size=400"]
            values(
                ["corpus", f"--data_dir={tmp_path / 'data'}", f"--output={output}", *small, *args]
            )
            corpus.main([])
        return output

    return run


def test_a_corpus_is_replaced_as_a_whole_or_not_at_all(run_corpus, monkeypatch):
    folder = run_corpus()
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(ValueError, match="output exists: use another name or --overwrite"):
        run_corpus()
    (folder / "train_starts.npy").touch()  # of experiments.own_answers
    with monkeypatch.context() as patch:

        def stop(*args):
            raise KeyboardInterrupt

        patch.setattr(corpus, "encode_documents", stop)
        with pytest.raises(KeyboardInterrupt):
            run_corpus("--overwrite", "--seed=1")
    kept = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert kept == before | {"train_starts.npy": b""}
    run_corpus("--overwrite", "--seed=1")
    assert {file.name for file in folder.iterdir()} == set(before)
    assert (folder / "train.npy").read_bytes() != before["train.npy"]


@pytest.mark.slow
@pytest.mark.parametrize("given", [[], ["--data_dir=nowhere"]])
def test_the_program_ends_in_one_line(given, tmp_path):
    command = [sys.executable, "-m", "experiments.corpus", f"--output={tmp_path / 'out'}", *given]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and not done.stdout and not (tmp_path / "out").exists()
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "--data_dir" in done.stderr


def test_prompts_come_from_held_out_splits(tmp_path):
    with pytest.raises(ValueError, match="val or test"):
        stories.prompts("train", 1, 0, tmp_path)


@needs_data
def test_story_prompts():
    prompts = stories.prompts("val", 60, 0, DATA_DIR)
    assert len(set(prompts)) == 60
    assert prompts == stories.prompts("val", 60, 0, DATA_DIR)
    assert prompts != stories.prompts("val", 60, 1, DATA_DIR)
    assert all(40 <= len(prompt.split()) <= 60 for prompt in prompts)
    training = "\n".join(stories.training_texts(DATA_DIR))
    assert not any(prompt in training for prompt in prompts)
    assert all("\n" not in prompt and prompt == prompt.strip() for prompt in prompts)


@needs_data
def test_too_many_prompts_are_refused():
    with pytest.raises(ValueError, match="prompts"):
        stories.prompts("test", 10**6, 0, DATA_DIR)


@needs_data
def test_training_sources():
    size = {"sql_examples": 20, "seed": 0}
    sources = corpus.training_sources(DATA_DIR, story_repeats=2, **size)
    assert list(sources) == ["stories", "role_play", "sql"]
    assert len(set(sources["stories"])) * 2 == len(sources["stories"])
    assert len(sources["sql"]) == 20
    texts = [each.text for documents in sources.values() for each in documents]
    assert not any(quote in text for text in texts for quote in "“”’")
    only = corpus.training_sources(DATA_DIR, story_repeats=0, **size)
    assert not only["stories"] and not only["role_play"] and only["sql"] == sources["sql"]
