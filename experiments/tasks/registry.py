"""Tasks by name."""

import dataclasses
import importlib
import typing
from collections.abc import Mapping
from typing import Any

from experiments.tasks.base import Task

TASKS = {
    "tinysql": "experiments.tasks.tinysql:TinySQL",
    "tales": "experiments.tasks.plain_text:Tales",
    "text": "experiments.tasks.plain_text:PlainText",
    "spider": "experiments.tasks.spider:Spider",
    "humaneval": "experiments.tasks.humaneval:HumanEval",
    "mbpp": "experiments.tasks.mbpp:MBPP",
    "gsm8k": "experiments.tasks.gsm8k:GSM8K",
    "mt_bench": "experiments.tasks.chats:MTBench",
    "spec_bench": "experiments.tasks.chats:SpecBench",
    "chat_alpaca": "experiments.tasks.chats:ChatAlpaca",
    "xquad": "experiments.tasks.xquad:XQuAD",
    "summaries": "experiments.tasks.summaries:Summaries",
}
"""Where each task lies; imported when it is first asked for."""


def make_task(settings: Mapping[str, Any]) -> Task:
    """Return the task that a config's entry describes.

    Args:
      settings: `task`, its name or `module:Class`, and what else the class takes.

    Raises:
      ValueError: no such task; a setting that it does not have, or whose value it refuses.
      FileNotFoundError: a file that it reads is missing.
    """
    given = dict(settings)
    if "task" not in given:
        raise ValueError(f"a task without a name: give task=, one of {', '.join(TASKS)}")
    name = str(given.pop("task"))
    kind, fields = _find(name), setting_types(name)
    for key in given:
        if key not in fields:
            known = ", ".join(fields) or "none"
            raise ValueError(f"task {name}: it has no setting {key!r}; its settings: {known}")
    try:
        return kind(**given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"task {name}: {error}") from error


def setting_types(name: str) -> dict[str, type]:
    """Return the settings of a task, each bool, int, float or str; of `int | None` int.

    Raises:
      ValueError: no such task.
    """
    kind = _find(name)
    hints = typing.get_type_hints(kind)
    found = {}
    for field in dataclasses.fields(kind):
        options = typing.get_args(hints[field.name]) or (hints[field.name],)
        text = [option for option in options if option in (bool, int, float, str)]
        if field.init:
            found[field.name] = text[0] if text else str
    return found


def _find(name: str) -> Any:
    """Return the class of a task.

    Raises:
      ValueError: there is none.
    """
    place = TASKS.get(name, name)
    module, colon, attribute = place.partition(":")
    if not colon:
        raise ValueError(f"no task {name!r}: give {', '.join(TASKS)}, or module:Class")
    try:
        kind = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"task {name}: {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, Task) and dataclasses.is_dataclass(kind)):
        raise ValueError(f"task {name}: {attribute} is no dataclass of experiments.tasks.base.Task")
    return kind
