"""What `--help` prints: a program's flags by topic, at the width of the terminal.

A flag's topic is `HELP_TOPIC` of the module that defines it; flags of a module without one are the
program's own, and come first. Flags of libraries, of logging and the like, are left out.
"""

import shutil
import sys
import textwrap

from absl import flags

_WIDEST, _NARROWEST = 100, 40
_COLUMN = 26  # where meanings begin; a longer name has them on the next line
_LIBRARIES = ("absl", "orbax")
_REPEAT = "; repeat this option to specify a list of values"  # absl appends it
_SHOWN_TYPES = {
    "int": "N",
    "float": "X",
    "string": "TEXT",
    "comma separated list of strings": "A,B,...",
    "multi string": "TEXT",
}


def help_text(values: flags.FlagValues, about: str, width: int | None = None) -> str:
    """Return the help of a program.

    Args:
      values: its flags.
      about: what it does; paragraphs are wrapped anew.
      width: most columns of a line; None: the terminal's. A longer name is never broken.
    """
    if width is None:
        width = shutil.get_terminal_size().columns
    width = min(max(width, _NARROWEST), _WIDEST)
    parts = [_wrapped(part, width) for part in about.strip().split("\n\n")]
    for topic, found in _by_topic(values).items():
        parts.append("\n".join([f"{topic}:", *(_flag_lines(flag, width) for flag in found)]))
    return "\n\n".join(parts) + "\n"


def _by_topic(values: flags.FlagValues) -> dict[str, list[flags.Flag]]:
    """Return the flags under their topics, in the order in which they were defined."""
    own, others = "Flags", dict[str, list[flags.Flag]]()
    for name, found in values.flags_by_module_dict().items():
        if name.partition(".")[0] not in _LIBRARIES:
            topic = getattr(sys.modules.get(name), "HELP_TOPIC", own)
            # One that another flag has replaced is no longer there.
            others.setdefault(topic, []).extend(f for f in found if values[f.name] is f)
    return {own: others.pop(own, []), **others} if own in others else others


def _flag_lines(flag: flags.Flag, width: int) -> str:
    """Return a flag, what it takes, what it means and its default."""
    name = f"  --[no]{flag.name}" if flag.boolean else f"  --{flag.name}={_taken(flag)}"
    meaning = " ".join((flag.help or "").split()).removesuffix(_REPEAT)
    if isinstance(flag, flags.EnumFlag):  # absl puts all values in front, without a space
        meaning = meaning.removeprefix(f"<{'|'.join(flag.parser.enum_values)}>: ")
        if _taken(flag) == "NAME":
            meaning += f" One of {', '.join(flag.parser.enum_values)}."
    if flag.default not in (None, "", []) and not flag.boolean and "efault:" not in meaning:
        meaning += f" Default: {str(flag.default_as_str).strip(chr(39))}."
    indent = " " * min(_COLUMN, width // 3)
    lines = _wrapped(meaning, width, indent).splitlines() or [""]
    if len(name) >= len(indent):
        return "\n".join([name, *lines]).rstrip()
    lines[0] = name.ljust(len(indent)) + lines[0].lstrip()
    return "\n".join(lines)


def _taken(flag: flags.Flag) -> str:
    """Return what stands for a flag's value."""
    if isinstance(flag, flags.EnumFlag):
        values = "|".join(flag.parser.enum_values)
        return values if len(values) <= 20 else "NAME"
    return _SHOWN_TYPES.get(flag.flag_type(), "NAME")


def _wrapped(text: str, width: int, indent: str = "") -> str:
    """Return text in lines, broken at spaces only."""
    return textwrap.fill(
        " ".join(text.split()), width, initial_indent=indent, subsequent_indent=indent,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
