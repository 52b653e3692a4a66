"""The training mix of the shipped model pair: tales, role play in prose, and synthetic text-to-SQL.

`python -m experiments.corpus --data_dir=DIR --output=DIR` trains a tokenizer and writes it with the
token arrays (train, val_stories, val_sql) and what of each is an answer. The folder appears as a
whole; one that exists is replaced with `--overwrite` only. The tokenizer has the shape of Llama's
(Touvron et al., 2023, arXiv:2302.13971): sentencepiece BPE (Kudo and Richardson, 2018,
arXiv:1808.06226) with single digits and a fallback to bytes.

With `--answers_of=TARGET` the queries are that target's own, drawn at temperature 1, and the
tokenizer is the target's: what a draft is distilled on last (Zhou et al., 2024, arXiv:2310.08461).
"""

import io
import json
import random
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import sentencepiece as spm
from absl import flags

from experiments.flags.settings import check_least
from experiments.tasks import stories, text_to_sql
from experiments.training import data as train_data
from experiments.training.export import BOS, EOS, TOKENIZER
from mtad_jax import Pipeline, Warp, cli, recipes
from mtad_jax.checkpoints.atomic import new_folder
from mtad_jax.errors import one_line

TOKENIZER_SQL_EXAMPLES = 6000
VALIDATION_SQL_EXAMPLES = 1000
VALIDATION_SQL_SEED = 1_000_000  # evaluation takes small seeds
MAX_ANSWER, ANSWER_BATCH = 96, 64  # tokens of an own answer; questions asked together
MAX_SENTENCE = 1000  # characters; sentencepiece drops a sentence of over 4192 bytes


def check_data_dir(data_dir: str | Path) -> Path:
    """The folder as a path, or a one-line error."""
    path = Path(data_dir)
    if not (path / stories.FOLDER / "train.txt").is_file():
        raise FileNotFoundError(f"no {stories.FOLDER / 'train.txt'} in {path}: give --data_dir=DIR")
    return path


def role_play_texts(data_dir: str | Path) -> list[str]:
    """GPTeacher's role play as prose: a line with the instruction, then the answer."""
    path = Path(data_dir) / "corpora" / "gpteacher" / "roleplay-instruct.json"
    rows = json.loads(path.read_text(encoding="utf-8"))
    fields = ("instruction", "input", "response")
    return [
        stories.clean("\n".join(row[field] for field in fields if row[field].strip()))
        for row in rows
    ]


class Document(NamedTuple):
    """A text in two parts: what is asked, ending with a newline or empty, and what is answered."""

    question: str
    answer: str

    @property
    def text(self) -> str:
        """The whole text."""
        return self.question + self.answer


def plain(texts: Iterable[str]) -> list[Document]:
    """Texts that ask nothing: all of them is to be learnt."""
    return [Document("", text) for text in texts]


def sql_texts(split: str, count: int, seed: int) -> list[Document]:
    """Text-to-SQL documents: the prompt and the query."""
    found = text_to_sql.examples(split, count, seed)
    return [Document(each.prompt, each.sql) for each in found]


def given_tokenizer(args: flags.FlagValues) -> Path | None:
    """The tokenizer that the flags ask for, checked; None: a new one."""
    names = [name for name in ("answers_of", "tokenizer_of") if getattr(args, name) is not None]
    if not names:
        return None
    if len(names) > 1:
        raise ValueError("--answers_of brings its own tokenizer: leave --tokenizer_of out")
    if args["vocab_size"].present:
        raise ValueError(f"--vocab_size means nothing to --{names[0]}: leave one of them out")
    folder = getattr(args, names[0])
    path = Path(folder) / TOKENIZER
    if not path.is_file():
        raise FileNotFoundError(f"--{names[0]}={folder}: no {TOKENIZER} in it")
    pieces = spm.SentencePieceProcessor(model_file=str(path))
    if (pieces.bos_id(), pieces.eos_id()) != (BOS, EOS) or len(pieces) > 1 << 16:
        raise ValueError(
            f"{path}: <s> {pieces.bos_id()}, </s> {pieces.eos_id()} and {len(pieces)} pieces, but "
            f"{BOS}, {EOS} and at most 65536 are needed: take a tokenizer of experiments.corpus"
        )
    return path


def own_answers(target: str, documents: list[Document], seed: int) -> list[Document]:
    """The questions with answers that the target draws, un-warped; without those it does not end.

    An answer that was cut would teach that a text ends there.
    """
    rows = Pipeline.load(target)(
        [each.question for each in documents], strategy=recipes.sample(), warp=Warp(),
        max_new_tokens=MAX_ANSWER, batch_size=ANSWER_BATCH, seed=seed,
    )  # fmt: skip
    pairs = zip(documents, rows, strict=True)
    found = [Document(d.question, row.text) for d, row in pairs if row.finish_reason == "end"]
    print(f"own answers: {len(found)} of {len(documents)} ended within {MAX_ANSWER} tokens")
    return found


def training_sources(
    data_dir: str | Path, *, sql_examples: int, story_repeats: int, seed: int
) -> dict[str, list[Document]]:
    """The documents of one pass over the training mix, by source."""
    path = check_data_dir(data_dir)
    return {
        "stories": plain(stories.training_texts(path)) * story_repeats,
        "role_play": plain(role_play_texts(path)) if story_repeats else [],
        "sql": sql_texts("train", sql_examples, seed),
    }


def sentences(documents: Iterable[str]) -> Iterable[str]:
    """The documents in pieces that sentencepiece accepts, cut at spaces; newlines stay inside."""
    for document in documents:
        while len(document) > MAX_SENTENCE:
            cut = document.rfind(" ", 1, MAX_SENTENCE)
            cut = cut if cut > 0 else MAX_SENTENCE
            yield document[:cut]
            document = document[cut:].lstrip(" ")
        if document.strip():
            yield document


def train_tokenizer(
    documents: Iterable[str], path: str | Path, vocab_size: int = 2048
) -> spm.SentencePieceProcessor:
    """Trains a sentencepiece BPE model on the documents, writes it to `path` and loads it.

    Raises:
      ValueError: these documents have no tokenizer of `vocab_size` pieces.
    """
    model = io.BytesIO()
    try:
        spm.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences(documents)),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            hard_vocab_limit=True,
            byte_fallback=True,
            character_coverage=0.9999,
            split_digits=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            user_defined_symbols=["\n", "_", "'"],  # so that the parts of a name are pieces, too
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=-1,
            num_threads=1,
            minloglevel=1,
        )
    except RuntimeError as error:  # sentencepiece's, of too few or too many pieces
        # "INTERNAL: file(line) [condition] what is wrong, with the bound. Increase ..."
        reason = one_line(error).rpartition("] ")[2].partition(" Increase ")[0]
        raise ValueError(
            f"--vocab_size={vocab_size} does not go with these documents: {reason}"
        ) from error
    Path(path).write_bytes(model.getvalue())
    return spm.SentencePieceProcessor(model_proto=model.getvalue())


def encode_documents(
    documents: Iterable[Document],
    tokenizer: spm.SentencePieceProcessor,
    out_path: str | Path,
    seed: int = 0,
) -> np.ndarray:
    """Writes `<s> document </s>` of all documents in a seeded random order: a flat uint16 array.

    Beside `NAME.npy` goes `NAME_answers.npy`, which says of each token whether it is the answer's.
    """
    shuffled = list(documents)
    random.Random(seed).shuffle(shuffled)
    encoded = tokenizer.encode([each.text for each in shuffled], add_bos=True, add_eos=True)
    # A question ends with a newline, which is a piece of its own: no piece is of both parts.
    asked = [len(ids) for ids in tokenizer.encode([each.question for each in shuffled])]
    tokens = np.fromiter((token for ids in encoded for token in ids), dtype=np.uint16)
    answers = np.concatenate(
        [np.arange(len(ids)) > count for ids, count in zip(encoded, asked, strict=True)]
    )
    path = Path(out_path)
    train_data.save(path.parent, path.stem, train_data.Corpus(tokens, answers))
    return tokens


def tokenizer_documents(sources: dict[str, list[Document]]) -> list[str]:
    """The documents that the tokenizer is trained on: every prose text once, some of the SQL."""
    prose = dict.fromkeys(sources["stories"] + sources["role_play"])
    return [each.text for each in (*prose, *sources["sql"][:TOKENIZER_SQL_EXAMPLES])]


def build(
    sources: dict[str, list[Document]], data_dir: str | Path, folder: Path, vocab_size: int,
    seed: int, given: Path | None = None,
) -> None:  # fmt: skip
    """Writes the tokenizer (trained, or the one given), the training and the validation arrays."""
    path = folder / TOKENIZER
    if given is None:
        tokenizer = train_tokenizer(tokenizer_documents(sources), path, vocab_size)
    else:
        shutil.copyfile(given, path)
        tokenizer = spm.SentencePieceProcessor(model_file=str(path))
    for name, documents in sources.items():
        texts = [each.text for each in documents]
        count = sum(len(ids) + 2 for ids in tokenizer.encode(texts))
        ratio = sum(map(len, texts)) / max(count, 1)
        print(f"{name}: {count} tokens, {ratio:.2f} characters a token")
    arrays = {
        "train": [document for documents in sources.values() for document in documents],
        "val_stories": plain(stories.read_stories("val", data_dir)),
        "val_sql": sql_texts("held_out", VALIDATION_SQL_EXAMPLES, VALIDATION_SQL_SEED),
    }
    for name, documents in arrays.items():
        tokens = encode_documents(documents, tokenizer, folder / f"{name}.npy", seed)
        print(f"{name}.npy: {len(tokens)} tokens")


def define_flags() -> None:
    """Defined only where this file is the program, so that importing it adds no flags."""
    flags.DEFINE_string(
        "data_dir", None, "Folder with corpora/fairytaleqa and corpora/gpteacher.", required=True
    )
    flags.DEFINE_string("output", None, "Folder for the tokenizer and the arrays.", required=True)
    flags.DEFINE_integer("sql_examples", 100_000, "Synthetic text-to-SQL examples to train on.")
    flags.DEFINE_integer("story_repeats", 1, "How often every tale is in it; 0: no prose at all.")
    flags.DEFINE_integer("vocab_size", 2048, "Pieces of the tokenizer.")
    flags.DEFINE_string(
        "answers_of", None, "Target whose own answers and tokenizer to take, a folder."
    )
    flags.DEFINE_string("tokenizer_of", None, "Folder whose tokenizer to take. Default: a new one.")
    flags.DEFINE_integer("seed", 0, "Seed of the examples and of the order of the documents.")
    flags.DEFINE_bool("overwrite", False, "Replace an output that exists.")


def main(argv: list[str]) -> None:
    """Builds the tokenizer and the arrays under the flags."""
    del argv
    args = flags.FLAGS
    check_least(args, sql_examples=1, story_repeats=0, vocab_size=1)
    given = given_tokenizer(args)
    check_data_dir(args.data_dir)
    # A tokenizer beside another one's arrays would be trained on without a word.
    with new_folder(args.output, overwrite=args.overwrite, marker=TOKENIZER) as folder:
        sources = training_sources(
            args.data_dir,
            sql_examples=args.sql_examples,
            story_repeats=args.story_repeats,
            seed=args.seed,
        )
        if args.answers_of is not None:
            sources["sql"] = own_answers(str(args.answers_of), sources["sql"], args.seed)
        build(sources, args.data_dir, folder, args.vocab_size, args.seed, given)


if __name__ == "__main__":
    define_flags()
    cli.run(main)
