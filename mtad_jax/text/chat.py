"""Conversations as the text that a chat model was trained on, by the template of its folder.

Which template that is, and what it is given, is as in transformers 5
(`PreTrainedTokenizerBase._from_pretrained` and `apply_chat_template`), so that texts are the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtad_jax.errors import one_line
from mtad_jax.json_file import shown
from mtad_jax.text import template_process
from mtad_jax.text.template_process import TemplateFailure

Message = Mapping[str, Any]
"""What somebody said: `role` ("system", "user", "assistant"), `content`, and what else its template
knows."""

TEMPLATE_FILE = "chat_template.jinja"
TEMPLATE_FOLDER = "additional_chat_templates"
"""Further templates of a folder, NAME.jinja each."""

DEFAULT = "default"
EXAMPLE = '[{"role": "user", "content": "..."}]'


@dataclass(frozen=True)
class ChatTemplate:
    """A jinja template.

    Attributes:
      source: its text.
      where: what errors call it: the file that it is from.
    """

    source: str
    where: str

    def render(
        self,
        messages: Sequence[Message],
        tokens: Mapping[str, str],
        variables: Mapping[str, Any] | None = None,
        *,
        seconds: float = template_process.SECONDS,
    ) -> str:
        """Return a conversation as text that ends where the assistant's answer begins.

        Args:
          messages: checked by `check_messages`.
          tokens: special tokens by role, `bos_token` and so on.
          variables: what else the template takes; one of `tokens`' names goes before it.
          seconds: the longest that it may take.

        Raises:
          ValueError: the template is wrong, raises an error, or takes too much time or memory; one
            line, naming file and line.
        """
        given = {**tokens, "tools": None, "documents": None, "add_generation_prompt": True}
        given |= {**(variables or {}), "messages": list(messages)}
        try:
            return template_process.render(self.source, given, seconds=seconds)
        except TemplateFailure as error:
            line = "" if error.line is None else f" line {error.line}"
            raise ValueError(f"{self.where}{line}: chat template: {one_line(error)}") from None


def is_template(value: Any) -> bool:
    """Whether this is what `tokenizer_config.json` may have: a text, or texts by name."""
    if isinstance(value, Mapping):
        return all(isinstance(text, str) for text in value.values())
    if isinstance(value, list):
        return all(
            isinstance(item, Mapping)
            and isinstance(item.get("name"), str)
            and isinstance(item.get("template"), str)
            for item in value
        )
    return isinstance(value, str)


def read_templates(folder: Path, config: Mapping[str, Any]) -> dict[str, ChatTemplate]:
    """Read a folder's templates by name; files go before those of `tokenizer_config.json`.

    Args:
      folder: of a model.
      config: its `tokenizer_config.json`, checked.

    Raises:
      ValueError: a file is not UTF-8.
      OSError: it cannot be read.
    """
    files = {DEFAULT: folder / TEMPLATE_FILE}
    if not files[DEFAULT].is_file():
        files = {}
    files |= {path.stem: path for path in sorted((folder / TEMPLATE_FOLDER).glob("*.jinja"))}
    if files:
        return {name: read_template(path) for name, path in files.items()}
    given = config.get("chat_template") or {}
    if isinstance(given, str):
        given = {DEFAULT: given}
    elif isinstance(given, list):
        given = {item["name"]: item["template"] for item in given}
    where = str(folder / "tokenizer_config.json")
    return {
        name: ChatTemplate(text, where if name == DEFAULT else f"{where} {name!r}")
        for name, text in given.items()
    }


def read_template(path: Path) -> ChatTemplate:
    """Read a template from a file.

    Raises:
      ValueError: it is not UTF-8.
      OSError: it cannot be read.
    """
    try:
        return ChatTemplate(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8: {error.reason}") from None


def choose_template(
    templates: Mapping[str, ChatTemplate],
    asked: str | ChatTemplate | None,
    folder: Path,
    *,
    cure: str = "chat_template=TEXT",
) -> ChatTemplate:
    """Return the template to use.

    Args:
      templates: the folder's, by name.
      asked: a template, its text, or the name of one of the folder's; None: the default one.
      folder: for messages.
      cure: how another template is given.

    Raises:
      ValueError: there is none, or no default one among several.
    """
    if isinstance(asked, ChatTemplate):
        return asked
    if asked is not None:
        if not isinstance(asked, str):
            raise ValueError(f"chat_template is a {type(asked).__name__}: give a template's text")
        if asked not in templates and "{" not in asked:
            names = f"none of {', '.join(templates)}" if templates else "no name of a template"
            raise ValueError(
                f"chat_template={shown(asked)} has nothing of jinja in it and is {names}: give the "
                "template's text"
            )
        return templates.get(asked) or ChatTemplate(asked, "chat_template")
    if DEFAULT in templates:
        return templates[DEFAULT]
    if templates:
        raise ValueError(
            f"{folder}: chat templates {', '.join(templates)}, and none is called {DEFAULT}: give "
            f"{cure}, one of these"
        )
    raise ValueError(
        f"{folder}: no chat template, as models for chats have: give {cure}, the jinja template "
        "that the model was trained with"
    )


def check_messages(messages: Any, name: str = "messages") -> list[dict[str, Any]]:
    """Return a conversation as a template takes it: a list of messages, the last one a user's.

    Keys without a value are left out, as in transformers: many templates take them for text.

    Raises:
      ValueError: it is something else; names the message.
    """
    if not _is_list(messages):
        raise ValueError(f"{name} is a {type(messages).__name__}: give a list: {EXAMPLE}")
    if not messages:
        raise ValueError(f"{name} is empty: give at least one message: {EXAMPLE}")
    found = []
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise ValueError(
                f"{name}[{i}] is a {type(message).__name__}, not a message: give {EXAMPLE}"
            )
        for key in ("role", "content"):
            value = message.get(key)
            if not isinstance(value, str) or (key == "role" and not value):
                kind = "nothing" if value is None else shown(value)
                raise ValueError(f"{name}[{i}]: {key} is {kind}: give a text, as in {EXAMPLE}")
        found.append({key: value for key, value in message.items() if value is not None})
    if (role := found[-1]["role"]) != "user":
        raise ValueError(
            f"{name}[{len(found) - 1}] is from {shown(role)}: the last message must be the user's, "
            "which the assistant answers"
        )
    return found


def as_conversations(messages: Any) -> list[list[dict[str, Any]]]:
    """Return one conversation, or several, as a list of checked ones.

    Raises:
      ValueError: as `check_messages`.
    """
    if _is_list(messages) and any(_is_list(item) for item in messages):
        return [check_messages(item, f"messages[{i}]") for i, item in enumerate(messages)]
    return [check_messages(messages)]


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)
