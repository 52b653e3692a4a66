"""The notebooks of `experiments/colab`: clean as committed, and each runs to its end on a CPU."""

import ast
import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import notebooks
import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "experiments" / "colab"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
REPOSITORY = "OWNER/mtad-jax"  # until it is published: experiments/colab/README.md


def test_there_are_notebooks():
    assert [path.stem for path in NOTEBOOKS] == [
        "another_library", "how_mtad_works", "quick_start", "your_weights_on_tpu",
    ]  # fmt: skip


@each
def test_no_output_is_committed(path):
    book = json.loads(path.read_text(encoding="utf-8"))
    assert (book["nbformat"], book["metadata"]["kernelspec"]["name"]) == (4, "python3")
    for cell in book["cells"]:
        assert cell["cell_type"] in ("markdown", "code")
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            assert set(cell["metadata"]) <= {"cellView"}
    assert len({cell["id"] for cell in book["cells"]}) == len(book["cells"])


@each
def test_the_first_cell_has_the_badge_of_this_notebook(path):
    first = "".join(notebooks.cells(path)[0]["source"])
    page = f"https://colab.research.google.com/github/{REPOSITORY}/blob/main"
    assert f"]({page}/{path.relative_to(ROOT).as_posix()})" in first.split("\n")[0]
    assert first.count("\n# ") == 1


@each
def test_all_install_alike_and_have_one_variable(path):
    install, *rest = notebooks.code_of(path)
    assert install == notebooks.code_of(NOTEBOOKS[0])[0]
    assert f'REPOSITORY = "https://github.com/{REPOSITORY}"' in install
    assert install.count("os.environ") == 1 and 'os.environ.get("MTAD_NOTEBOOK_SMALL"' in install
    assert "SMALL" in "".join(rest) and "environ" not in "".join(rest)


def installed(monkeypatch, folder, *, code=0, stderr=""):
    """Run the install cell where the package is not importable; return the commands of pip."""
    commands = []

    def run(command, **_):
        pins = Path(command[command.index("--constraint") + 1]).read_text()
        commands.append([*command[1:-3], pins, command[-1]])
        return subprocess.CompletedProcess(command, code, "", stderr)

    monkeypatch.chdir(folder)
    find = importlib.util.find_spec
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "run", run)
        patch.setattr(
            "importlib.util.find_spec", lambda name: None if name == "mtad_jax" else find(name)
        )
        exec(compile(ast.parse(notebooks.code_of(NOTEBOOKS[0])[0]), "install", "exec"), {})
    return commands


def test_installing_holds_the_jax_that_is_there(monkeypatch, tmp_path):
    import jax
    import jaxlib

    pins = f"jax=={jax.__version__}\njaxlib=={jaxlib.__version__}\n"
    pip = ["-m", "pip", "install", "--quiet"]
    [command] = installed(monkeypatch, tmp_path)
    assert command == [*pip, pins, f"mtad-jax[plots] @ git+https://github.com/{REPOSITORY}"]
    [command] = installed(monkeypatch, FOLDER)
    assert command == [*pip, pins, f"{ROOT}[plots]"]


def test_without_network_the_install_cell_says_so_on_one_line(monkeypatch, tmp_path):
    pip = (
        "  Running command git clone\n  fatal: unable to access 'https://github.com/x/': Could "
        "not resolve host: github.com\nerror: subprocess-exited-with-error\n"
    )
    with pytest.raises(SystemExit, match="was not installed: fatal: unable to access") as caught:
        installed(monkeypatch, tmp_path, code=1, stderr=pip)
    assert "\n" not in str(caught.value) and "checkout" in str(caught.value)
    with pytest.raises(SystemExit, match="was not installed: pip failed"):
        installed(monkeypatch, tmp_path, code=1)


def test_where_the_package_is_there_nothing_is_installed(monkeypatch):
    monkeypatch.setattr(subprocess, "run", None)
    exec(notebooks.code_of(NOTEBOOKS[0])[0], {})


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The notebooks' small setting, in an empty folder."""
    monkeypatch.setenv("MTAD_NOTEBOOK_SMALL", "1")
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_quick_start(small, capsys):
    names, shown = notebooks.run(FOLDER / "quick_start.ipynb")
    printed, rows = capsys.readouterr().out, names["rows"]
    assert list(rows) == ["sample", "speculative", "mtad", "mmtad"]
    assert all(len(row.tokens) == 16 or row.finish_reason == "end" for row in rows.values())
    assert rows["mmtad"].stats.accepted > 0 and rows["sample"].stats.drafted == 0
    assert "cpu" in printed
    assert printed.replace("[", "").replace("]", "").endswith(rows["mmtad"].text)
    pipe, table, picture = shown
    assert "Llama" in pipe._repr_html_() and str(table).count("\n") == len(rows)
    assert [text.get_text() for text in picture.legends[0].get_texts()] == [
        name for name, row in rows.items() if row.stats.accepted
    ]


@pytest.mark.heavy
def test_how_mtad_works(small, capsys):
    names, shown = notebooks.run(FOLDER / "how_mtad_works.ipynb")
    opened, first, second, row, cut, chain, lines, front = shown
    assert opened.bound == pytest.approx(math.log(0.5)) and opened.accepted > 0
    assert opened.depth == 3 and {node.passes for node in opened.nodes} == {True, False}
    assert len(first.axes[0].texts) == len(opened.nodes) + 2  # what comes before, and the bonus
    assert first.axes[0].get_title(loc="left") == chain.axes[0].get_title(loc="left")
    assert second.get_label().startswith("Round 1: ") and first.get_label() == opened.summary
    number = names["number"]
    assert cut.get_label().startswith(f"Round {number}: ")
    assert f"ended by: {row.blocks[number].ending}" in cut.get_label()
    assert len(chain.axes[0].texts) == 3 + 2
    assert (row.stats.rounds, len(row.tokens)) == (len(row.blocks), 24)
    assert [line.get_label() for line in lines.axes[0].lines] == ["speculative", "mtad", "mmtad"]
    assert len(front.axes[0].lines) == len(names["points"]) + 1
    assert "HOLDS for every block" in capsys.readouterr().out


@pytest.mark.heavy
def test_another_library(small, capsys):
    names, [target, result] = notebooks.run(FOLDER / "another_library.ipynb")
    assert "AdaptedLM" in repr(target) and list(names["results"]) == ["mmtad"]
    assert result.length.tolist() == [12, 12] and result.stats().accepted.sum() > 0
    assert "HOLDS for every block" in capsys.readouterr().out


RUN = """
import sys
import notebooks
names, shown = notebooks.run(notebooks.Path(sys.argv[1]))
print("END", len(names["devices"]), names["mesh"].shape["model"], names["found"].name)
"""


@pytest.mark.heavy
def test_your_weights_on_two_devices(tmp_path):
    """In a process of its own: it lays the models out over all devices there are."""
    devices = "--xla_force_host_platform_device_count=2"
    environment = os.environ | {
        "MTAD_NOTEBOOK_SMALL": "1", "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {devices}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")]),
    }  # fmt: skip
    command = [sys.executable, "-c", RUN, str(FOLDER / "your_weights_on_tpu.ipynb")]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1].split()
    assert last[:3] == ["END", "2", "2"] and last[3] in ("sample", "mmtad")
    assert "bfloat16 (from bfloat16)" in done.stdout and "fits: " in done.stdout
    assert "choice: " in done.stdout and (tmp_path / "converted" / "shipped--draft").is_dir()
