"""The frontier as a picture: quality against tokens a target call and against tokens/s."""

from collections.abc import Callable, Sequence
from pathlib import Path

from experiments.bench.frontier import family
from experiments.bench.measure import Rule, Sample
from experiments.bench.scores import Score, by_rule, score
from mtad_jax.plots.base import check_matplotlib

# Marks and greys that are told apart without colours; a family keeps its own in every panel.
_STYLES = {
    "sampling": ("x", "0.0"),
    "speculative sampling": ("+", "0.0"),
    "greedy": ("*", "0.0"),
    "greedy speculation, chain": ("o", "0.0"),
    "greedy speculation, lattice": ("o", "1.0"),
    "MTAD, bonus drawn": ("v", "1.0"),
    "MTAD, bonus chosen": ("v", "0.0"),
    "MMTAD, bonus drawn": ("s", "1.0"),
    "MMTAD, bonus chosen": ("s", "0.0"),
    "MTJD": ("^", "1.0"),
    "speculative MTJD": ("^", "0.0"),
    "beam search": ("D", "1.0"),
    "speculative beam search": ("D", "0.0"),
}


def check_plot(path: str | None, overwrite: bool) -> None:
    """Check, before anything is measured, that a picture can be drawn and written.

    Raises:
      ValueError: it cannot.
    """
    if path is None:
        return
    if not path.endswith((".png", ".svg", ".pdf")):
        raise ValueError(f"--plot={path} must end with .png, .svg or .pdf")
    if not Path(path).absolute().parent.is_dir():
        raise ValueError(f"--plot={path}: no such folder")
    if Path(path).is_dir() or (Path(path).exists() and not overwrite):
        raise ValueError(f"--plot={path} exists: use another name or --overwrite")
    check_matplotlib(f"--plot={path}")


def draw(path: str, rules: Sequence[Rule], samples: Sequence[Sample]) -> None:
    """Write the picture; without judged answers it has perplexity alone."""
    from matplotlib.figure import Figure

    groups = by_rule(samples)
    scores = {rule.label: score(groups[rule.label]) for rule in rules}
    across: tuple[tuple[str, Callable[[Score], float]], ...] = (
        ("tokens a target call", lambda s: s.tokens_per_call),
        ("tokens a second", lambda s: s.tokens_per_second),
    )
    up: list[tuple[str, Callable[[Score], float]]] = [("perplexity", lambda s: s.perplexity)]
    if any(s.judged for s in scores.values()):
        up.insert(0, ("questions answered right, %", lambda s: 100 * s.correct / s.judged))
    figure = Figure(figsize=(11, 4.2 * len(up) + 1.2), layout="constrained")
    axes = figure.subplots(len(up), 2, squeeze=False, sharey="row", sharex="col")
    for row, (name, y) in zip(axes, up, strict=True):
        for panel, (_, x) in zip(row, across, strict=True):
            for kind in _STYLES:
                mine = [scores[rule.label] for rule in rules if family(rule) == kind]
                mark, grey = _STYLES[kind]
                panel.plot(
                    [x(s) for s in mine], [y(s) for s in mine], linestyle="none", marker=mark,
                    markersize=10 if mark == "*" else 6, markeredgecolor="black",
                    markerfacecolor=grey, label=kind if mine else None,
                )  # fmt: skip
            panel.grid(color="0.9")
            panel.set_axisbelow(True)
        row[0].set_ylabel(name)
    for panel, (label, _) in zip(axes[-1], across, strict=True):
        panel.set_xlabel(label)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=120)
