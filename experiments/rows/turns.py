"""A conversation turn by turn: lines of a terminal, or of any stdin."""

import sys
from collections.abc import Callable, Iterator

from experiments.flags.chat import Chat
from mtad_jax.completions import Completion
from mtad_jax.pipeline import Pipeline

END, ANEW = "/exit", "/new"


def converse(
    pipe: Pipeline,
    chat: Chat,
    check: Callable[[list[int]], None],
    answer: Callable[[list[int]], Completion | None],
) -> int:
    """Answer the user's lines until there is no more, and return the exit code.

    A turn that cannot be answered, because the conversation does not fit into the model's
    positions or its template refuses it, is told of on stderr and taken back.

    Args:
      pipe: the models.
      chat: how the conversation begins, and becomes text.
      check: raises ValueError where these ids cannot be continued.
      answer: continues them, shows the text meanwhile, and returns it; None: nobody reads it.

    Returns:
      0, or 1 where a turn was not answered.

    Raises:
      ValueError: no turn at all could be answered, and why.
    """

    def encode(said: list[dict[str, str]]) -> list[int]:
        ids = pipe.encode_chat(said, chat_template=chat.template)
        check(ids)
        return ids

    encode([*chat.begin(), {"role": "user", "content": "?"}])
    messages, code = chat.begin(), 0
    for line in read_turns():
        if line == ANEW:
            messages = chat.begin()
            continue
        asked = [*messages, {"role": "user", "content": line}]
        try:
            ids = encode(asked)
        except ValueError as error:
            cure = f"say it otherwise, begin again by {ANEW}, or end by {END}"
            print(f"error: no answer: {error}; {cure}", file=sys.stderr, flush=True)
            code = 1
            continue
        row = answer(ids)
        if row is None:
            return code
        messages = [*asked, {"role": "assistant", "content": row.text}]
    return code


def read_turns() -> Iterator[str]:
    """Give the user's lines until the end of stdin, an empty line or `END`."""
    terminal = sys.stdin.isatty()
    if terminal:
        print(f"[{ANEW} begins again; an empty line or {END} ends]", file=sys.stderr)
    while True:
        if terminal:
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline().strip()
        if line in ("", END):
            return
        yield line
