"""`experiments.generate --chat`: one message, rows of messages, and turn by turn."""

import io
import json
import os

import pytest
from chat_templates import LLAMA_2, PLAIN, assistant, system, user
from generate_flags import run
from tiny_pair import write_pair

from experiments import generate as program
from experiments.rows.turns import END
from mtad_jax import Pipeline, recipes

GREEDY = ("--strategy=greedy", "--max_new_tokens=6", "--ignore_eos", "--chat")
CALL = {"strategy": recipes.greedy(), "max_new_tokens": 6, "eos_id": ()}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    pair = write_pair(tmp_path_factory.mktemp("pair"))
    (pair[0] / "chat_template.jinja").write_text(LLAMA_2)
    return pair


@pytest.fixture(scope="module")
def pipe(folders) -> Pipeline:
    return Pipeline.load(folders[0])


@pytest.fixture
def chat(folders):
    """Run on the target, with more flags."""
    return lambda *args: run(f"--target={folders[0]}", *GREEDY, *args)


def answer(pipe, *messages, **how):
    [row] = pipe.chat(list(messages), **CALL, **how)
    return row


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_a_prompt_is_a_message(chat, pipe, tmp_path, capsys):
    assert chat("--prompt=The cat") == 0
    assert capsys.readouterr().out == answer(pipe, user("The cat")).text + "\n"
    chat("--prompt=The cat", "--system=Be brief.")
    want = answer(pipe, system("Be brief."), user("The cat"))
    assert capsys.readouterr().out == want.text + "\n"
    (tmp_path / "plain.jinja").write_text(PLAIN)
    chat("--prompt=The cat", f"--chat_template={tmp_path / 'plain.jinja'}", "--output", out := (
        tmp_path / "out.jsonl"
    ))  # fmt: skip
    [row] = read_jsonl(out)
    assert row["prompt_ids"] == pipe.encode_chat([user("The cat")], chat_template=PLAIN)


@pytest.mark.slow
def test_rows_of_messages(chat, pipe, tmp_path):
    talk = [user("The cat"), assistant("sat"), user("where?")]
    rows = [{"messages": talk, "id": 7}, {"prompt": "A dog"}, {"messages": talk[:1], "seed": 3}]
    prompts, out = write_jsonl(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    flags = (f"--prompts={prompts}", f"--output={out}", "--batch_size=2", "--system=S")
    assert chat(*flags) == 0
    got = read_jsonl(out)
    wanted = [talk, [user("A dog")], talk[:1]]
    for row, said in zip(got, wanted, strict=True):
        want = answer(pipe, system("S"), *said)
        assert (row["text"], row["prompt_ids"]) == (want.text, want.prompt_ids)
    assert got[0]["id"] == 7 and set(got[1]) == set(got[0]) - {"id"}


@pytest.mark.slow
def test_a_run_goes_on_with_the_same_chat_only(chat, folders, tmp_path):
    prompts = write_jsonl(tmp_path / "in.jsonl", [{"prompt": "A dog"}] * 2)
    out = tmp_path / "out.jsonl"
    flags = (f"--prompts={prompts}", f"--output={out}")
    assert chat(*flags) == 0
    whole = read_jsonl(out)
    template = tmp_path / "t.jinja"
    template.write_text(PLAIN)
    for wrong, message in (
        (("--system=S",), "made with prompts_sha256|made with system=, not S"),
        ((f"--chat_template={template}",), "made with chat_template_sha256=None, not"),
    ):
        interrupted(out, chat, flags)
        with pytest.raises(ValueError, match=message):
            chat(*flags, "--resume", *wrong)
        (tmp_path / "out.jsonl.partial").unlink()
    interrupted(out, chat, flags)
    assert chat(*flags, "--resume") == 0
    assert [row["text"] for row in read_jsonl(out)] == [row["text"] for row in whole]


def interrupted(out, chat, flags):
    """Leave one row of two, as a run that is ended by Ctrl-C does."""
    call, calls = Pipeline.__call__, []

    def once(self, *args, **settings):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return call(self, *args, **settings)

    out.unlink(missing_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pipeline, "__call__", once)
        assert chat(*flags) == 130
    assert len(read_jsonl(out.with_name(out.name + ".partial"))) == 1


# Turn by turn.


@pytest.fixture
def say(monkeypatch):
    def to(text, terminal=False):
        stdin = io.StringIO(text)
        monkeypatch.setattr(stdin, "isatty", lambda: terminal)
        monkeypatch.setattr("sys.stdin", stdin)

    return to


@pytest.mark.slow
def test_a_conversation_keeps_what_was_said(chat, pipe, say, capsys):
    say(f"The cat\nwhere?\n{END}\nnever\n")
    assert chat("--system=S") == 0
    out, err = capsys.readouterr()
    first = answer(pipe, system("S"), user("The cat"))
    second = answer(pipe, system("S"), user("The cat"), assistant(first.text), user("where?"))
    assert out == f"{first.text}\n{second.text}\n"
    assert err.count("[6 tokens in") == 2 and "> " not in err


@pytest.mark.parametrize("end", ["", "\n", "\nnever\n", "/exit\n"])
def test_a_conversation_ends(chat, pipe, say, capsys, end):
    say(f"The cat\n/new\nThe cat\n{end}", terminal=True)
    assert chat() == 0
    out, err = capsys.readouterr()
    assert out == f"{answer(pipe, user('The cat')).text}\n" * 2
    assert err.count("> ") == 4 and "/exit" in err


def test_a_turn_without_room_is_taken_back(chat, pipe, say, capsys):
    say("The cat\n" + "a " * 300 + "\nwhere?\n")
    assert chat() == 1
    out, err = capsys.readouterr()
    first = answer(pipe, user("The cat"))
    second = answer(pipe, user("The cat"), assistant(first.text), user("where?"))
    assert out == f"{first.text}\n{second.text}\n"
    [line] = [line for line in err.splitlines() if line.startswith("error: ")]
    assert "no answer: positions=256 of the target < " in line and "/new" in line


def test_what_would_refuse_every_turn_is_said_at_once(chat, say, tmp_path, monkeypatch):
    say("The cat\n")
    monkeypatch.setattr(program, "stream_text", None)
    with pytest.raises(ValueError, match="positions=256 of the target < "):
        chat("--max_new_tokens=256")
    template = tmp_path / "t.jinja"
    template.write_text("{% if messages[0].role == 'system' %}\n{{ raise_exception('no system') }}")
    with pytest.raises(ValueError, match=f"{template} line 2: .*Unexpected end"):
        chat(f"--chat_template={template}", "--system=S")
    template.write_text(template.read_text() + "{% endif %}a")
    with pytest.raises(ValueError, match=f"{template} line 2: chat template: no system"):
        chat(f"--chat_template={template}", "--system=S")


# What is refused before any weights are read.

WRONG = {
    "system alone": (["--nochat", "--prompt=x", "--system=S"], "--system needs --chat"),
    "template alone": (["--nochat", "--prompt=x", "--chat_template=f"], "--chat_template needs"),
    "ids": (["--prompt_ids=1,2"], "--prompt_ids are taken as they are"),
    "no prompt": (["--prompt="], "--prompt: the prompt is empty"),
    "no system": (["--prompt=x", "--system="], "--system= is empty"),
    "two": (["--prompt=x", "--prompts=y"], "--prompt contradicts --prompts"),
    "output": (["--output=x.jsonl"], "--output=x.jsonl with --chat needs --prompt or --prompts"),
    "samples": (["--samples=2", "--temperature=1"], "--samples=2 needs --output"),
    "batch": (["--batch_size=2"], "--batch_size=2 needs --prompts"),
    "several hosts": (
        ["--coordinator=h:1", "--num_processes=1", "--process_id=0"], "--coordinator=h:1: a conv"
    ),
    "no file": (["--prompt=x", "--chat_template=absent.jinja"], "absent.jinja"),
}  # fmt: skip


@pytest.mark.parametrize(("args", "message"), WRONG.values(), ids=WRONG)
def test_wrong_flags(args, message, folders, monkeypatch):
    monkeypatch.setattr(program, "load_models", None)
    first = [arg for arg in GREEDY if not any(a.startswith("--samples") for a in args)]
    if "--samples=2" in args:
        first = ["--strategy=sample", "--chat"]
    with pytest.raises((ValueError, OSError), match=message) as error:
        run(f"--target={folders[0]}", *first, *args)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("target", ["draft", None])
def test_a_target_without_template(target, folders, tmp_path, monkeypatch):
    monkeypatch.setattr(program, "load_models", None)
    flags = [] if target is None else [f"--target={folders[1]}"]
    folder = folders[1] if target else "assets/target"
    with pytest.raises(ValueError, match=f"{folder}: no chat template.*: give --chat_template=F"):
        run(*flags, *GREEDY, "--prompt=x", f"--output={tmp_path / 'o'}")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": []}, "messages is empty"),
        ({"messages": "x"}, "messages is a str: give a list"),
        ({"messages": [user("a"), assistant("b")]}, r'messages\[1\] is from "assistant"'),
        ({"messages": [{"role": "user"}]}, r"messages\[0\]: content is nothing"),
        ({"messages": [user("a")], "prompt": "b"}, "both prompt and messages: give one"),
        ({"prompt_ids": [1]}, "prompt_ids: --chat makes token ids of text"),
        ({"id": 1}, "neither prompt nor messages: give one"),
        ({"prompt": ""}, "the prompt is empty: give what the user says"),
        ({"prompt": 3}, "prompt='3' is not a string"),
        ({"messages": [system("a"), user("b")]}, "has a system message of its own: leave it or"),
    ],
)
def test_wrong_rows(row, message, chat, tmp_path):
    prompts = write_jsonl(tmp_path / "in.jsonl", [{"prompt": "good"}, row])
    with pytest.raises(ValueError, match=f"{prompts} line 2: {message}"):
        chat(f"--prompts={prompts}", f"--output={tmp_path / 'out.jsonl'}", "--system=S")
    assert os.listdir(tmp_path) == ["in.jsonl"]


def test_a_row_that_the_template_refuses_is_named(chat, tmp_path):
    prompts = write_jsonl(tmp_path / "in.jsonl", [{"messages": [user("a"), user("b")]}])
    with pytest.raises(ValueError, match=f"{prompts} line 1: .*Roles must alternate"):
        chat(f"--prompts={prompts}", f"--output={tmp_path / 'out.jsonl'}")


def test_messages_without_chat(folders, tmp_path):
    prompts = write_jsonl(tmp_path / "in.jsonl", [{"messages": [user("a")]}])
    with pytest.raises(ValueError, match="line 1: messages: a conversation is for --chat of"):
        run(
            f"--target={folders[0]}", "--strategy=greedy", f"--prompts={prompts}",
            f"--output={tmp_path / 'out.jsonl'}",
        )  # fmt: skip
