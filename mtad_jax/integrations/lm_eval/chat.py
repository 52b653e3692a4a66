"""A conversation of lm_eval as text, by the chat template of the model's folder."""

from collections.abc import Sequence

from mtad_jax.checkpoints.load import LoadedModel
from mtad_jax.text.chat import ChatTemplate, Message, choose_template


def read_template(model: LoadedModel, name: str | None = None) -> str:
    """Return a model's chat template.

    Args:
      model: whose folder was looked into.
      name: of one among several; None: the default one.

    Raises:
      ValueError: there is none, or none of that name.
    """
    templates = model.tokenizer.chat_templates if model.tokenizer else {}
    if name is not None and name not in templates:
        there = ", ".join(templates) or "none"
        raise ValueError(
            f"{model.folder}: no chat template {name!r} (there are: {there}): leave "
            "--apply_chat_template out, or name one"
        )
    return choose_template(templates, name, model.folder).source


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
      ValueError: the template is wrong, refuses the conversation, or takes too long.
    """
    tokens = model.tokenizer.special_tokens if model.tokenizer else {}
    chosen = ChatTemplate(template, str(model.folder))
    text = chosen.render(messages, tokens, {"add_generation_prompt": generation_prompt})
    if generation_prompt:
        return text
    content = messages[-1]["content"]
    end = text.rfind(content.strip())
    if end < 0:
        raise ValueError(
            f"{model.folder}: the chat template changes the last message: it cannot go on"
        )
    end += len(content.strip())
    spaces = content[len(content.rstrip()) :]  # some templates trim
    return text[:end] + (spaces if text.startswith(spaces, end) else "")
