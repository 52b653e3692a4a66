"""Tasks over their first rows, by two rules: does it run on your files and models?"""

import ml_collections

from configs.eval.base import default_config


def get_config() -> ml_collections.ConfigDict:
    """Return the config; --config.data_dir names the folder of the tasks' files."""
    c = default_config()
    c.data_dir = "data"
    c.strategies = ("greedy", "mmtad depth=4 width=4 tau=0.5")
    c.max_new_tokens = 32
    c.tasks = (
        "tinysql questions=4",
        "tales openings=2",
        "text path={data_dir}/tinyshakespeare/input.txt limit=2",
        "spider path={data_dir}/spider/dev.json tables={data_dir}/spider/tables.json limit=2",
        "humaneval path={data_dir}/humaneval/HumanEval.jsonl.gz limit=2",
        "mbpp path={data_dir}/mbpp/mbpp.jsonl limit=2 shots=0",
        "gsm8k path={data_dir}/gsm8k/test.jsonl limit=2",
        "mt_bench path={data_dir}/mt-bench/question.jsonl limit=2",
        "spec_bench path={data_dir}/spec-bench/question.jsonl limit=2",
        "xquad path={data_dir}/xquad-en/xquad.en.json limit=2",
    )
    return c
