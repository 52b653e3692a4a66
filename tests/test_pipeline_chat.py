"""Conversations through a pipeline, on a random pair whose folder has a template."""

import json
import shutil

import pytest
from chat_templates import LLAMA_2, PLAIN, assistant, system, user
from tiny_pair import write_ids_only_pair, write_pair

from mtad_jax import Pipeline, Warp, recipes

CALL = {"strategy": recipes.sample(), "warp": Warp(1.0), "max_new_tokens": 8, "eos_id": ()}
GREEDY = {"strategy": recipes.greedy(), "max_new_tokens": 4}
TALK = [user("The cat"), assistant("sat"), user("on the mat?")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    pair = write_pair(tmp_path_factory.mktemp("pair"))
    (pair[0] / "chat_template.jinja").write_text(LLAMA_2)
    return pair


@pytest.fixture(scope="module")
def pipe(folders) -> Pipeline:
    return Pipeline.load(*folders)


@pytest.mark.slow
def test_a_conversation_is_a_prompt(pipe):
    text = pipe.render(TALK)
    assert text == "<s>[INST] The cat [/INST] sat </s><s>[INST] on the mat? [/INST]"
    ids = pipe.encode_chat(TALK)
    start, end = pipe.target.tokenizer.bos_id, pipe.target.tokenizer.eos_id
    assert ids[0] == start and ids.count(start) == 2 and ids.count(end) == 1
    spelt = pipe.target.tokenizer.decode(ids, skip_special=False)
    assert spelt.replace("<s> ", "<s>") == text  # sentencepiece begins a text with a space
    [answer] = pipe.chat(TALK, **CALL)
    assert [answer] == pipe([ids], **CALL) and answer.prompt_ids == ids
    stream = pipe.stream(ids, **CALL)
    assert "".join(stream) == answer.text and stream.completion == answer
    pipe.check([ids], **CALL)


def test_no_start_token_is_added_where_a_template_writes_none(pipe):
    ids = pipe.encode_chat(TALK, chat_template=PLAIN)
    assert pipe.encode("x")[0] == 1 and ids[0] != 1
    assert pipe.target.tokenizer.decode(ids) == pipe.render(TALK, chat_template=PLAIN)


@pytest.mark.slow
def test_several_conversations(pipe):
    talks = [TALK, [system("Be brief."), user("A dog")]]
    rows = pipe.chat(talks, batch_size=1, **CALL)
    assert [row.prompt_ids for row in rows] == [pipe.encode_chat(talk) for talk in talks]
    assert rows == pipe([pipe.encode_chat(talk) for talk in talks], batch_size=1, **CALL)
    both = pipe.chat(talks[:1], samples=2, **CALL)
    assert [row.prompt_ids for row in both] == [pipe.encode_chat(TALK)] * 2


def test_a_conversation_goes_on(pipe):
    [first] = pipe.chat([user("The cat")], **GREEDY)
    said = [user("The cat"), assistant(first.text), user("And then?")]
    assert first.text.strip() in pipe.render(said)
    [second] = pipe.chat(said, **GREEDY)
    assert len(second.prompt_ids) > len(first.prompt_ids)


def test_an_answer_ends_at_the_end_tokens_of_the_folder(folders, pipe, tmp_path):
    [row] = pipe.chat(TALK, eos_id=(), **GREEDY)
    shutil.copytree(folders[0], tmp_path / "m")
    ends = {"eos_token_id": [2, row.tokens[1]]}
    (tmp_path / "m" / "generation_config.json").write_text(json.dumps(ends))
    [short] = Pipeline.load(tmp_path / "m").chat(TALK, **GREEDY)
    assert short.finish_reason == "end" and short.tokens == row.tokens[:2]


def test_what_is_refused(pipe, folders, tmp_path):
    with pytest.raises(ValueError, match=r'messages\[1\] is from "assistant"'):
        pipe.chat(TALK[:2], **CALL)
    with pytest.raises(ValueError, match=r"messages\[1\]\[0\]: content is 3: give a text"):
        pipe.chat([TALK, [{"role": "user", "content": 3}]], **CALL)
    where = f"{folders[0]}/chat_template.jinja line 10: chat template: Roles must alternate"
    with pytest.raises(ValueError, match=f"^{where}"):
        pipe.chat([user("a"), user("b")], **CALL)
    with pytest.raises(ValueError, match="^chat_template line 1: chat template: unexpected"):
        pipe.chat(TALK, chat_template="{{", **CALL)
    with pytest.raises(ValueError, match="the prompt is empty"):
        pipe.chat(TALK, chat_template="{# nothing #}", **CALL)
    with pytest.raises(ValueError, match="positions=256 of the target < "):
        pipe.chat([user("a " * 300)], **CALL)
    with pytest.raises(ValueError, match="surrogates not allowed"):
        pipe.chat([user("\ud800")], **CALL)
    with pytest.raises(TypeError, match="no setting is called top_k"):
        pipe.chat(TALK, top_k=3, **CALL)
    bare = Pipeline(pipe.draft)
    with pytest.raises(
        ValueError, match=f"^{folders[1]}: no chat template, .*: give chat_template"
    ):
        bare.chat(TALK, **GREEDY)
    assert len(bare.chat(TALK, chat_template=PLAIN, **GREEDY)) == 1
    ids_only = Pipeline.load(write_ids_only_pair(tmp_path)[0])
    with pytest.raises(ValueError, match=f"^{tmp_path}/target: no tokenizer files"):
        ids_only.chat(TALK, chat_template=PLAIN, **GREEDY)
