"""The paper's figures beside a run's: verdicts by hand, and the command on a small pair."""

import config_flags
import pytest
from tiny_pair import write_pair

from experiments import reproduce as program
from experiments.bench.bootstrap import Interval
from experiments.evaluation import paper

ROW = {
    "turn": 0, "sample": 0, "tokens": [5, 6], "logp_raw": [-1.0, -1.0], "prefill_seconds": 0.1,
    "decode_seconds": 1.0, "joules": None, "scores": {"correct": 1.0},
    "stats": {"rounds": 1, "accepted": 1, "drafted": 1, "accepted_at": [1]},
}  # fmt: skip


def claim(low, high, ratio="perplexity"):
    return paper.Claim("what", "a", "b", ratio, "figure", low, high)


@pytest.mark.parametrize(
    ("low", "high", "found", "said"),
    [
        (1.42, 1.42, (1.5, 1.4, 1.6), "agrees"),
        (1.42, 1.42, (1.2, 1.1, 1.3), "agrees, but less"),
        (1.42, 1.42, (1.2, 0.9, 1.5), "not shown"),
        (1.42, 1.42, (0.8, 0.7, 0.9), "the other way"),
        (0.788, 0.788, (0.7, 0.6, 0.8), "agrees"),
        (0.788, 0.788, (0.9, 0.85, 0.95), "agrees, but less"),
        (1.06, 1.10, (1.07, 1.01, 1.2), "agrees"),
        (0.70, 0.80, (0.79, 0.7, 0.9), "agrees"),
        (0.70, 0.80, (1.3, 1.2, 1.4), "the other way"),
    ],
)
def test_verdicts(low, high, found, said):
    assert paper.verdict(claim(low, high), Interval(*found)) == said


def test_figures_of_a_table(monkeypatch):
    monkeypatch.setattr(paper, "CLAIMS", (claim(0.8, 0.8), claim(1.4, 1.4, "score"),
                                          claim(0.6, 0.6, "joules")))  # fmt: skip
    a = [ROW | {"id": str(i), "logp_raw": [-0.5, -0.5]} for i in range(4)]
    b = [ROW | {"id": str(i), "scores": {"correct": float(i % 2)}} for i in range(4)]
    lines = paper.claim_lines({"t": {"a": a, "b": b}}, {"joules": "unavailable: no counter"})
    assert "| figure | 0.61 x (0.61 to 0.61): agrees |" in lines[2]  # exp(-0.5)
    assert "| figure | 2.00 x (" in lines[3]
    assert "| unavailable: no counter |" in lines[4]
    assert "| not run |" in paper.claim_lines({"t": {"a": a}}, {})[2]
    a, b = ([row | {"joules": joules} for row in rows] for rows, joules in ((a, 1.0), (b, 2.0)))
    lines = paper.claim_lines({"t": {"a": a, "b": b}}, {})
    assert "0.50 x (0.50 to 0.50): agrees |" in lines[4]


@pytest.mark.slow
def test_the_command(tmp_path, capsys):
    target, draft = write_pair(tmp_path)
    rules = (paper.SAMPLE, paper.SPECULATIVE, paper.MTAD)
    code = config_flags.run(
        program, program.reproduce, f"--output={tmp_path / 'run'}", f"--config.target={target}",
        f"--config.draft={draft}", "--config.tasks=('tales openings=3',)",
        "--config.max_new_tokens=8", f"--config.strategies={rules}",
    )  # fmt: skip
    assert code == 0
    report = (tmp_path / "run/reproduce.md").read_text()
    assert report in capsys.readouterr().out + "\n"
    [line] = [x for x in report.splitlines() if x.startswith("| perplexity, MTAD")]
    assert line.split("|")[3].startswith(" 0.") or line.split("|")[3].startswith(" 1.")
    assert report.count("not run") == 6  # MMTAD and SpecInfer are not among these
