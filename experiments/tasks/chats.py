"""Conversations: MT-Bench and Spec-Bench, whose tools read our answers, and ChatAlpaca."""

import itertools
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, ClassVar

from experiments.tasks.base import Problem, Task, check_file, limited, read_rows, value_of
from experiments.tasks.json_files import read_json
from experiments.tasks.rouge import rouge, scorer

_ROLES = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}


class _Chat(Task):
    """What all conversations share: how a model without a chat template is asked."""

    stop: ClassVar[tuple[str, ...]] = ("\nUser:",)
    max_new_tokens: ClassVar[int] = 1024  # of FastChat and Spec-Bench
    question: ClassVar[str] = "User: {}\nAssistant:"
    answer: ClassVar[str] = " {}\n"


@dataclass(frozen=True)
class MTBench(_Chat):
    """MT-Bench's questions of two turns, for its own judges to read the answers.

    Source: Zheng et al., 2023 (arXiv:2306.05685).

    Attributes:
      path: of question.jsonl.
      limit: how many questions; None: all.
    """

    path: str
    limit: int | None = None

    name: ClassVar[str] = "mt_bench"

    def __post_init__(self) -> None:
        check_file(
            self.path,
            "MT-Bench's question.jsonl",
            "github.com/lm-sys/FastChat, fastchat/llm_judge/data/mt_bench",
        )
        limited([], self.limit)

    def prompts(self) -> list[Problem]:
        """Return the questions; nothing is judged here."""
        return limited(_questions(self.path), self.limit)

    def answer_row(self, problem: Problem, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return a line of FastChat's `model_answer/MODEL.jsonl`; the rule is its model."""
        choices = [
            {"index": index, "turns": [row["text"].strip() for row in turns]}
            for index, turns in _samples(rows)
        ]
        return _answer(problem, rows, choices)


@dataclass(frozen=True)
class SpecBench(_Chat):
    """Spec-Bench's questions of six kinds of work, for its own `evaluation/speed.py`.

    Source: Xia et al., 2024 (arXiv:2401.07851).

    Attributes:
      path: of question.jsonl.
      limit: how many questions; None: all.
    """

    path: str
    limit: int | None = None

    name: ClassVar[str] = "spec_bench"

    def __post_init__(self) -> None:
        check_file(
            self.path,
            "Spec-Bench's question.jsonl",
            "github.com/hemingkx/Spec-Bench, data/spec_bench",
        )
        limited([], self.limit)

    def prompts(self) -> list[Problem]:
        """Return the questions; nothing is judged here."""
        return limited(_questions(self.path), self.limit)

    def answer_row(self, problem: Problem, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return a line of Spec-Bench's `model_answer/MODEL.jsonl`; the rule is its model.

        `wall_time` is the row's share of its batch, prompt included, in seconds; `accept_lengths`
        has the tokens of every target call, the target's own included, as theirs has.
        """
        choices = [
            {
                "index": index,
                "turns": [row["text"].strip() for row in turns],
                "decoding_steps": [row["stats"]["rounds"] for row in turns],
                "new_tokens": [len(row["tokens"]) for row in turns],
                "wall_time": [row["prefill_seconds"] + row["decode_seconds"] for row in turns],
                "accept_lengths": [tokens for row in turns for _, tokens, *_ in row["blocks"]],
            }
            for index, turns in _samples(rows)
        ]
        return {**_answer(problem, rows, choices), "category": problem.category}


@dataclass(frozen=True)
class ChatAlpaca(_Chat):
    """Conversations asked one turn after another, each answer judged by the one that is there.

    The turns that follow were written for the reference's answers, not for the model's own, which
    it sees: an answer of a later turn may be good and share little with its reference.

    Source: github.com/icip-cas/ChatAlpaca.

    Attributes:
      path: a JSON list, or JSON lines, of conversations: lists of `role` and `content`, or of
        `from` and `value`, alone or under `messages` or `conversations`.
      limit: how many conversations; None: all.
    """

    path: str
    limit: int | None = None

    name: ClassVar[str] = "chat_alpaca"
    metrics: ClassVar[tuple[str, ...]] = ("rougeL",)
    max_new_tokens: ClassVar[int] = 256

    def __post_init__(self) -> None:
        check_file(self.path, "ChatAlpaca's chatalpaca-20k.json", "github.com/icip-cas/ChatAlpaca")
        limited([], self.limit)
        scorer(*self.metrics)

    def prompts(self) -> list[Problem]:
        """Return the conversations; the reference is the assistant's text of each turn."""
        problems = []
        for index, (source, entry) in enumerate(_conversations(self.path)):
            said = _turns(entry, source)
            identity = entry.get("id", index) if isinstance(entry, dict) else index
            problems.append(Problem(str(identity), said[::2], said[1::2]))
        return limited(problems, self.limit)

    def score(self, problem: Problem, answers: Sequence[str]) -> dict[str, float]:
        """Return the mean over turns of ROUGE-L's F1."""
        pairs = zip(problem.reference, answers, strict=True)
        found = [rouge(self.metrics, reference, text)["rougeL"] for reference, text in pairs]
        return {"rougeL": sum(found) / len(found)}


def _questions(path: str) -> list[Problem]:
    """Return the problems of a question file in FastChat's format.

    Raises:
      ValueError: a malformed row; names file and line.
    """
    problems = []
    for source, row in read_rows(path):
        number = value_of(row, "question_id", (int, str), source)
        turns = value_of(row, "turns", list, source)
        if not turns or not all(isinstance(turn, str) and turn.strip() for turn in turns):
            raise ValueError(f"{source}: turns={str(turns)[:40]} must be a list of texts")
        category = value_of(row, "category", str, source)
        problems.append(
            Problem(str(number), tuple(turns), category=category, keys={"question_id": number})
        )
    return problems


def _samples(
    rows: Sequence[Mapping[str, Any]],
) -> list[tuple[int, list[Mapping[str, Any]]]]:
    """Return a problem's rows by sample, each in the order of its turns."""
    ordered = sorted(rows, key=itemgetter("sample", "turn"))
    return [(key, list(group)) for key, group in itertools.groupby(ordered, itemgetter("sample"))]


def _answer(
    problem: Problem, rows: Sequence[Mapping[str, Any]], choices: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return what both benchmarks' answer files have; the same answer has the same id."""
    model, number = rows[0]["strategy"], problem.keys["question_id"]
    return {
        "question_id": number,
        "answer_id": uuid.uuid5(uuid.NAMESPACE_OID, f"{model}/{number}").hex,
        "model_id": model,
        "choices": choices,
        "tstamp": time.time(),
    }


def _conversations(path: str) -> list[tuple[str, Any]]:
    """Return the entries of a JSON list or of JSON lines, with what errors call each."""
    with Path(path).expanduser().open("rb") as file:
        if not file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
            return list(read_rows(Path(path).expanduser()))
    entries = enumerate(read_json(path, list), start=1)
    return [(f"{path} entry {number}", entry) for number, entry in entries]


def _turns(entry: Any, source: str) -> tuple[str, ...]:
    """Return what user and assistant say by turns, the user first, a last question left out.

    Raises:
      ValueError: another order, an unknown role, no text, nothing answered; names the place.
    """
    if isinstance(entry, dict):
        entry = entry.get("messages", entry.get("conversations"))
    if not isinstance(entry, list):
        raise ValueError(f"{source}: no list of turns in it")
    said = []
    for number, turn in enumerate(entry, start=1):
        if not isinstance(turn, dict):
            raise ValueError(f"{source} turn {number}: {str(turn)[:40]!r} is not an object")
        role = _ROLES.get(str(turn.get("role", turn.get("from"))))
        text = turn.get("content", turn.get("value"))
        if role is None or not isinstance(text, str):
            raise ValueError(f"{source} turn {number}: no known role, or no text: {str(turn)[:60]}")
        if role != ("user", "assistant")[len(said) % 2]:
            raise ValueError(f"{source} turn {number}: {role} twice, or the assistant first")
        said.append(text)
    if len(said) < 2:
        raise ValueError(f"{source}: no answered turn in it")
    return tuple(said[: len(said) // 2 * 2])
