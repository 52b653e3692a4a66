"""What an evaluation asks and how it judges: the one interface of all tasks.

A task is a file with one small frozen dataclass: its fields are what a config may set, and
`prompts`, `score` and `stop` are what the evaluation needs. `experiments.tasks.registry` finds it
by name, or by `module:Class` where it lies outside.
"""

import abc
import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

Message = dict[str, str]
"""`role` ("system", "user" or "assistant") and `content`, as chat templates take them."""


@dataclass(frozen=True)
class Problem:
    """One thing asked: what is said to the model, and what its answers are judged by.

    Attributes:
      id: its name in the task's own files, unique in the task.
      turns: what the user says, turn by turn; most tasks have one.
      reference: what `score` judges by; None where nothing is judged.
      category: of the task's own groups; "" where it has none.
      shots: solved examples that are shown before: pairs of question and answer.
      system: the system message of a chat; "" for none.
      keys: what else the task's own answer files need.
    """

    id: str
    turns: tuple[str, ...]
    reference: Any = None
    category: str = ""
    shots: tuple[tuple[str, str], ...] = ()
    system: str = ""
    keys: Mapping[str, Any] = field(default_factory=dict)


class Task(abc.ABC):
    """A set of problems and how answers are judged; subclasses are frozen dataclasses.

    The constructor does no work but checks: a missing file is refused there, and says where to get
    it.

    Attributes:
      name: in configs and records.
      metrics: names of what `score` gives, the task's own score first; () where nothing is judged.
      stop: strings that end an answer to a plain prompt; a chat's answers end by themselves.
      max_new_tokens: most tokens of an answer, unless the config says otherwise.
      question, answer: how a plain prompt puts a user's turn, and an answer before the last
        question; `{}` is the text.
    """

    name: ClassVar[str]
    metrics: ClassVar[tuple[str, ...]] = ()
    stop: ClassVar[tuple[str, ...]] = ()
    max_new_tokens: ClassVar[int] = 256
    question: ClassVar[str] = "{}"
    answer: ClassVar[str] = "{}\n\n"

    @abc.abstractmethod
    def prompts(self) -> list[Problem]:
        """Return the problems, in an order that does not depend on how many are asked.

        Raises:
          ValueError: a malformed row, naming file and line.
          OSError: a file cannot be read.
        """

    def score(self, problem: Problem, answers: Sequence[str]) -> dict[str, float]:
        """Return what the answers of all turns are worth, by the names of `metrics`; 1 is best.

        `answers` are the texts as generated, cut at `stop`.
        """
        del problem, answers
        return {}

    def answer_row(
        self, problem: Problem, rows: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any] | None:
        """Return what the task's own tools read of one problem; None: they read nothing of ours.

        `rows` are the problem's records (`docs/records.md`) in the order of samples and turns.
        """
        del problem, rows
        return None

    def plain(self, messages: Sequence[Message]) -> str:
        """Return a conversation as the text that a model without a chat template continues."""
        how = {"system": "{}\n\n", "user": self.question, "assistant": self.answer}
        return "".join(how[m["role"]].replace("{}", m["content"]) for m in messages)


def conversation(problem: Problem, answers: Sequence[str]) -> list[Message]:
    """Return what is said before the answer number `len(answers)`: system, shots, turns so far."""
    said = [("system", problem.system)] if problem.system else []
    for asked, answered in problem.shots:
        said += [("user", asked), ("assistant", answered)]
    for asked, answered in zip(problem.turns, answers, strict=False):
        said += [("user", asked), ("assistant", answered)]
    said.append(("user", problem.turns[len(answers)]))
    return [{"role": role, "content": content} for role, content in said]


def check_file(path: str | Path, what: str, source: str) -> Path:
    """Return the path of a file that a task reads.

    Args:
      path: as the config has it.
      what: what it holds, e.g. "GSM8K's test.jsonl".
      source: where to get it.

    Raises:
      ValueError: no path was given.
      FileNotFoundError: no file is there; the message says where to get it.
    """
    if not path:
        raise ValueError(f"path is empty: give the path of {what}, from {source}")
    found = Path(path).expanduser()
    if not found.is_file():
        raise FileNotFoundError(f"{path}: no such file; {what} is at {source}")
    return found


def read_rows(path: str | Path, *, whole: bool = True) -> list[tuple[str, dict[str, Any]]]:
    """Read a JSON-lines file, or one in gzip's format, as rows with what errors call each.

    Blank lines are skipped.

    Args:
      path: of the file.
      whole: False for one that is still being written: a last line without its end is left out.

    Raises:
      ValueError: a line is no JSON object; names file and line. No rows. A broken gzip file.
      OSError: the file cannot be read.
    """
    data = Path(path).read_bytes()
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path}: not a whole gzip file: {error}") from error
    if not whole:
        data = data[: data.rfind(b"\n") + 1]
    rows = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        source = f"{path} line {number}"
        try:
            row = json.loads(line.decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{source}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{source}: {line[:40].decode(errors='replace')!r} is not an object")
        rows.append((source, row))
    if not rows:
        raise ValueError(f"{path}: no rows: give JSON lines")
    return rows


def value_of(row: Mapping[str, Any], key: str, kind: type | tuple[type, ...], source: str) -> Any:
    """Return what a row has under a key.

    Raises:
      ValueError: nothing, or something of another kind; names file and line.
    """
    if key not in row:
        raise ValueError(f"{source}: no {key!r} in it")
    if not isinstance(row[key], kind):
        raise ValueError(f"{source}: {key}={str(row[key])[:40]!r} is not of the expected kind")
    return row[key]


def limited(problems: list[Problem], limit: int | None) -> list[Problem]:
    """Return the first `limit` problems; None: all.

    Raises:
      ValueError: a limit below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit} must be >= 1: leave it out for all problems")
    return problems[:limit]
