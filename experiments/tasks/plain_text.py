"""Texts to continue: tales, and any plain text file. Nothing is judged."""

import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from experiments.tasks import stories
from experiments.tasks.base import Problem, Task, check_file, limited
from experiments.tasks.shipped import OPENINGS

_BLANK_LINES = re.compile(r"\n[^\S\n]*(?:\n[^\S\n]*)+")


def _problems(texts: list[str]) -> list[Problem]:
    return [Problem(id=str(index), turns=(text,)) for index, text in enumerate(texts)]


@dataclass(frozen=True)
class Tales(Task):
    """Openings of fairytales: the ones of the benchmark, or passages of FairytaleQA's test split.

    Attributes:
      openings: how many; without a data folder at most the built-in ones.
      seed: of the choice of passages; the built-in openings have one order.
      data_dir: folder with `corpora/fairytaleqa/test.txt`; "" for the built-in openings.
    """

    openings: int = len(OPENINGS)
    seed: int = 0
    data_dir: str = ""

    name: ClassVar[str] = "tales"

    def __post_init__(self) -> None:
        if self.openings < 1:
            raise ValueError(f"openings={self.openings} must be >= 1")
        if self.data_dir:
            check_file(
                Path(self.data_dir) / stories.FOLDER / "test.txt",
                "FairytaleQA's test split, stories divided by blank lines,",
                "github.com/uci-soe/FairytaleQAData",
            )
        elif self.openings > len(OPENINGS):
            raise ValueError(
                f"openings={self.openings} must be <= {len(OPENINGS)}, the built-in ones, since "
                "repeats would pass for more evidence than they are: give data_dir for others"
            )

    def prompts(self) -> list[Problem]:
        """Return the openings."""
        if not self.data_dir:
            return _problems(list(OPENINGS[: self.openings]))
        return _problems(stories.prompts("test", self.openings, self.seed, self.data_dir))


@dataclass(frozen=True)
class PlainText(Task):
    """The first words of the paragraphs of a text file, in a random order.

    Paragraphs are divided by blank lines. Those with no words left to continue with are left out.

    Attributes:
      path: of the file, in UTF-8.
      limit: how many paragraphs; None: all.
      words: of a prompt.
      seed: of the order.
    """

    path: str
    limit: int | None = None
    words: int = 60
    seed: int = 0

    name: ClassVar[str] = "text"

    def __post_init__(self) -> None:
        check_file(
            self.path, "a plain text", "your own files; blank lines divide it into paragraphs"
        )
        if self.words < 1:
            raise ValueError(f"words={self.words} must be >= 1")
        limited([], self.limit)

    def prompts(self) -> list[Problem]:
        """Return the prompts, as the file spells them."""
        try:
            text = Path(self.path).expanduser().read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{self.path}: not UTF-8: {error.reason} at byte {error.start}"
            ) from error
        start = re.compile(rf"\s*((?:\S+\s+){{{self.words - 1}}}\S+)\s+\S")
        found = [match[1] for part in _BLANK_LINES.split(text) if (match := start.match(part))]
        if not found:
            raise ValueError(
                f"{self.path}: no paragraph of more than {self.words} words: lower words"
            )
        random.Random(f"text/{self.seed}").shuffle(found)
        return limited(_problems(found), self.limit)
