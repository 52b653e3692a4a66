"""Recipes by name, also those of other packages, and what settings they have.

A recipe is any callable that returns a `Strategy`: a function of `mtad_jax.recipes`, one of any
importable module (`module:name`), or the class of a strategy. Its signature says what the settings
are, the `Args:` (or `Attributes:`) section of its docstring what they mean; no table repeats it.
"""

import dataclasses
import importlib
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Callable
from typing import Any

from mtad_jax.decode.arguments import is_strategy
from mtad_jax.decode.protocols import Strategy
from mtad_jax.errors import one_line
from mtad_jax.recipes import RECIPES

_TYPES = (bool, int, float, str)
_RENAMED = {"draft": "draft_kind"}
_SECTION = re.compile(r"^(?:Args|Attributes):\n((?:[ \t]+\S.*(?:\n|$)|[ \t]*\n)+)", re.MULTILINE)
_ITEM = re.compile(r"^(\w+(?:, \w+)*)(?: \([^)]*\))?: *(.*(?:\n[ \t]+.*)*)", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Setting:
    """A parameter of a recipe that can be written as text.

    Attributes:
      name: of the parameter.
      type: bool, int, float, str, or tuple for `tuple[int, ...]`.
      meaning: what the docstring says of it; "" where it says nothing.
      required: whether it has no default.
    """

    name: str
    type: type
    meaning: str
    required: bool

    def read(self, text: str) -> Any:
        """Return the value that a text such as `4`, `0.5`, `true` or `4,2,2` means.

        Raises:
          ValueError: it is none of the setting's type.
        """
        try:
            if self.type is bool:
                return {"true": True, "false": False}[text.lower()]
            if self.type is tuple:
                return tuple(int(item) for item in text.split(","))
            return self.type(text)
        except (KeyError, ValueError) as error:
            kind = {bool: "true or false", int: "a whole number", float: "a number"}
            wanted = kind.get(self.type, "whole numbers, e.g. 4,2,2")
            raise ValueError(f"{self.name}={text} must be {wanted}") from error


def flag_of(setting: str) -> str:
    """Return what a setting is called among the settings of a run: its own name, but for `draft`.

    There `draft` is the draft model.
    """
    return _RENAMED.get(setting, setting)


def find(name: str) -> Callable[..., Strategy]:
    """Return the recipe of a name: one of `RECIPES`, or `module:name` of any importable module.

    Raises:
      ValueError: there is none, or its module cannot be imported.
    """
    if ":" not in name:
        if name not in RECIPES:
            raise ValueError(
                f"no rule {name!r}: there are {', '.join(RECIPES)}, and module:name for your own"
            )
        return RECIPES[name]
    module, _, attribute = name.partition(":")
    try:
        found: Any = getattr(importlib.import_module(module), attribute, None)
    except Exception as error:  # whatever another's module does when it is imported
        what = f"{type(error).__name__}: {one_line(error)}"
        raise ValueError(f"{name}: importing {module!r} failed: {what}") from error
    if found is None or not callable(found):
        what = "no such name" if found is None else f"a {type(found).__name__} there"
        raise ValueError(f"{name}: {module} has {what}: name a function that returns a Strategy")
    return typing.cast(Callable[..., Strategy], found)


def make(name: str, /, **settings: Any) -> Strategy:
    """Return the strategy `find(name)(**settings)`.

    Raises:
      ValueError: there is no such recipe, it refuses its settings, or returns something else.
    """
    found = find(name)(**settings)
    if not is_strategy(found):
        raise ValueError(f"{name} returns a {type(found).__name__}: a recipe returns a Strategy")
    return found


def settings_of(recipe: Callable[..., Any]) -> dict[str, Setting]:
    """Return a recipe's settings by name, in the order of its signature.

    Types are those of the annotations, or of the defaults where there is none; `None` is allowed
    beside a type (`int | None`). A parameter with a default of another type is no setting.

    Raises:
      ValueError: it has no signature, or a parameter without a default has a type that no text
        can give.
    """
    try:
        parameters = inspect.signature(recipe, eval_str=True).parameters
    except (NameError, TypeError, ValueError) as error:
        raise ValueError(f"its signature cannot be read: {one_line(error)}") from error
    meanings, found = _meanings(inspect.getdoc(recipe) or ""), {}
    for name, parameter in parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        required = parameter.default is parameter.empty
        kind = _type_of(parameter)
        if kind is not None:
            found[name] = Setting(name, kind, meanings.get(name, ""), required)
        elif required:
            raise ValueError(
                f"its parameter {name} must be annotated as int, float, bool, str or "
                "tuple[int, ...], or have a default"
            )
    return found


def _type_of(parameter: inspect.Parameter) -> type | None:
    """Return the type of a setting; None: no text can give it."""
    kind = parameter.annotation
    if kind is parameter.empty:
        kind = type(parameter.default)
    union = isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union
    for option in typing.get_args(kind) if union else (kind,):
        if option in _TYPES:
            return option
        if option is tuple or typing.get_origin(option) is tuple:
            return tuple if set(typing.get_args(option)) <= {int, ...} else None
    return None


def _meanings(doc: str) -> dict[str, str]:
    """Return what a docstring says of each argument, on one line each."""
    section = _SECTION.search(doc)
    if section is None:
        return {}
    items = _ITEM.findall(textwrap.dedent(section[1]))
    return {name: " ".join(text.split()) for names, text in items for name in names.split(", ")}
