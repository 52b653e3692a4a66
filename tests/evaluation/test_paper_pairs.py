"""The configs of the paper's pairs, on random weights of those shapes cut to one layer."""

import gzip
import importlib
import json
import math
import shutil
import sqlite3

import config_flags
import jax
import ml_dtypes
import numpy as np
import pytest
from tiny_tokenizers import byte_level_folder, json_byte_level_folder, sentencepiece_folder

from configs.models.llama import LLAMA
from configs.models.opt import OPT
from experiments import reproduce as program
from mtad_jax.checkpoints.hf import families
from mtad_jax.checkpoints.hf.write import write_hf

# Config file -> target, draft, a tokenizer of their kind, the task that it is asked.
PAIRS = {
    "llama2": (LLAMA["llama2-13b"], LLAMA["llama-68m"], sentencepiece_folder, "spider"),
    "opt": (OPT["opt-13b"], OPT["opt-125m"], byte_level_folder, "humaneval"),
    "llama31": (LLAMA["llama3.1-8b"], LLAMA["llama3.2-1b"], json_byte_level_folder, "mt_bench"),
}
TOKENS = 3
HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": "def f(x):\n",
    "entry_point": "f",
    "canonical_solution": "    return x\n",
    "test": "def check(candidate):\n    assert candidate(1) == 1\n",
}
SCHEMA = {
    "db_id": "club",
    "table_names_original": ["member"],
    "column_names_original": [[-1, "*"], [0, "ID"]],
    "column_types": ["text", "number"],
    "primary_keys": [1],
    "foreign_keys": [],
}


def write_model(folder, config, tokenizer):
    """Write the first layer of a model of full width, with random weights, in bfloat16."""
    ids = {"bos_token_id": 1, "eos_token_id": 2}  # of the small tokenizers
    config = config | {"num_hidden_layers": 1} | ids
    noise = np.random.default_rng(0).standard_normal(999_983) * 0.02  # a prime: no rows are alike
    noise = noise.astype(ml_dtypes.bfloat16)
    shapes = families.model_of(config).param_shapes()
    write_hf(folder, jax.tree.map(lambda leaf: np.resize(noise, leaf.shape), shapes), config)
    shutil.copytree(tokenizer, folder, dirs_exist_ok=True)


def write_data(folder):
    """Write one problem of each of the paper's tasks, in the places that the configs name."""
    spider, database = folder / "spider", folder / "spider/database/club"
    database.mkdir(parents=True)
    query = "SELECT count(*) FROM member"
    row = {"db_id": "club", "question": "How many?", "query": query}
    (spider / "dev.json").write_text(json.dumps([row]))
    (spider / "tables.json").write_text(json.dumps([SCHEMA]))
    with sqlite3.connect(database / "club.sqlite") as connection:
        connection.execute("CREATE TABLE member (ID INTEGER)")
    connection.close()
    (folder / "humaneval").mkdir()
    with gzip.open(folder / "humaneval/HumanEval.jsonl.gz", "wt") as out:
        out.write(json.dumps(HUMANEVAL) + "\n")
    (folder / "mt-bench").mkdir()
    row = {"question_id": 81, "category": "writing", "turns": ["Say a.", "Say b."]}
    (folder / "mt-bench/question.jsonl").write_text(json.dumps(row) + "\n")


def config_of(name):
    return importlib.import_module(f"configs.eval.{name}").get_config()


def test_the_configs_differ_in_paths_only():
    configs = [config_of(name).to_dict() for name in PAIRS]
    for config in configs:
        assert config.pop("target") != config.pop("draft")
    assert configs[0] == configs[1] == configs[2]


@pytest.mark.heavy
@pytest.mark.parametrize("name", PAIRS)
def test_a_pair_of_these_shapes(name, tmp_path):
    """In float32, since CPUs widen every bfloat16 weight at every call; a task each, for time."""
    target, draft, tokenizer, asked = PAIRS[name]
    tokenizer(tmp_path / "tokenizer")
    write_model(tmp_path / "target", target, tmp_path / "tokenizer")
    write_model(tmp_path / "draft", draft, tmp_path / "tokenizer")
    write_data(tmp_path / "data")
    config = config_of(name)
    [task] = [line for line in config.tasks if line.startswith(asked)]
    code = config_flags.run(
        program, program.reproduce, f"--config={program.CONFIG.with_name(name)}.py",
        f"--output={tmp_path / 'run'}", f"--config.target={tmp_path / 'target'}",
        f"--config.draft={tmp_path / 'draft'}", f"--config.data_dir={tmp_path / 'data'}",
        f"--config.task={task}", f"--config.max_new_tokens={TOKENS}", "--config.dtype=float32",
        "--config.idle_seconds=0.0", "--allow_code_execution",
    )  # fmt: skip
    assert code == 0
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    expected = [(asked, rule) for rule in config.strategies]
    assert [(part["task"], part["strategy"]) for part in summary] == expected
    rows = [json.loads(line) for path in (tmp_path / "run").glob("*/*.jsonl")
            if ".answers" not in path.name for line in path.read_bytes().splitlines()]  # fmt: skip
    assert len(rows) == len(config.strategies) * (2 if asked == "mt_bench" else 1)
    for row in rows:
        assert 1 <= len(row["tokens"]) <= TOKENS
        assert all(0 <= token < target["vocab_size"] for token in row["tokens"])
        assert all(math.isfinite(x) and x <= 0 for x in row["logp_raw"])
    assert "| perplexity, MTAD" in (tmp_path / "run/reproduce.md").read_text()
