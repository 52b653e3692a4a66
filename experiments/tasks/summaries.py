"""Summaries of articles, in the field names of CNN/DailyMail, judged by ROUGE.

Source: Hermann et al., 2015 (arXiv:1506.03340); Nallapati et al., 2016 (arXiv:1602.06023).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from experiments.tasks.base import Problem, Task, check_file, limited, read_rows, value_of
from experiments.tasks.rouge import rouge, scorer


@dataclass(frozen=True)
class Summaries(Task):
    """Articles to summarize; the answer is compared with one summary, by F1 of ROUGE-1, -2 and -L.

    Attributes:
      path: JSON lines, an article each.
      limit: how many; None: all.
      article, summary: keys of a row.
    """

    path: str
    limit: int | None = None
    article: str = "article"
    summary: str = "highlights"

    name: ClassVar[str] = "summaries"
    metrics: ClassVar[tuple[str, ...]] = ("rouge1", "rouge2", "rougeL")
    stop: ClassVar[tuple[str, ...]] = ("\n\n",)
    max_new_tokens: ClassVar[int] = 128
    question: ClassVar[str] = "{}\n\nSummary:"

    def __post_init__(self) -> None:
        check_file(
            self.path,
            f"JSON lines with {self.article!r} and {self.summary!r}",
            "huggingface.co/datasets/abisee/cnn_dailymail (3.0.0), saved by to_json",
        )
        limited([], self.limit)
        scorer(*self.metrics)

    def prompts(self) -> list[Problem]:
        """Return the articles; a row's own `id` is kept."""
        problems = []
        for index, (source, row) in enumerate(read_rows(self.path)):
            article = value_of(row, self.article, str, source).strip()
            summary = value_of(row, self.summary, str, source).strip()
            for key, text in ((self.article, article), (self.summary, summary)):
                if not text:
                    raise ValueError(f"{source}: {key!r} is empty")
            turn = f"Summarize the following article.\n\n{article}"
            problems.append(Problem(str(row.get("id", index)), (turn,), summary))
        return limited(problems, self.limit)

    def score(self, problem: Problem, answers: Sequence[str]) -> dict[str, float]:
        """Return the F1 of the summary by each ROUGE."""
        return rouge(self.metrics, problem.reference, answers[-1])
