"""Chat templates: texts and ids are transformers', and a bad template ends in one line."""

import subprocess
import sys
import threading
import time
from importlib import metadata
from pathlib import Path

import pytest
from chat_templates import (
    CHATML,
    PLAIN,
    TEMPLATES,
    assistant,
    system,
    tokenizer_folder,
    user,
)
from tiny_tokenizers import FOLDERS

from mtad_jax.errors import install_hint
from mtad_jax.text import chat, template_process, template_worker
from mtad_jax.text.chat import ChatTemplate, check_messages, choose_template
from mtad_jax.text.tokenizer import load_tokenizer

CONVERSATIONS = {
    "one": [user("The cat sat.")],
    "spaces": [user("  two  spaces \n\nand\tmore  ")],
    "turns": [
        user("Hello <b>&\"'</b>"),
        assistant(" fine, 日本語 😀\n"),
        user("{{ 7 * 7 }} {% x %}"),
    ],
    "system": [
        system(" Be brief. "),
        user("a"),
        assistant("b"),
        user("c"),
        assistant("d"),
        user(""),
    ],
    "tokens": [user("a</s><s>b<|im_end|>\n<think>"), assistant("<|eot_id|>"), user("c")],
    "order": [user("a"), user("b")],
}
HELLO = [user("hello")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tokenizer_folder(tmp_path_factory.mktemp("chat") / "model")


@pytest.fixture(scope="module")
def theirs(folder):
    return pytest.importorskip("transformers").AutoTokenizer.from_pretrained(str(folder))


@pytest.fixture(scope="module")
def ours(folder):
    return load_tokenizer(folder)


def rendered(tokenizer, messages, template, **variables):
    found = ChatTemplate(template, "template")
    return found.render(check_messages(messages), tokenizer.special_tokens, variables)


@pytest.mark.parametrize("messages", CONVERSATIONS.values(), ids=CONVERSATIONS)
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_text_and_ids_are_those_of_transformers(ours, theirs, template, messages):
    call = {"chat_template": template, "add_generation_prompt": True}
    try:
        text = theirs.apply_chat_template(messages, tokenize=False, **call)
    except Exception as error:
        assert "role" in str(error).lower()
        with pytest.raises(ValueError, match=r"^template line \d+: chat template: ") as refused:
            rendered(ours, messages, template)
        assert str(refused.value).endswith(str(error))
        return
    assert rendered(ours, messages, template) == text
    ids = theirs.apply_chat_template(messages, return_dict=False, **call)
    assert ours.encode(text, add_bos=False) == ids


def test_what_is_refused_is_refused_by_these():
    """So that the comparison above is not one of errors alone."""
    refused = {("llama_2", "order"), ("mistral", "order"), ("gemma", "system")}
    found = set()
    for shape, template in TEMPLATES.items():
        for name, messages in CONVERSATIONS.items():
            try:
                ChatTemplate(template, "t").render(messages, {"bos_token": "", "eos_token": ""})
            except ValueError:
                found.add((shape, name))
    assert found == refused


def test_further_variables(ours, theirs):
    for thinking in (True, False):
        want = theirs.apply_chat_template(
            HELLO, tokenize=False, chat_template=CHATML, add_generation_prompt=True,
            enable_thinking=thinking,
        )  # fmt: skip
        assert rendered(ours, HELLO, CHATML, enable_thinking=thinking) == want
        assert ("</think>" in want) == (not thinking)
    with pytest.raises(ValueError, match="as JSON has them: .*set"):
        rendered(ours, HELLO, CHATML, enable_thinking={1})


def test_special_tokens_by_role(tmp_path):
    """Strings, objects, null, and those that are rare."""
    tokens = "{{ bos_token }}|{{ eos_token }}|{{ unk_token }}|{{ sep_token }}|{{ pad_token }}"
    path = tokenizer_folder(
        tmp_path / "m", chat_template=tokens, sep_token="<|im_end|>", unk_token=None
    )
    auto = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(str(path))
    tokenizer = load_tokenizer(path)
    text = rendered(tokenizer, HELLO, tokens)
    assert text == "<s>|</s>||<|im_end|>|" == auto.apply_chat_template(HELLO, tokenize=False)


@pytest.mark.parametrize("kind", FOLDERS)
def test_tokens_of_folders_without_configuration(kind, tmp_path):
    tokenizer = load_tokenizer(FOLDERS[kind](tmp_path / "m"))
    found = {role: tokenizer.vocabulary()[t] for role, t in tokenizer.special_tokens.items()}
    assert found["bos_token"] == tokenizer.bos_id and found["eos_token"] == tokenizer.eos_id


# Where templates are.


def write(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")


LISTED = [
    {"name": "default", "template": "listed {{ 1 }}"},
    {"name": "tool_use", "template": "tools {{ 1 }}"},
]
PLACES = {
    "none": ({}, {}),
    "a text": ({"chat_template": "config {{ 1 }}"}, {}),
    "a list": ({"chat_template": LISTED}, {}),
    "a table": ({"chat_template": {"default": "table {{ 1 }}"}}, {}),
    "a file": ({"chat_template": "config"}, {"chat_template.jinja": "file {{ 1 }}\r\nno"}),
    "files": (
        {"chat_template": "config"},
        {
            "chat_template.jinja": "file {{ 1 }}",
            "additional_chat_templates/tool_use.jinja": "{{ 2 }}",
        },
    ),
    "further files alone": (
        {"chat_template": "config"},
        {"additional_chat_templates/rag.jinja": "{{ 2 }}"},
    ),
    "no default": ({"chat_template": [{"name": "rag", "template": "{{ 1 }}"}]}, {}),
}


@pytest.mark.parametrize(("config", "files"), PLACES.values(), ids=PLACES)
def test_templates_are_found_as_by_transformers(config, files, tmp_path):
    path = tokenizer_folder(tmp_path / "m", **config)
    for name, text in files.items():
        write(path / name, text)
    auto = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(str(path))
    templates = load_tokenizer(path).chat_templates
    want = auto.chat_template or {}
    want = want if isinstance(want, dict) else {"default": want}
    assert {name: template.source for name, template in templates.items()} == want
    if "default" in want:
        assert choose_template(templates, None, path).source == auto.get_chat_template()
    else:
        with pytest.raises(ValueError, match="chat template.*give chat_template=TEXT"):
            choose_template(templates, None, path)
    if isinstance(auto.chat_template, dict):
        for name in want:
            assert choose_template(templates, name, path).source == auto.get_chat_template(name)


def test_a_template_of_ones_own(tmp_path):
    folder, templates = tmp_path, {"rag": ChatTemplate("{{ 1 }}", "r")}
    assert choose_template(templates, "{{ 2 }}", folder).source == "{{ 2 }}"
    own = ChatTemplate("{{ 3 }}", "here")
    assert choose_template({}, own, folder) is own
    with pytest.raises(ValueError, match="'?\"?tool_use\"?'? has nothing of jinja.*none of rag"):
        choose_template(templates, "tool_use", folder)
    with pytest.raises(ValueError, match="chat_template is a dict"):
        choose_template(templates, {"a": "b"}, folder)  # pyright: ignore


@pytest.mark.parametrize("wrong", [3, [{"name": "default"}], ["{{ 1 }}"], {"default": 3}, True])
def test_a_setting_that_is_no_template(wrong, tmp_path):
    path = tokenizer_folder(tmp_path / "m", chat_template=wrong)
    with pytest.raises(ValueError, match=r"tokenizer_config.json: chat_template=.* must be a text"):
        load_tokenizer(path)


def test_a_file_that_is_no_text(tmp_path):
    path = tokenizer_folder(tmp_path / "m")
    (path / "chat_template.jinja").write_bytes(b"{{ 1 }}\xff")
    with pytest.raises(ValueError, match="chat_template.jinja: not UTF-8"):
        load_tokenizer(path)


# Messages.


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("hello", "messages is a str: give a list"),
        ({"role": "user", "content": "a"}, "messages is a dict: give a list"),
        (None, "messages is a NoneType: give a list"),
        ([], "messages is empty"),
        (["a"], r"messages\[0\] is a str, not a message"),
        ([{"content": "a"}], r"messages\[0\]: role is nothing"),
        ([{"role": "", "content": "a"}], r'messages\[0\]: role is "": give'),
        ([{"role": "user"}], r"messages\[0\]: content is nothing"),
        ([user("a"), {"role": "user", "content": ["b"]}], r'messages\[1\]: content is \["b"\]'),
        ([{"role": 3, "content": "a"}], r"messages\[0\]: role is 3"),
        ([user("a"), assistant("b")], r'messages\[1\] is from "assistant": the last message'),
        ([[user("a")], []], r"messages\[1\] is empty"),
        ([[user("a")], user("b")], r"messages\[1\] is a dict"),
    ],
)
def test_what_is_no_conversation(messages, message):
    with pytest.raises(ValueError, match=f"^{message}") as error:
        chat.as_conversations(messages)
    assert "\n" not in str(error.value)


def test_messages_are_copied_and_keys_without_value_left_out():
    given = [user("a") | {"name": "x", "tool_calls": None}]
    assert chat.as_conversations(given) == [[user("a") | {"name": "x"}]]
    assert chat.as_conversations((given, given)) == [[user("a") | {"name": "x"}]] * 2


# Bad templates.

BAD = {
    "raises": ("{{ raise_exception('no \\n way') }}", "line 1: chat template: no way"),
    "raises later": ("\n\n{% if 1 %}\n{{ raise_exception('x') }}{% endif %}", "line 4: .*: x"),
    "syntax": ("a\n{% if %}", "line 2: chat template: Expected an expression"),
    "unknown tag": ("a\n\n{% nonsense %}", "line 3: chat template: .*nonsense"),
    "unclosed": ("{% for a in b %}", "line 1: chat template: Unexpected end"),
    "unknown filter": ("{{ 1 | nonsense }}", "No filter named 'nonsense'"),
    "undefined": ("\n{{ messages[0].no.such }}", "line 2: chat template: .*has no attribute 'no'"),
    "zero": ("{{ 1 // (messages | length - 1) }}", "line 1: chat template: ZeroDivisionError"),
    "inner attribute": ("{{ ''.__class__.__mro__ }}", "access to attribute '__class__' of"),
    "by a filter": ("{{ ('' | attr('__class__')).x }}", "is unsafe|has no attribute"),
    "function": ("{{ raise_exception.__globals__.x }}", "access to attribute '__globals__'"),
    "by format": ("{{ '{0.__class__.x}'.format(1) }}", "access to attribute '__class__'"),
    "changes": ("{{ messages.append(1) }}", "append.*unsafe|not safely callable"),
    "changes by dict": ("{{ dict.update(messages[0], role='x') }}", "update"),
    "namespace": ("{% set n = namespace(__class__=1) %}", "namespace cannot hold '__class__'"),
    "namespace later": (
        "{% set n = namespace() %}{% set n._x = 1 %}",
        "namespace cannot hold '_x'",
    ),
    "include": ("{% include '/etc/passwd' %}", "no loader"),
    "import": ("{% import 'os' as os %}", "no loader"),
    "long range": ("{{ range(10**9) | list }}", "Range too big"),
    "recursion": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
    "memory": ("{{ 'a' * 10**10 }}{{ messages }}", "more than 512 MiB of memory"),
    "memory by padding": ("{{ '%9999999999d' % (messages | length) }}", "memory|OverflowError"),
    "memory by doubling": (
        "{% set n = namespace(t='abcd') %}{% for i in range(99) %}"
        "{% set n.t = n.t ~ n.t %}{% endfor %}",
        "more than 512 MiB of memory",
    ),
    "long text": ("{{ 'abcd' * 10**7 }}", "a text of 40,000,000 characters: the most is 16,777"),
}  # fmt: skip


@pytest.mark.parametrize(("source", "message"), BAD.values(), ids=BAD)
def test_a_bad_template_is_told_of_in_one_line(source, message):
    with pytest.raises(ValueError, match=message) as error:
        ChatTemplate(source, "m/chat_template.jinja").render(HELLO, {})
    told = str(error.value)
    assert told.startswith("m/chat_template.jinja") and "\n" not in told and len(told) < 300
    assert ChatTemplate(PLAIN, "x").render(HELLO, {}) == "user: hello\nassistant:"


ENDLESS = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}"
    "{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
    "calls": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
    "{{ f(60) }}",
    "one operation": "{{ 7 ** (messages | length * 10**9) }}",
    "while it is compiled": "{{ 7 ** (10**9) }}",
    "filters": "{% for i in range(99999) %}{{ lipsum(n=999) | length }}{% endfor %}",
}


@pytest.mark.slow
@pytest.mark.parametrize("source", ENDLESS.values(), ids=ENDLESS)
def test_a_template_without_end_is_ended(source):
    begin = time.perf_counter()
    with pytest.raises(ValueError, match=r"^t: chat template: no end after 0.6 seconds$"):
        ChatTemplate(source, "t").render(HELLO, {}, seconds=0.6)
    assert time.perf_counter() - begin < 10
    assert ChatTemplate(PLAIN, "x").render(HELLO, {}) == "user: hello\nassistant:"


def test_a_process_that_dies_is_replaced():
    assert ChatTemplate(PLAIN, "x").render(HELLO, {})
    process = template_process._process
    assert process is not None
    process.kill()
    with pytest.MonkeyPatch.context() as patch:  # as if its end had not been noticed yet
        patch.setattr(process, "poll", lambda: None)
        with pytest.raises(ValueError, match="the process that ran it died"):
            ChatTemplate(PLAIN, "x").render(HELLO, {})
    assert ChatTemplate(PLAIN, "x").render(HELLO, {}) == "user: hello\nassistant:"
    assert template_process._process is not process


def test_templates_write_no_files(tmp_path):
    """Not even one that got out of the sandbox."""
    code = (
        "import runpy, sys; worker = runpy.run_path(sys.argv[1]); worker['_limit_process']();"
        "open(sys.argv[2], 'w').write('x' * 10000)"
    )
    path = template_worker.__file__
    done = subprocess.run(
        [sys.executable, "-c", code, path, tmp_path / "out"], capture_output=True, text=True
    )
    assert done.returncode != 0 and (tmp_path / "out").stat().st_size == 0


def test_threads_share_the_process():
    texts: dict[int, str] = {}

    def work(i: int) -> None:
        for _ in range(20):
            texts[i] = ChatTemplate(PLAIN, "x").render([user(str(i))], {})

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == {i: f"user: {i}\nassistant:" for i in range(4)}


def test_a_missing_or_old_jinja_is_said_with_the_cure(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    template_process.stop()
    monkeypatch.setattr(metadata, "version", missing)
    with pytest.raises(ValueError) as error:
        ChatTemplate(PLAIN, "x").render(HELLO, {})
    assert str(error.value) == f"chat templates need jinja2: {install_hint('chat')}"
    monkeypatch.setattr(metadata, "version", lambda name: "3.1.2")
    with pytest.raises(ValueError, match=r"need jinja2 >= 3.1.6, this is 3.1.2: pip install"):
        ChatTemplate(PLAIN, "x").render(HELLO, {})


def test_half_of_a_surrogate_pair_gets_through_to_the_tokenizer(ours):
    text = rendered(ours, [user("\ud800")], PLAIN)
    with pytest.raises(ValueError, match="surrogate"):
        ours.encode(text, add_bos=False)


def test_dates():
    text = ChatTemplate("{{ strftime_now('%Y') }}", "x").render(HELLO, {})
    assert text in (time.strftime("%Y"), str(int(time.strftime("%Y")) + 1))


@pytest.mark.slow
def test_a_killed_parent_leaves_no_process():
    """Not even one whose template runs without end."""
    code = (
        "import os, threading, time; from mtad_jax.text import template_process as t;"
        "t.render('', {}); print(t._process.pid, flush=True); loop = ENDLESS;"
        "threading.Thread(target=t.render, args=(loop, {}), kwargs={'seconds': 1}).start();"
        "time.sleep(0.5); os.kill(os.getpid(), 9)"
    ).replace("ENDLESS", repr(ENDLESS["nested loops"]))
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pid = done.stdout.strip()
    assert done.returncode == -9 and is_alive(pid)
    for _ in range(100):
        if not is_alive(pid):
            return
        time.sleep(0.1)
    raise AssertionError(f"process {pid} goes on")


def is_alive(pid: str) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


@pytest.mark.slow
def test_python_that_ends_leaves_no_process():
    code = (
        "from mtad_jax.text import template_process as t; print(t.render('{{ 1 }}', {}));"
        "print(t._process.pid)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    text, pid = done.stdout.split()
    assert text == "1" and not done.stderr
    assert not is_alive(pid)
