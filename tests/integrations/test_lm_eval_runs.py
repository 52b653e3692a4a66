"""Whole evaluations of local tasks, as a library call and as the command that users type."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import lm_eval_cases as cases
import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]  # theirs

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("lm_eval")
    pytest.importorskip("accelerate")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, str]:
    base = tmp_path_factory.mktemp("runs")
    paths = {
        "target": cases.folder(base / "target"),
        "draft": cases.folder(base / "draft", layers=1),
        "tasks": cases.task_folder(base / "tasks"),
        "cache": base / "cache",
    }
    return {name: str(path) for name, path in paths.items()}


def offline(made: dict[str, str]) -> dict[str, str]:
    return {"HF_HOME": made["cache"], "HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}


def test_an_evaluation_is_that_of_their_model(made, monkeypatch, tmp_path):
    import datasets
    import lm_eval
    from lm_eval.tasks import TaskManager

    import mtad_jax.integrations.lm_eval.model  # noqa: F401  registers itself

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", Path(made["cache"]))
    manager = TaskManager(include_path=made["tasks"], include_defaults=False)

    def run(model: str, arguments: dict, **how) -> tuple[dict, dict]:
        found = lm_eval.simple_evaluate(
            model=model, model_args=arguments, tasks=cases.TASKS, task_manager=manager,
            bootstrap_iters=0, **how,
        )  # fmt: skip
        assert found is not None
        answers = {
            task: [sample["filtered_resps"] for sample in found["samples"][task]]
            for task in cases.TASKS
        }
        return found, answers

    pair = {name: made[name] for name in ("target", "draft")}
    ours = {"strategy": "mtad", "depth": 3, "width": 2} | pair
    theirs = {"pretrained": made["target"], "dtype": "float32"}
    cache = {"use_cache": str(tmp_path / "answers")}
    wanted, wanted_answers = run("hf", theirs, batch_size=2, device="cpu")
    found, answers = run("mtad_jax", ours, batch_size="auto", **cache)
    assert answers["tiny_answers"] == wanted_answers["tiny_answers"]
    for task in cases.TASKS[1:]:
        for one, other in zip(answers[task], wanted_answers[task], strict=True):
            assert str(one).count("True") == str(other).count("True")
            one, other = ([float(str(x)) for x in _numbers(resp)] for resp in (one, other))
            assert one == pytest.approx(other, abs=1e-4)
    for task in cases.TASKS:
        scores, wanted_scores = (
            {k: v for k, v in run["results"][task].items() if isinstance(v, float | int)}
            for run in (found, wanted)
        )
        assert scores == pytest.approx(wanted_scores, rel=1e-4)
    assert found["config"]["strategy_settings"] == {"depth": 3, "width": 2}
    again, same = run("mtad_jax", ours, batch_size="auto", **cache)
    assert same == answers
    assert again["config"]["generated_tokens"] == 0  # all was in lm_eval's cache
    chat, chat_answers = run("mtad_jax", ours, batch_size=2, apply_chat_template=True)
    _, wanted_answers = run("hf", theirs, batch_size=2, device="cpu", apply_chat_template=True)
    assert chat_answers["tiny_answers"] == wanted_answers["tiny_answers"]
    assert "<assistant>" in str(chat["samples"]["tiny_answers"][0]["arguments"])


def _numbers(response) -> list:
    """The numbers of a response, whatever lm_eval nests them in."""
    if isinstance(response, list | tuple):
        return [x for item in response for x in _numbers(item)]
    return [] if isinstance(response, bool) or response in ("True", "False") else [response]


def command(made: dict[str, str], model_args: str, *more: str) -> subprocess.CompletedProcess:
    words = ["--model", "mtad_jax", "--model_args", model_args, "--include_path", made["tasks"]]
    return subprocess.run(
        [sys.executable, "-m", "mtad_jax", "lm_eval", *words, *more], cwd=ROOT,
        env=os.environ | offline(made), capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_the_command(made, tmp_path):
    arguments = f"target={made['target']},draft={made['draft']},strategy=mmtad,depth=4,width=4"
    tasks = ["--tasks", "tiny_answers,tiny_choice", "--batch_size", "2"]
    done = command(
        made, arguments, *tasks, "--gen_kwargs", "do_sample=true,temperature=0.8,top_p=0.9",
        "--output_path", str(tmp_path), "--log_samples",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "|tiny_answers|" in done.stdout and "|tiny_choice" in done.stdout
    [file] = tmp_path.rglob("results_*.json")
    config = json.loads(file.read_text())["config"]
    assert config["strategy_settings"] == {"depth": 4, "width": 4}
    assert config["tokens_per_call"] >= 1


def test_the_command_tells_mistakes_in_one_line(made):
    refused = command(made, f"target={made['target']},strategy=mmtd", "--tasks", "tiny_answers")
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith("error: strategy=mmtd: no rule 'mmtd'")
    assert "Traceback" not in refused.stderr
