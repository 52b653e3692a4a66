"""The code in an answer: a continuation as it stands, or what a chat puts between ``` lines."""

import re
import textwrap

_FENCE = re.compile(r"^[ \t]*```[ \t]*(?P<language>[\w+.-]*)[^\n`]*$", re.MULTILINE)
_CODE = re.compile(r" {2,}|\t|@|(?:async +)?def |class |import |from \S+ import ")


def definition(code: str, name: str) -> re.Match[str] | None:
    """Return where code defines a function of that name at its top level."""
    return re.search(rf"^(?:(?:async +)?def +{name}\b|{name} *=)", code, re.MULTILINE)


def code_of(answer: str, name: str) -> str:
    """Return the code of an answer.

    Without a line of ``` that is all of it. With one, it is what stands between them: the block
    that defines the function asked for, or else the first; a block that the answer's length cut
    short counts. Where the answer begins with code, a bare ``` ends it instead.

    Args:
      answer: the text, cut at the task's stop strings.
      name: of the function asked for; "" if not known.
    """
    fences = list(_FENCE.finditer(answer))
    if not fences:
        return answer
    before = answer[: fences[0].start()]
    if not fences[0]["language"] and _CODE.match(first_line(before)):
        return before
    ends = [fence.start() for fence in fences[1:]] + [len(answer)]
    inside = [answer[a.end() + 1 : b] for a, b in zip(fences, ends, strict=True)][::2]
    blocks = [textwrap.dedent(block) for block in inside]
    return next((block for block in blocks if name and definition(block, name)), blocks[0])


def first_line(code: str) -> str:
    """Return the first line that is neither blank nor a comment; "" if there is none."""
    lines = (line for line in code.splitlines() if line.strip())
    return next((line for line in lines if not line.lstrip().startswith("#")), "")
