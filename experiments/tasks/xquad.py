"""Questions about a paragraph whose answers stand in it: SQuAD's format, judged as SQuAD judges.

Source: Rajpurkar et al., 2016 (arXiv:1606.05250); XQuAD: Artetxe et al., 2020 (arXiv:1910.11856).
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from experiments.tasks.base import Problem, Task, check_file, limited, value_of
from experiments.tasks.json_files import read_json

_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class XQuAD(Task):
    """Questions, judged by the words that answer and reference share, and by their being equal.

    Attributes:
      path: of a file in SQuAD's format (version 1.1), such as xquad.en.json.
      limit: how many questions; None: all.
      shots: solved questions shown before each: the first one of each of the file's last articles,
        of which then nothing is asked.
    """

    path: str
    limit: int | None = None
    shots: int = 0

    name: ClassVar[str] = "xquad"
    metrics: ClassVar[tuple[str, ...]] = ("f1", "exact_match")
    stop: ClassVar[tuple[str, ...]] = ("\n",)
    max_new_tokens: ClassVar[int] = 32
    question: ClassVar[str] = "{}\nAnswer:"
    answer: ClassVar[str] = " {}\n\n"

    def __post_init__(self) -> None:
        check_file(self.path, "XQuAD's xquad.en.json", "github.com/google-deepmind/xquad")
        if self.shots < 0:
            raise ValueError(f"shots={self.shots} must be >= 0")
        limited([], self.limit)

    def prompts(self) -> list[Problem]:
        """Return the questions in the order of the file; the category is the article's title."""
        articles = _list(read_json(self.path, dict), "data", str(self.path))
        if self.shots >= len(articles):
            raise ValueError(
                f"shots={self.shots} must be < {len(articles)}, the articles of {self.path}: each "
                "gives one, and is not asked about"
            )
        asked = len(articles) - self.shots
        shown = [
            next(_questions(article, f"{self.path} article {number}"))
            for number, article in enumerate(articles[asked:], start=asked + 1)
        ]
        shots = tuple((problem.turns[0], problem.reference[0]) for problem in shown)
        problems = [
            problem
            for number, article in enumerate(articles[:asked], start=1)
            for problem in _questions(article, f"{self.path} article {number}", shots)
        ]
        return limited(problems, self.limit)

    def score(self, problem: Problem, answers: Sequence[str]) -> dict[str, float]:
        """Return the best of F1 and of equality over the references."""
        ways: dict[str, Callable[[str, str], float]] = {"f1": f1, "exact_match": exact_match}
        return {
            name: max(way(answers[-1], reference) for reference in problem.reference)
            for name, way in ways.items()
        }


def normalized(text: str) -> str:
    """Return a text in lower case, without punctuation, articles and runs of spaces."""
    plain = text.lower().translate(_PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", plain).split())


def exact_match(text: str, reference: str) -> float:
    """Return 1.0 where both are the same text once normalized, else 0.0."""
    return float(normalized(text) == normalized(reference))


def f1(text: str, reference: str) -> float:
    """Return the harmonic mean of precision and recall of the normalized text's words."""
    words, wanted = normalized(text).split(), normalized(reference).split()
    shared = (Counter(words) & Counter(wanted)).total()
    return 2 * shared / (len(words) + len(wanted)) if shared else 0.0


def _questions(
    article: Any, source: str, shots: tuple[tuple[str, str], ...] = ()
) -> Iterator[Problem]:
    """Yield an article's questions.

    Raises:
      ValueError: it is not of SQuAD's format; names article, paragraph and question.
    """
    for index, paragraph in enumerate(_list(article, "paragraphs", source), start=1):
        where = f"{source} paragraph {index}"
        for number, asked in enumerate(_list(paragraph, "qas", where), start=1):
            which = f"{where} question {number}"
            context = value_of(paragraph, "context", str, where)
            question = value_of(asked, "question", str, which).strip()
            answers = [
                value_of(answer, "text", str, which) for answer in _list(asked, "answers", which)
            ]
            turn = (
                f"Answer with a few words of the text.\n\nText: {context}\n\nQuestion: {question}"
            )
            identity = str(value_of(asked, "id", (str, int), which))
            title = str(article.get("title", ""))
            yield Problem(identity, (turn,), tuple(answers), title, shots)


def _list(holder: Any, key: str, source: str) -> list[Any]:
    """Return a list of objects, with something in it, from an object.

    Raises:
      ValueError: there is none; names the place.
    """
    if not isinstance(holder, dict):
        raise ValueError(f"{source}: {str(holder)[:40]!r} is not an object")
    found = value_of(holder, key, list, source)
    if not found:
        raise ValueError(f"{source}: {key!r} is empty")
    for item in found:
        if not isinstance(item, dict):
            raise ValueError(f"{source}: {key!r} holds {str(item)[:40]!r}, not objects")
    return found
