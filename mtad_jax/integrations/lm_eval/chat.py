"""A conversation of lm_eval as text, by the chat template of the model's folder.

The one place where this plug-in meets templates: `read_template` and `render`.
"""

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mtad_jax.checkpoints.load import LoadedModel
from mtad_jax.errors import one_line
from mtad_jax.text.settings import read_settings

Message = Mapping[str, str]
"""`role` and `content`."""


def read_template(model: LoadedModel, name: str | None = None) -> str:
    """Return a model's chat template: `chat_template.jinja`, else of `tokenizer_config.json`.

    Args:
      model: whose folder is looked into.
      name: of one among several; None: the default one.

    Raises:
      ValueError: there is none, or none of that name.
    """
    folder = model.folder
    file = folder / "chat_template.jinja"
    found = file.read_text("utf-8") if file.is_file() else None
    found = found or read_settings(folder).flags.get("chat_template") or {}
    if isinstance(found, str):
        found = {"default": found}
    elif isinstance(found, list):
        found = {item["name"]: item["template"] for item in found}
    if (name or "default") not in found:
        there = ", ".join(found) or "none"
        raise ValueError(
            f"{folder}: no chat template {name or 'default'!r} (there are: {there}): leave "
            "--apply_chat_template out, or name one"
        )
    return found[name or "default"]


def render(
    model: LoadedModel, template: str, messages: Sequence[Message], *, generation_prompt: bool
) -> str:
    """Return a conversation as text.

    Args:
      model: whose special tokens the template takes.
      template: its text.
      messages: the conversation.
      generation_prompt: whether the text ends where the assistant's answer begins; else it ends
        with the last message's content, for the model to go on.

    Raises:
      ValueError: the template is wrong, or refuses the conversation.
    """
    folder = model.folder
    roles = {role: token for role, token in read_settings(folder).roles.items() if token}
    try:
        text = _environment().from_string(template).render(
            **roles, messages=list(messages), tools=None, documents=None,
            add_generation_prompt=generation_prompt,
        )  # fmt: skip
    except jinja2.TemplateError as error:
        raise ValueError(f"{folder}: chat template: {one_line(error)}") from error
    if generation_prompt:
        return text
    content = messages[-1]["content"]
    end = text.rfind(content.strip())
    if end < 0:
        raise ValueError(f"{folder}: the chat template changes the last message: it cannot go on")
    end += len(content.strip())
    spaces = content[len(content.rstrip()) :]  # some templates trim
    return text[:end] + (spaces if text.startswith(spaces, end) else "")


def _environment() -> ImmutableSandboxedEnvironment:
    """Return what templates are written for: transformers' environment."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    made.filters["tojson"] = _to_json
    made.globals |= {"raise_exception": _refuse, "strftime_now": _now}
    return made


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _now(form: str) -> str:
    return datetime.datetime.now().strftime(form)
