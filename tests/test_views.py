"""What notebooks show: short on one line, escaped and marked as HTML."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest
from html_pages import Page

import mtad_jax
from mtad_jax import Comparison, Completion, Pipeline, recipes
from mtad_jax.completions import RowStats
from mtad_jax.decode.result import Block
from mtad_jax.testing import table_lm
from mtad_jax.views.marking import LEGEND, marked_html
from mtad_jax.views.tables import table_html, table_text

EVIL = "<script>alert('x')</script> & \"quotes\""
HALF = "\ud800"  # half a surrogate pair
PIECES, BLOCKS = ["a", "b ", "c", "d"], [[0, 3, 2, 2], [3, 1, 0, 2]]


def completion(**changes):
    """Four tokens in two rounds: two accepted and one of the target's own, then one after two that
    were rejected."""
    stats = RowStats(2, 2, 4, 2.0, [0.5, 0.5], {"rejected": 1, "depth": 1})
    blocks = [Block(0, 3, 2, 2, 0.5, "depth"), Block(3, 1, 0, 2, 0.0, "length")]
    row = Completion(
        prompt_ids=[1], tokens=[5, 6, 7, 8], text="ab cd", logp=[-1.0] * 4, logp_raw=[-2.0] * 4,
        stats=stats, finish_reason="length", blocks=blocks, pieces=PIECES,
    )  # fmt: skip
    return dataclasses.replace(row, **changes)


def test_marks_of_tokens():
    whole = "<u>a</u><u>b </u><b>c</b><sup>&minus;2</sup><b>d</b>"
    assert marked_html("ab cd", PIECES, BLOCKS) == whole
    old = [[0, 3, 2], [3, 1, 0]]  # without what was drafted
    assert marked_html("ab cd", PIECES, old) == "<u>a</u><u>b </u><b>c</b><b>d</b>"
    assert marked_html("ab cd<tail", PIECES, [[0, 4, 4, 4]]).endswith("<u>d</u>&lt;tail")
    special = marked_html("ab c", ["a", "b ", "c", ""], BLOCKS)
    assert special == "<u>a</u><u>b </u><b>c</b><sup>&minus;2</sup>"
    for unknown in (None, ["ab cd"], ["x", "", "", ""]):
        assert marked_html("ab cd", unknown, BLOCKS) is None


def test_a_completion_is_short_and_marked():
    row = completion()
    assert repr(row) == (
        "Completion('ab cd', 4 tokens in 2 target calls, 2 of 4 drafted tokens accepted, "
        "finish_reason='length')"
    )
    assert len(repr(completion(text="x" * 999))) < 200
    page = row._repr_html_()
    assert Page(page).texts[0] == "abcd".replace("b", "b ")
    assert LEGEND in page and LEGEND not in row.html(legend=False)
    alone = completion(stats=dataclasses.replace(row.stats, accepted=0, drafted=0))
    assert "drafted" not in repr(alone)


def test_what_models_write_is_escaped():
    pieces = [EVIL, HALF, " SELECT", "\n"]
    page = completion(text="".join(pieces), pieces=pieces).html(EVIL)
    read = Page(page)
    assert "script" not in read.tags and read.texts[0] == EVIL + "? SELECT\n"
    assert EVIL in "".join(read.words)
    json.dumps(page).encode() and page.encode()
    unmarked = Page(completion(text=EVIL, pieces=[])._repr_html_())
    assert "script" not in unmarked.tags and unmarked.texts[0] == EVIL
    table = Page(table_html(["", EVIL], [[EVIL, HALF]]))
    assert "script" not in table.tags and table.words.count(EVIL) == 2


def test_without_a_tokenizer_ids_take_the_place_of_tokens():
    row = completion(text="", pieces=[])
    assert "<u>5 </u><u>6 </u><b>7 </b><sup>&minus;2</sup><b>8 </b>" in row._repr_html_()
    assert repr(row).startswith("Completion('ids [5, 6, 7, 8]', 4 tokens")
    empty = completion(text="", pieces=[], tokens=[], blocks=[])
    assert repr(empty).startswith("Completion('', 0 tokens") and Page(empty.html()).texts[0] == ""


def test_marks_are_told_without_colours():
    """Underlined, boxed and raised: on paper and by night as well."""
    page = completion()._repr_html_()
    style = page[page.index("<style>") : page.index("</style>")]
    assert re.search(r"\.tokens b \{[^}]*border: 1px solid", style)
    assert "text-decoration-thickness" in style and "background: #fff" not in style
    assert not re.search(r"[^-]color: (#000|black|#fff|white)", style)


def test_a_comparison():
    rows = {"sample": completion(), EVIL: completion(tokens=[], logp_raw=[], pieces=[], blocks=[])}
    both = Comparison(rows)
    lines = str(both).splitlines()
    assert lines[0].split() == "rule tokens target calls tokens a call accepted perplexity".split()
    assert lines[1].split() == ["sample", "4", "2", "2.00", "2", "of", "4", "7.389"]
    assert lines[2].endswith("-") and repr(both) == f"Comparison(sample, {EVIL})"
    page = both._repr_html_()
    assert "script" not in Page(page).tags and page.count(LEGEND) == 1
    with pytest.raises(ValueError, match="rows is empty"):
        Comparison({})
    with pytest.raises(TypeError, match=r"rows\['a'\] is a list, not a Completion.*\[0\]"):
        Comparison({"a": [completion()]})


def test_tables_have_the_same_cells():
    text = table_text(["", "x"], [["long name", "1"], ["b", "22"]])
    assert text.splitlines() == ["            x", "long name   1", "b          22"]
    assert Page(table_html(["", "x"], [["b", "22"]])).words == ["", "x", "b", "22"][1:]


def test_models_and_pipelines_are_one_line_and_a_table():
    pipe = Pipeline.shipped()
    line = repr(pipe)
    assert len(line) < 500 and "\n" not in line and "array" not in line.lower()
    assert re.search(r"BoundLM\(model=Llama, parameters=[45]\.\d+ M, dtype=float32, vocab", line)
    words = Page(pipe._repr_html_()).words
    assert words.count("Llama") == 2 and "draft" in words and "2048" in words
    alone = Pipeline(pipe.target)
    assert "draft=None" in repr(alone) and "draft" not in Page(alone._repr_html_()).words
    mesh = mtad_jax.make_mesh("data:2,model:4")
    assert "mesh=data:2,model:4" in repr(Pipeline.shipped(mesh=mesh).target)
    shapes = jax.eval_shape(lambda x: x, pipe.target.lm)
    assert repr(shapes) == repr(pipe.target.lm)


def test_results_are_one_line_and_a_table():
    lm = table_lm(np.random.default_rng(0).normal(size=(7, 5)))
    call = {"strategy": recipes.sample(), "max_new_tokens": 4}
    result = mtad_jax.generate(lm, [[1], [2]], [1, 1], **call)
    assert repr(result) == "DecodeResult(2 rows, 8 tokens, 2 done)"
    assert Page(result._repr_html_()).words[-6:] == ["1", "4", "4", "0", "0", "1.00"]
    assert repr(jax.eval_shape(lambda x: x, result)) == "DecodeResult(2x4 tokens)"
    seen = []
    jax.jit(lambda x: seen.append(repr(x)) or x.length)(result)
    assert seen == ["DecodeResult(2x4 tokens)"]
