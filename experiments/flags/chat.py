"""Flags of chats: prompts are what a user says, and a template makes the model's text of it."""

import dataclasses
import hashlib
from importlib import resources
from pathlib import Path
from typing import Any

from absl import flags

from experiments.rows.prompts import Messages, Prompt
from mtad_jax.text.chat import ChatTemplate, choose_template, read_template, read_templates
from mtad_jax.text.settings import read_settings

HELP_TOPIC = "Chats"


@dataclasses.dataclass(frozen=True)
class Chat:
    """How conversations begin, and become text.

    Attributes:
      system: the system message in front; "" for none.
      template: of --chat_template; None: the target's own.
    """

    system: str
    template: ChatTemplate | None

    def begin(self) -> Messages:
        """Return the messages before a user's first."""
        return [{"role": "system", "content": self.system}] if self.system else []

    def conversation(self, prompt: Prompt) -> Prompt:
        """Return a prompt of text, or of a conversation, as a conversation with its system message.

        Raises:
          ValueError: it is empty, or has a system message of its own beside --system; names it.
        """
        said: Any = prompt.value
        if not said:
            raise ValueError(f"{prompt.source}: the prompt is empty: give what the user says")
        if isinstance(said, str):
            said = [{"role": "user", "content": said}]
        if self.system and any(message["role"] == "system" for message in said):
            raise ValueError(
                f"{prompt.source}: has a system message of its own: leave it or --system out"
            )
        return dataclasses.replace(prompt, value=[*self.begin(), *said])

    def facts(self) -> dict[str, Any]:
        """Return what texts depend on, as a run's settings hold it."""
        source = None if self.template is None else self.template.source.encode()
        digest = None if source is None else hashlib.sha256(source).hexdigest()
        return {"chat": True, "system": self.system, "chat_template_sha256": digest}


def define_chat_flags(values: flags.FlagValues) -> None:
    """Define whether prompts are messages, and what is around them."""
    text = flags.DEFINE_string
    flags.DEFINE_bool(
        "chat", False, "Prompts are what a user says, put as the model's chat template has it. "
        "Without a prompt: a conversation, turn by turn, until an empty line or /exit.",
        flag_values=values,
    )  # fmt: skip
    text("system", None, "System message of every conversation, with --chat.", flag_values=values)
    text(
        "chat_template", None, "File with the jinja template, with --chat. Default: the target's.",
        flag_values=values,
    )  # fmt: skip


def read_chat(values: flags.FlagValues) -> Chat | None:
    """Return what the flags ask for; None without --chat.

    No weights are read before it is known that there is a template.

    Raises:
      ValueError: flags that need --chat; no template.
      OSError: the template's file cannot be read.
    """
    if not values.chat:
        for name in ("system", "chat_template"):
            if values[name].value is not None:
                raise ValueError(f"--{name} needs --chat: give it or leave --{name} out")
        return None
    if values.prompt_ids is not None:
        raise ValueError("--prompt_ids are taken as they are: give --chat a --prompt instead")
    if values.system == "":
        raise ValueError("--system= is empty: give the system message, or leave it out")
    template = None
    if values.chat_template is not None:
        template = read_template(Path(values.chat_template))
    elif values.target is not None:
        _check_template(Path(values.target))
    else:
        with resources.as_file(resources.files("mtad_jax") / "assets" / "target") as shipped:
            _check_template(shipped)
    return Chat(values.system or "", template)


def _check_template(folder: Path) -> None:
    """Raise ValueError where a folder has no template; that it is missing is said elsewhere."""
    if folder.is_dir():
        found = read_templates(folder, read_settings(folder).flags)
        choose_template(found, None, folder, cure="--chat_template=FILE")
