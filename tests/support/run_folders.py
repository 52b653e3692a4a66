"""Folders of runs made by hand, as `docs/records.md` describes them."""

import json
from pathlib import Path
from typing import Any

SETTINGS = {
    "command": "python -m experiments.evaluate --config=configs/eval/x.py --config.tau=0.5",
    "config": {"seed": 0},
    "seed": 0,
    "versions": {"mtad-jax": "1.0", "python": "3.11"},
    "git": {"revision": "abc123", "changed": False},
    "device": {"platform": "cpu", "kind": "cpu", "count": 1, "cores": 2, "host": "x86"},
    "models": {"target": {"path": "t", "parameters": 5}, "draft": None},
    "energy": {"source": None, "reason": "no counter: /sys/class/powercap is missing"},
}


def row(**changes: Any) -> dict[str, Any]:
    """A row of four tokens in two rounds; all of `docs/records.md`."""
    base = {
        "task": "tinysql",
        "strategy": "sample",
        "id": "q0",
        "category": "",
        "turn": 0,
        "sample": 0,
        "prompt": "ask",
        "prompt_ids": [1, 2],
        "text": "ab cd",
        "tokens": [5, 6, 7, 8],
        "pieces": ["a", "b ", "c", "d"],
        "logp_raw": [-1.0, -1.0, -1.0, -1.0],
        "logp": [-1.0, -1.0, -1.0, -1.0],
        "stats": {
            "rounds": 2,
            "accepted": 2,
            "drafted": 4,
            "accepted_at": [1, 1],
            "endings": {"rejected": 1, "depth": 1, "end": 0, "length": 0},
        },
        "blocks": [[0, 3, 2, 2], [3, 1, 0, 2]],
        "finish_reason": "stop",
        "scores": {"right": 1.0},
        "batch": 0,
        "prefill_seconds": 0.5,
        "decode_seconds": 2.0,
        "joules": None,
    }
    assert changes.keys() <= base.keys()
    return base | changes


def of_length(tokens: int, **changes: Any) -> dict[str, Any]:
    """A row of so many tokens, each of a round of its own and a nat."""
    stats = {"rounds": tokens, "accepted": 0, "drafted": 0, "accepted_at": [], "endings": {}}
    facts = {
        "tokens": [5] * tokens,
        "pieces": ["x"] * tokens,
        "text": "x" * tokens,
        "logp_raw": [-1.0] * tokens,
        "logp": [-1.0] * tokens,
        "blocks": [[i, 1, 0, 0] for i in range(tokens)],
        "stats": stats,
    }
    return row(**facts | changes)


def write_rows(file: Path, rows: list[dict[str, Any]], end: str = "") -> None:
    """Write JSON lines, with something after the last."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(r) + "\n" for r in rows) + end, encoding="utf-8")


def write_run(
    folder: Path,
    rows: dict[str, list[dict[str, Any]]],
    *,
    settings: dict[str, Any] | None = None,
    summary: list[dict[str, Any]] | None = None,
) -> Path:
    """Write a run's folder; `rows` by file, and no summary for a run that has not ended."""
    for name, found in rows.items():
        write_rows(folder / name, found)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.json").write_text(json.dumps(SETTINGS | (settings or {})))
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder
