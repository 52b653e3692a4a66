"""What `--model_args` and a task's generation settings come to, and what is refused."""

import logging

import pytest

from mtad_jax import recipes
from mtad_jax.decode.warp import Warp
from mtad_jax.integrations.lm_eval.arguments import (
    AUTO_BATCH,
    open_pipeline,
    read_batch_size,
    read_strategy,
)
from mtad_jax.integrations.lm_eval.generation import read_wanted

GREEDY = Warp(temperature=0.0)


@pytest.mark.parametrize(
    ("kwargs", "own", "warp"),
    [
        ({}, {}, GREEDY),
        ({"do_sample": False, "temperature": 0.0}, {}, GREEDY),
        ({"do_sample": False, "temperature": 1.0}, {}, GREEDY),
        ({"temperature": 0.7}, {}, Warp(temperature=0.7)),
        ({"do_sample": True}, {}, Warp()),
        ({"do_sample": True}, {"temperature": 0.5, "top_k": 9}, Warp(temperature=0.5, top_k=9)),
        ({"do_sample": True, "temperature": 1, "top_p": 0.9, "min_p": 0.1, "top_k": 5},
         {"temperature": 0.5}, Warp(temperature=1.0, top_p=0.9, min_p=0.1, top_k=5)),
        ({}, {"temperature": 0.5}, Warp(temperature=0.5)),
        ({"do_sample": False}, {"temperature": 0.5}, GREEDY),
    ],
)  # fmt: skip
def test_the_warp_of_a_request(kwargs, own, warp):
    assert read_wanted(kwargs, own, 5).settings["warp"] == warp


def test_sharpening_that_greedy_answers_do_not_use_is_told(caplog):
    with caplog.at_level(logging.WARNING):
        read_wanted({"do_sample": False, "temperature": 0, "top_p": 1.0}, {"seed": 3}, 5)
        assert not caplog.records
        read_wanted({"do_sample": False, "top_p": 0.9}, {"temperature": 0.5}, 5)
    [record] = caplog.records
    assert "temperature=0.5, top_p=0.9: not used" in record.getMessage()


def test_the_other_settings_of_a_request():
    wanted = read_wanted(
        {"until": ["\n", "", "Q:", "\n"], "max_new_tokens": 7, "min_new_tokens": 2, "num_beams": 1,
         "repetition_penalty": 1.2, "seed": 4, "top_k": None},
        {"seed": 3}, 5,
    )  # fmt: skip
    assert wanted.stop == ("\n", "Q:")
    del wanted.settings["warp"]
    assert wanted.settings == {
        "max_new_tokens": 7, "min_new_tokens": 2, "repetition_penalty": 1.2, "seed": 4
    }  # fmt: skip
    wanted = read_wanted({"until": "###", "repetition_penalty": 1.0}, {"seed": 3}, 5)
    assert wanted.stop == ("###",)
    assert wanted.settings == {"max_new_tokens": 5, "warp": GREEDY, "seed": 3}


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"top_q": 3}, "top_q=3, which mtad_jax cannot honour: there are until, do_sample"),
        ({"num_beams": 4}, "num_beams=4: give --model_args strategy=beam,width=4"),
        ({"max_gen_toks": 4, "max_tokens": 5}, "max_gen_toks and max_tokens say the same"),
        ({"max_gen_toks": 0}, "max_gen_toks=0 must be a whole number >= 1"),
        ({"do_sample": True, "temperature": 0}, "do_sample=True contradicts temperature=0"),
        ({"do_sample": "maybe"}, "do_sample='maybe' must be true or false"),
        ({"temperature": "hot"}, "temperature='hot' must be a number"),
        ({"temperature": -1}, "temperature=-1.0 must be finite and >= 0"),
        ({"top_p": 1.5}, r"top_p=1.5 must be in \[0, 1\]"),
        ({"until": 3}, "until=3 must be a string or a list of strings"),
    ],
)
def test_a_request_that_cannot_be_honoured(kwargs, message):
    with pytest.raises(ValueError, match=message) as error:
        read_wanted(kwargs, {}, 5)
    assert "\n" not in str(error.value)


def test_rules_with_settings_as_lm_eval_reads_them():
    def read(name, **given):
        return read_strategy(name, given, ["target", "draft"], 0)

    assert read("mmtad", depth=3, width=2, tau=1) == recipes.mmtad(3, 2, 1.0)
    assert read("specinfer", branching=(3, 2)) == recipes.specinfer((3, 2))
    assert read("specinfer", branching=[3, 2]) == recipes.specinfer((3, 2))
    assert read("specinfer", branching="3,2") == recipes.specinfer((3, 2))
    assert read("threshold", draft_kind="chain") == recipes.threshold(draft="chain")
    assert read("outside_rules:slack", depth=2).depth == 2


def test_the_shipped_target_may_draft_with_its_own_first_layers():
    nothing = {"dtype": None, "mesh": None, "shard_draft": False}
    pipe = open_pipeline(
        None, "early_exit:3", "mmtad", needs_draft=True, target_int8="", draft_int8="", **nothing
    )
    assert pipe.draft.lm.model.config.num_layers == 3
    assert pipe.draft.lm.params["layer_0"] is pipe.target.lm.params["layer_0"]


def test_batch_sizes():
    assert read_batch_size("8", None) == read_batch_size(8, None) == 8
    assert read_batch_size("auto", None) == read_batch_size("auto:4", 99) == AUTO_BATCH
    assert read_batch_size("auto", 2) == 2
    for size, most in (("0", None), ("many", None), ("8", 4), ("auto", 0)):
        with pytest.raises(ValueError, match="batch_size"):
            read_batch_size(size, most)


MODEL = [
    ({"strategy": "nope"}, "strategy=nope: no rule 'nope': there are greedy"),
    ({"strategy": "no_such_module:rule"}, "strategy=no_such_module:rule: importing"),
    ({"wdith": 3}, "wdith=3 means nothing to mtad_jax with strategy=mmtad: .* depth, width, tau"),
    ({"strategy": "greedy", "depth": 3}, "depth=3 means nothing to .*strategy=greedy.* are none,"),
    ({"depth": 2.5}, "depth=2.5 must be a whole number"),
    ({"depth": 0}, "depth=0 must be >= 1"),
    (
        {"strategy": "mcsd", "branching": (4, 2), "top_k": 3},
        "must be at most top_k=3",
    ),
    ({"strategy": "outside_rules:levels"}, "sizes is missing: .* give sizes="),
    ({"target": "DIR"}, "draft is missing: strategy=mmtad drafts: give draft=DIR"),
    ({"target": "DIR", "strategy": "greedy", "draft": "DIR"}, "draft=DIR means nothing to"),
    ({"target": "DIR", "strategy": "greedy"}, "DIR: no such folder"),
    ({"draft": "DIR"}, "draft=DIR needs target=DIR"),
    ({"dtype": "bfloat16"}, "dtype=bfloat16 needs target=DIR"),
    ({"batch_size": "some"}, "batch_size=some must be a whole number >= 1, or auto"),
    ({"device": "mps"}, "device=mps: JAX computes on cpu here"),
    ({"device": "cuda:3"}, "device=cuda:3: JAX computes on cpu here"),
    ({"temperature": -1}, "temperature=-1.0 must be finite"),
    ({"target_int8": "all"}, "int8"),
    ({"mesh": "model:3"}, "mesh=model:3 is for 3 devices"),
    ({"max_length": 10**6}, "max_length=1000000 must be <="),
]


@pytest.mark.parametrize(("arguments", "message"), MODEL)
@pytest.mark.filterwarnings("ignore")  # of lm_eval's libraries
def test_wrong_model_args_are_told_in_one_line(arguments, message):
    pytest.importorskip("lm_eval")
    from mtad_jax.integrations.lm_eval.model import MtadLM

    with pytest.raises(ValueError, match=message) as error:
        MtadLM.create_from_arg_obj(arguments)
    assert "\n" not in str(error.value)
