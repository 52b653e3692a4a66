"""Every field of an evaluation's config, and its default."""

import ml_collections

PAPER_TASKS = (
    "spider path={data_dir}/spider/dev.json tables={data_dir}/spider/tables.json "
    "databases={data_dir}/spider/database",
    "humaneval path={data_dir}/humaneval/HumanEval.jsonl.gz",
    "mt_bench path={data_dir}/mt-bench/question.jsonl",
)
"""HumanEval runs code that the model wrote, and does so with --allow_code_execution only."""


def default_config() -> ml_collections.ConfigDict:
    """Return a config with every field at its default, for files in `configs/eval` to change.

    Fields:
      target, draft: checkpoint folders; "": the shipped pair. A draft may be early_exit:N.
      target_int8, draft_int8, dtype, mesh, shard_draft: as the flags of `experiments.generate`;
        dtype "": the checkpoint's.
      tasks: lines `NAME key=value ...`; values with spaces in quotes. `{data_dir}` in one is
        replaced by the field.
      task: one such line instead of `tasks`.
      data_dir: folder that the tasks' lines may name.
      style: "plain" continues the task's own text, "chat" goes through the model's chat template.
      strategies: lines `RULE key=value ...`, as `--rule` takes them; `temperature`, `top_k`,
        `top_p`, `min_p`, `draft_temperature` and `batch_size` may be a line's own. The first is
        what the others are compared with.
      sweep: `rule` and lists of values of settings: every combination is a strategy more.
      warp: sharpening of both models' distributions; by default the paper's.
      batch_size: texts decoded together.
      samples: texts a problem.
      max_new_tokens: most tokens of an answer; 0: the task's own.
      seed: of all draws.
      idle_seconds: how long the idle machine's power is measured, where there is a meter.
    """
    return ml_collections.ConfigDict(
        {
            "target": "",
            "draft": "",
            "target_int8": "",
            "draft_int8": "",
            "dtype": "",
            "mesh": "",
            "shard_draft": False,
            "tasks": (),
            "task": "",
            "data_dir": "",
            "style": "plain",
            "strategies": (),
            "sweep": {"rule": (), "depth": (), "width": (), "tau": (), "temperature": (),
                      "batch_size": ()},
            "warp": {"temperature": 1.0, "top_k": 10, "top_p": 0.9, "min_p": 0.0},
            "batch_size": 1,
            "samples": 1,
            "max_new_tokens": 0,
            "seed": 0,
            "idle_seconds": 2.0,
        }
    )  # fmt: skip


def paper_config() -> ml_collections.ConfigDict:
    """Return the paper's settings, comparators and tasks; the models are the caller's.

    K = W = 4, tau 0.5, temperature 1, top-k 10, top-p 0.9, 128 new tokens (arXiv 2407.09722); the
    first strategy is what its scores and perplexities are compared with, the second its speed.
    """
    c = default_config()
    c.data_dir = "data"
    c.tasks = PAPER_TASKS
    c.max_new_tokens = 128
    c.strategies = (
        "sample",
        "speculative depth=4",
        "specinfer branching=4,2,2",
        "mtad depth=4 width=4 tau=0.5",
        "mmtad depth=4 width=4 tau=0.5",
    )
    return c
