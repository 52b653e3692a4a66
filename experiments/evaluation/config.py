"""The config of an evaluation, checked; and what it asks."""

import shlex
from collections.abc import Mapping
from typing import Any

from configs.eval.base import default_config
from experiments.tasks.base import Task
from experiments.tasks.registry import make_task, setting_types
from mtad_jax.checkpoints.pair import exit_layers

STYLES = ("plain", "chat")


def check_config(config: Any) -> None:
    """Check a config's own numbers; what needs tasks, rules or models is checked with them.

    Raises:
      ValueError: a field that there is not, or a value out of range.
    """
    known = default_config()
    for field in config:
        if field not in known:
            raise ValueError(f"config.{field}: there is no such field: {', '.join(known)}")
    for field in known:
        if field not in config:
            raise ValueError(
                f"config.{field} is missing: begin with configs.eval.base.default_config()"
            )
    for field, least in (("batch_size", 1), ("samples", 1), ("max_new_tokens", 0), ("seed", 0)):
        if config[field] < least:
            raise ValueError(f"config.{field}={config[field]} must be >= {least}")
    if config.style not in STYLES:
        raise ValueError(f"config.style={config.style} must be one of {', '.join(STYLES)}")
    if config.idle_seconds < 0:
        raise ValueError(f"config.idle_seconds={config.idle_seconds} must be >= 0")
    if config.draft and not config.target and exit_layers(config.draft) is None:
        raise ValueError(f"config.draft={config.draft} needs config.target: give both or neither")


def read_tasks(config: Any, *, allow_code: bool) -> dict[str, Task]:
    """Return the tasks by the name that their folder gets.

    Args:
      config: of the run.
      allow_code: whether code that the model wrote may be run; tasks that do so have a setting
        `allow_code_execution`.

    Raises:
      ValueError: as `make_task`; no task, or one name twice.
      FileNotFoundError: a task's file is missing.
    """
    lines = (config.task,) if config.task else tuple(config.tasks)
    if not lines:
        raise ValueError("no tasks: give config.tasks or --config.task='tinysql questions=60'")
    found: dict[str, Task] = {}
    for line in lines:
        settings = parse_task(line.replace("{data_dir}", config.data_dir or "."))
        if allow_code and "allow_code_execution" in setting_types(str(settings["task"])):
            settings["allow_code_execution"] = True
        task = make_task(settings)
        if task.name in found:
            raise ValueError(f"task {task.name} twice: give it once a run")
        found[task.name] = task
    return found


def parse_task(line: str) -> dict[str, Any]:
    """Return the settings of `make_task` that a line `NAME key=value ...` says.

    Raises:
      ValueError: no such task or setting, or a value that is not of its kind.
    """
    try:
        name, *words = shlex.split(line) or [""]
    except ValueError as error:
        raise ValueError(f"task {line!r}: {error}") from error
    types: Mapping[str, type] = setting_types(name)
    settings: dict[str, Any] = {"task": name}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"task {line!r}: {word!r} is no key=value")
        if key not in types:
            known = ", ".join(types) or "none"
            raise ValueError(f"task {name}: it has no setting {key!r}; its settings: {known}")
        settings[key] = _read(name, key, value, types[key])
    return settings


def _read(name: str, key: str, value: str, kind: type) -> Any:
    """Return a setting's value."""
    try:
        if kind is bool:
            return {"true": True, "false": False}[value.lower()]
        return kind(value)
    except (KeyError, ValueError) as error:
        wanted = {bool: "true or false", int: "a whole number", float: "a number"}[kind]
        raise ValueError(f"task {name}: {key}={value} must be {wanted}") from error
