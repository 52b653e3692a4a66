"""What a run's rows say, as `summary.json` and as a table."""

from collections.abc import Sequence
from typing import Any

from experiments.bench.scores import shown_perplexity
from experiments.bench.summary import Facts, summarize
from experiments.evaluation.rows import TaskRows


def summary_of(files: Sequence[TaskRows], joules_source: str | None) -> list[dict[str, Any]]:
    """Return a task's entries of `summary.json`, made from the rows alone.

    Args:
      files: the complete files of its strategies.
      joules_source: what the rows' joules were read from, or why they were not.
    """
    rows = {file.asker.point.label: file.read() for file in files}
    return summary_of_rows(rows, joules_source)


def summary_of_rows(
    rows: dict[str, list[dict[str, Any]]], joules_source: str | None
) -> list[dict[str, Any]]:
    """Return a task's entries of `summary.json` from its rows by the label of their strategy."""
    facts = {}
    for label, found in rows.items():
        peaks = [row["peak_memory_bytes"] for row in found if row["peak_memory_bytes"] is not None]
        facts[label] = Facts(
            compile_seconds=sum(row["compile_seconds"] for row in found),
            peak_memory_bytes=max(peaks, default=None),
            joules_source=joules_source,
        )
    return summarize(rows, facts)


def summary_lines(summary: Sequence[dict[str, Any]]) -> list[str]:
    """Return a table of a summary, a part a task; differences are from its first strategy."""
    lines: list[str] = []
    for task in dict.fromkeys(entry["task"] for entry in summary):
        entries = [entry for entry in summary if entry["task"] == task]
        metric = next(iter(entries[0]["scores"]), "")
        width = max(len(entry["strategy"]) for entry in entries)
        if lines:
            lines.append("")
        lines.append(f"{task}, {entries[0]['problems']} problems; against {entries[0]['strategy']}")
        heads = ["difference", "perplexity", "tokens/call", "tokens/s", "ratio", "J/token"]
        wide = (18, 10, 11, 8, 5, 8)
        shown = "  ".join(f"{head:>{size}}" for head, size in zip(heads, wide, strict=True))
        lines.append(f"{'strategy':<{width}}  {metric or 'score':>22}  {shown}")
        lines += [f"{entry['strategy']:<{width}}  {_cells(entry, metric)}" for entry in entries]
    return lines


def _cells(entry: dict[str, Any], metric: str) -> str:
    """Return an entry's figures as the columns of the table."""
    against = entry["against"] or {}
    speed = against.get("tokens_per_second")
    perplexity, joules = entry["perplexity"], entry["joules_per_token"]
    return "  ".join(
        [
            f"{_interval(entry['scores'].get(metric), '.3f'):>22}",
            f"{_interval(against.get('score'), '+.2f'):>18}",
            f"{'-' if perplexity is None else shown_perplexity(perplexity, 3):>10}",
            f"{_number(entry['tokens_per_call'], '.2f'):>11}",
            f"{_number(entry['tokens_per_second'], '.0f'):>8}",
            f"{_number(speed and speed[0], '.2f'):>5}",
            f"{_number(joules, '.3f'):>8}",
        ]
    )


def _interval(value: Sequence[float] | None, form: str) -> str:
    if not value:
        return "-"
    middle, low, high = (format(x, form) for x in value)
    return f"{middle} ({low} to {high})"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
