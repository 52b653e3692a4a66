"""The shipped pair's tokens and log-probabilities, rule by rule, are those of the golden file.

Decoding is a contract: a change that moves code must not move a token. After a change that means to
(new weights, another random stream), write the file anew and say so in the commit:

    python tests/decode/test_golden.py
"""

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from draft_shapes import each

import mtad_jax
from mtad_jax import recipes

GOLDEN = Path(__file__).parent / "golden" / "shipped_pair.json"
PROMPTS = (
    "Once upon a time there was a miller who",
    "The king had three daughters, and the youngest of them was so fair that",
)
NEW = 20
CORPUS = (  # what the pair writes often
    (401, 680, 264, 638, 1287, 416, 401, 680),
    (266, 688, 347, 421, 982, 348, 300, 401, 680, 264, 600, 1988, 280),
    (303, 266, 1203, 1988, 280, 264, 681, 1096),
)
RULES = {
    "greedy": recipes.greedy(),
    "sample": recipes.sample(),
    "beam": recipes.beam(3),
    "beam-sample": recipes.beam(3, "sample"),
    "mtjd": recipes.mtjd(3, 3),
    "mtjd-sample": recipes.mtjd(3, 3, "sample"),
    "speculative_beam": recipes.speculative_beam(3, 3, 6),
    "speculative_mtjd": recipes.speculative_mtjd(3, 3, 3, 6),
    "speculative": recipes.speculative(4),
    "speculative-exit": recipes.speculative(3),
    "threshold": recipes.threshold(4, 3),
    "threshold-chain": recipes.threshold(4, draft="chain"),
    "lenient": recipes.lenient(4),
    "cascade": recipes.cascade(4),
    "cascade-token": recipes.cascade(4, "token3", 0.3),
    "fuzzy": recipes.fuzzy(4),
    "mentored": recipes.mentored(4),
    "block": recipes.block(4),
    "specinfer": recipes.specinfer((3, 2)),
    "mcsd": recipes.mcsd((3, 2)),
    "traversal": recipes.traversal((3, 2)),
    "rsd_s": recipes.rsd_s(4, 3),
    "spectr": recipes.spectr(3, 3),
    "typical": recipes.typical(3, 3),
    "typical-tree": recipes.typical(3, 3, draft="tree"),
    "bild": recipes.bild(5),
    "dsbd": recipes.dsbd(3, 3),
    "lookup": recipes.lookup(3, 2),
    "recycle": recipes.recycle(3, 3),
    "suffix": recipes.suffix(4, 8, CORPUS),
    "mtad": recipes.mtad(4, 4),
    "mtad-sample": recipes.mtad(4, 4, 0.3, "sample"),
    "mmtad": recipes.mmtad(4, 4),
    "mtad-chosen": recipes.mtad(4, 4, bonus_temperature=0.0),
    "mmtad-chosen": recipes.mmtad(4, 4, bonus_temperature=0.0),
    "mmtad-sample": recipes.mmtad(4, 3, 0.3, "sample"),
}


DRAFTS = {"speculative-exit": "early_exit:2"}  # elsewhere the shipped one


def decode(pipe: mtad_jax.Pipeline, name: str) -> list[dict[str, Any]]:
    """Each prompt's tokens, log-probabilities and counters."""
    warp = mtad_jax.Warp(temperature=1.0, top_p=0.9, top_k=10)
    rows = pipe(PROMPTS, strategy=RULES[name], warp=warp, max_new_tokens=NEW, seed=7)
    return [
        {
            "tokens": row.tokens,
            "logp": [round(x, 5) for x in row.logp],
            "logp_raw": [round(x, 5) for x in row.logp_raw],
            "rounds": row.stats.rounds,
            "accepted": row.stats.accepted,
        }
        for row in rows
    ]


@functools.cache
def pipe_with(draft: str | None) -> mtad_jax.Pipeline:
    return mtad_jax.Pipeline.shipped(draft=draft)


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("name", each(RULES, ("greedy", "mmtad"), among=("beam",)))
def test_text_is_the_golden_one(name):
    golden = json.loads(GOLDEN.read_text())[name]
    for got, want in zip(decode(pipe_with(DRAFTS.get(name)), name), golden, strict=True):
        for exact in ("tokens", "rounds", "accepted"):
            assert got[exact] == want[exact]
        for close in ("logp", "logp_raw"):
            np.testing.assert_allclose(got[close], want[close], atol=1e-4)


def test_every_recipe_is_in_the_golden_file():
    assert {name.split("-")[0] for name in json.loads(GOLDEN.read_text())} == set(recipes.RECIPES)


if __name__ == "__main__":
    texts = {name: decode(pipe_with(DRAFTS.get(name)), name) for name in RULES}
    lines = [f"{json.dumps(name)}: {json.dumps(rows)}" for name, rows in texts.items()]
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
