"""Flags: every rule and every control has its own, and contradictions are refused."""

import inspect
import json
import os

import outside_rules
import pytest
from absl import flags
from draft_shapes import each
from generate_flags import read, resolved, run

from experiments.flags import rules
from mtad_jax import recipes
from mtad_jax.decode.warp import Warp

FAST = ("sample", "speculative", "mmtad")


@pytest.mark.slow
@pytest.mark.parametrize("name", each(recipes.RECIPES, FAST, among=()))
def test_every_rule_continues_a_prompt_with_the_shipped_pair(name, capsys):
    assert run(f"--strategy={name}", "--prompt=Once upon a time", "--max_new_tokens=8") == 0
    out, err = capsys.readouterr()
    assert out.strip() and " tokens in " in err


def test_every_setting_of_every_rule_has_a_flag():
    found = rules.rule_flags()
    for name, recipe in recipes.RECIPES.items():
        taken = [flag for flag, takers in found.items() if name in takers]
        assert len(taken) == len(inspect.signature(recipe).parameters), name
    for flag, takers in found.items():
        assert len({setting.type for setting in takers.values()}) == 1, flag
        assert all(setting.meaning for setting in takers.values()), flag


def test_settings_are_spelt_out():
    plain = resolved()
    assert plain["strategy"] == "mmtad" and plain["draft_temperature"] == plain["temperature"] == 1
    assert plain == resolved("--temperature=1", "--top_k=10", "--draft_top_p=0.9", "--depth=4")
    assert {k: v for k, v in resolved("--draft_top_k=8").items() if v != plain[k]} == {
        "draft_top_k": 8
    }
    greedy = resolved("--strategy=greedy")
    assert greedy["temperature"] == 0 and not {"tau", "depth", "draft", "draft_top_k"} & set(greedy)
    asked = resolved("--strategy=outside_rules:slack", "--depth=7")
    assert (asked["strategy"], asked["depth"]) == ("outside_rules:slack", 7)


def test_flags_are_the_recipes_parameters():
    assert read().strategy == recipes.mmtad()
    assert read("--strategy=specinfer", "--branching=3,2").strategy == recipes.specinfer((3, 2))
    got = read("--strategy=threshold", "--draft_kind=chain", "--tau=0.3", "--depth=2").strategy
    assert got == recipes.threshold(2, tau=0.3, draft="chain")
    got = read("--strategy=bild", "--fallback=0.5", "--rollback=2").strategy
    assert got == recipes.bild(fallback=0.5, rollback=2.0)
    got = read("--strategy=beam", "--draw=sample", "--samples=2")
    assert got.strategy == recipes.beam(draw="sample") and got.samples == 2


def test_a_rule_of_another_package_has_the_flags_of_its_signature():
    got = read("--depth=2", "--strategy=outside_rules:slack", "--slack=0.1").strategy
    assert got == outside_rules.slack(2, 0.1)
    got = read("--strategy", "outside_rules:slack", "--draft_kind=beam").strategy
    assert got == outside_rules.slack(draft="beam")
    got = read("--strategy=outside_rules:levels", "--sizes=2,1", "--deep").strategy
    assert got == outside_rules.slack(4)
    assert read("--strategy=outside_rules:slack", "--strategy=mtad").strategy == recipes.mtad()


@pytest.mark.slow
def test_a_rule_of_another_package_decodes_and_is_named_in_the_rows(tmp_path):
    out = tmp_path / "out.jsonl"
    flags = ("--prompt=Once upon a time", "--max_new_tokens=8", f"--output={out}")
    assert run("--strategy=outside_rules:slack", "--slack=0.25", *flags) == 0
    (row,) = map(json.loads, out.read_text().splitlines())
    rule = {"strategy": "outside_rules:slack", "depth": 3, "slack": 0.25, "draft": "chain"}
    assert row["rule"] == rule and row["tokens"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--strategy=mmtad_"], "flag --strategy=mmtad_: no rule 'mmtad_': there are greedy, "),
        (["--strategy=nowhere:f", "--x=1"], "=nowhere:f: importing 'nowhere' failed: ModuleNot"),
        (["--strategy=outside_rules:VALUE"], "outside_rules has a int there"),
        (["--strategy=outside_rules:untyped"], "its parameter model must be annotated as int"),
        (["--strategy=outside_rules:seeded"], "its setting seed has the name of another flag"),
        (["--strategy=outside_rules:number"], "outside_rules:number returns a int: a recipe"),
        (
            ["--strategy=outside_rules:levels"],
            "--sizes is missing: --strategy=outside",
        ),
        (["--strategy=outside_rules:levels", "--sizes=2,x"], "--sizes=2,x must be whole numbers"),
        (["--strategy=outside_rules:slack", "--slack=-1"], "slack=-1.0 must be > 0"),
        (["--strategy=outside_rules:slack", "--width=2"], "--width=2 means nothing to"),
    ],
)
def test_wrong_rules_of_other_packages(args, message):
    with pytest.raises((ValueError, flags.Error), match=message) as error:
        run("--prompt_ids=1", *args)
    assert "\n" not in str(error.value)


def test_flags_of_the_controls():
    got = read(
        "--temperature=0.5", "--min_p=0.1", "--draft_top_k=20", "--draft_temperature=1",
        "--banned_ids=5,17", "--min_new_tokens=3", "--repetition_penalty=1.2",
    )  # fmt: skip
    assert got.warp == Warp(0.5, 0.9, 10, min_p=0.1)
    assert got.draft_warp == Warp(1.0, 0.9, 20, min_p=0.1)
    assert (got.banned_ids, got.min_new_tokens, got.repetition_penalty) == ((5, 17), 3, 1.2)
    assert read().draft_warp is None and read().banned_ids is None


ONE = "--prompt_ids=1,5"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "no prompt"),
        ([ONE, "--prompt=x"], "--prompt contradicts --prompt_ids"),
        (["--prompt_ids="], "--prompt_ids is empty"),
        (["--prompt_ids=1,x"], "holds 'x'"),
        ([ONE, "--strategy=greedy", "--temperature=0.5"], "contradicts --strategy=greedy"),
        ([ONE, "--strategy=greedy", "--top_k=5"], "contradicts --strategy=greedy"),
        ([ONE, "--strategy=speculative", "--tau=0.5"], "--tau=0.5 means nothing"),
        ([ONE, "--strategy=speculative", "--width=2"], "--width=2 means nothing"),
        ([ONE, "--strategy=speculative", "--draw=sample"], "--draw=sample means nothing"),
        ([ONE, "--strategy=sample", "--depth=2"], "--depth=2 means nothing"),
        ([ONE, "--strategy=sample", "--draft=x", "--target=x"], "--draft=x means nothing"),
        ([ONE, "--draft=x"], "--draft=x needs --target"),
        ([ONE, "--draft=early_exit:x"], "draft=early_exit:x: write a number of layers"),
        ([ONE, "--draft=early_exit:6"], "early_exit=6: the model has 6 layers"),
        ([ONE, "--draft=early_exit:2", "--draft_int8=kv"], "draft_int8='kv' means nothing to"),
        ([ONE, "--strategy=suffix", "--longest=0"], r"longest=0 must be in \[1, 64\]"),
        ([ONE, "--strategy=recycle", "--width=2000"], "depth=4 with width=2000 has .* lower one"),
        ([ONE, "--target=x"], "--draft is missing"),
        ([ONE, "--target=nowhere", "--strategy=greedy"], "nowhere: no such folder"),
        ([ONE, "--tau=0"], "tau=0.0 must be > 0"),
        ([ONE, "--tau=nan"], "tau=nan must be > 0"),
        ([ONE, "--depth=0"], "depth=0 must be >= 1"),
        ([ONE, "--width=0"], "width=0 must be between 1 and"),
        ([ONE, "--width=5", "--top_k=4"], "top_k=4: lower width"),
        ([ONE, "--top_k=-1"], "top_k=-1 must be >= 0"),
        ([ONE, "--top_p=1.5"], "top_p=1.5"),
        ([ONE, "--temperature=-1"], "temperature=-1.0"),
        ([ONE, "--temperature=nan"], "temperature=nan"),
        ([ONE, "--min_p=2"], "min_p=2.0 must be in"),
        ([ONE, "--strategy=greedy", "--min_p=0.1"], "--min_p=0.1 contradicts --strategy=greedy"),
        ([ONE, "--strategy=sample", "--draft_top_k=5"], "--draft_top_k=5 means nothing to"),
        ([ONE, "--strategy=lookup", "--draft_min_p=0"], "--draft_min_p=0.0 means nothing to"),
        ([ONE, "--draft_temperature=-1"], "the draft's temperature=-1.0 must be"),
        ([ONE, "--draft_top_k=2"], "top_k=2: lower width"),
        ([ONE, "--strategy=specinfer", "--branching=4,x"], "--branching=4,x must be whole"),
        (
            [ONE, "--branching=4,2"],
            "--branching=4,2 means nothing.* use specinfer, mcsd or traversal$",
        ),
        ([ONE, "--ngram=2"], "--ngram=2 means nothing to --strategy=mmtad: .* or use lookup$"),
        ([ONE, "--draft_kind=chain"], "--draft_kind=chain means nothing.* threshold or typical$"),
        ([ONE, "--draw=x"], "draw='x' must be"),
        ([ONE, "--samples=2"], "--samples=2 needs --output"),
        ([ONE, "--samples=0"], "--samples=0 must be >= 1"),
        ([ONE, "--strategy=greedy", "--samples=2"], "samples=2: this strategy draws nothing"),
        ([ONE, "--min_new_tokens=-1"], "--min_new_tokens=-1 must be >= 0"),
        ([ONE, "--min_new_tokens=200"], "min_new_tokens=200 > max_new_tokens=128"),
        ([ONE, "--min_new_tokens=2", "--ignore_eos"], "--min_new_tokens=2 contradicts"),
        ([ONE, "--banned_ids="], "--banned_ids is empty"),
        ([ONE, "--banned_ids=1,-2"], "--banned_ids holds '-2'"),
        ([ONE, "--max_new_tokens=0"], "--max_new_tokens=0 must be >= 1"),
        ([ONE, "--eos_id=2", "--ignore_eos"], "--eos_id=2 contradicts --ignore_eos"),
        ([ONE, "--eos_id="], "--eos_id is empty"),
        ([ONE, "--stop="], "--stop= is empty"),
        ([ONE, "--batch_size=2"], "--batch_size=2 needs --prompts"),
        ([ONE, "--batch_size=0"], "--batch_size=0 must be >= 1"),
        ([ONE, "--overwrite"], "--overwrite needs --output"),
        ([ONE, "--resume"], "--resume needs --output"),
        (["--prompts=x.jsonl"], "--prompts needs --output"),
    ],
)
def test_wrong_flags(args, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        run(*args)
    assert not os.listdir(tmp_path)
