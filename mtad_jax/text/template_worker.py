"""Renders chat templates in a process of its own; `mtad_jax.text.template_process` starts it.

A template comes with a checkpoint, from anywhere. Jinja's sandbox keeps it from Python and from
files, not from running forever or filling the memory: one operation (`'a' * 10**10`, `2 ** 10**9`)
is enough, and nothing inside the process can end it. The system can. So this file is run as it is,
by whichever Python runs the parent, and imports nothing of the package.

A request and its answer are a line of JSON each: {"source", "variables", "seconds"}; {"text"}, or
{"error", "line"}.

Source: the environment is that of transformers 5 (`_compile_jinja_template`), so that texts are
the same.
"""

import contextlib
import datetime
import functools
import json
import signal
import sys
import types
from typing import Any

MEMORY_MIB = 512
MOST_CHARACTERS = 1 << 24
"""More than a prompt of a million tokens has."""

_NAME = "<template>"  # what jinja calls a template that is no file
_KEPT = 8  # compiled templates
_LONGER_S = 5  # than the parent waits: the process ends itself where the parent was killed


def serve() -> None:
    """Answer requests on stdin until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    _limit_process()
    alarm = getattr(signal, "alarm", lambda seconds: None)  # not on Windows
    for line in sys.stdin.buffer:
        request = json.loads(line)
        alarm(int(request["seconds"]) + _LONGER_S)
        print(json.dumps(answer(request)), flush=True)
        alarm(0)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Render one template, or say why that is not possible and in which line of it."""
    try:
        text = _compiled(request["source"]).render(request["variables"])
    except Exception as error:  # whatever a template brings about is its own fault
        return {"error": _message(error), "line": _line(error)}
    if len(text) > MOST_CHARACTERS:
        most = f"{MOST_CHARACTERS:,}"
        return {"error": f"a text of {len(text):,} characters: the most is {most}", "line": None}
    return {"text": text}


def _limit_process() -> None:
    """Bound what a template can take up, and that it can write no file, where systems can."""
    try:
        import resource
    except ImportError:  # Windows
        return
    limits = {"RLIMIT_AS": MEMORY_MIB << 20, "RLIMIT_FSIZE": 0, "RLIMIT_CORE": 0}
    for name, most in limits.items():
        with contextlib.suppress(ValueError, OSError, AttributeError):  # macOS refuses RLIMIT_AS
            resource.setrlimit(getattr(resource, name), (most, most))


@functools.lru_cache(_KEPT)
def _compiled(source: str) -> Any:
    """Compile a template."""
    return _environment().from_string(source)


@functools.cache
def _environment() -> Any:
    """Return jinja's environment; here, so that this module imports without jinja2."""
    import jinja2
    from jinja2 import ext, nodes, sandbox, utils

    class Generation(ext.Extension):
        """The tag around an assistant's words, by which training masks its loss."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    class Namespace(utils.Namespace):
        """Without names that Python gives a meaning."""

        def __init__(*args: Any, **values: Any) -> None:
            for name in dict(*args[1:], **values):
                check_name(name)
            utils.Namespace.__init__(*args, **values)

        def __setitem__(self, name: str, value: Any) -> None:
            check_name(name)
            super().__setitem__(name, value)

    def check_name(name: object) -> None:
        if str(name).startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a namespace cannot hold {name!r}: rename it")

    def raise_exception(message: object) -> None:
        raise jinja2.TemplateError(str(message))

    found = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols]
    )
    found.filters["tojson"] = _to_json
    found.globals |= {
        "raise_exception": raise_exception,
        "strftime_now": lambda form: datetime.datetime.now().strftime(form),
        "dict": _Dict(),  # not the class, whose methods could change what they are given
        "namespace": Namespace,
    }
    return found


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return JSON for a prompt; jinja's own filter is for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


class _Dict:
    """What `dict` is to a template."""

    def __call__(self, *args: Any, **values: Any) -> dict:
        return dict(*args, **values)

    def fromkeys(self, *args: Any) -> dict:
        """Return a dictionary of these keys, all with one value."""
        return dict.fromkeys(*args)


def _message(error: Exception) -> str:
    """Return what went wrong; of jinja's own errors the message says all."""
    import jinja2

    if isinstance(error, MemoryError):
        return f"more than {MEMORY_MIB} MiB of memory"
    if isinstance(error, jinja2.TemplateError):
        return str(error.message or "") or type(error).__name__
    return f"{type(error).__name__}: {error}"


def _line(error: Exception) -> int | None:
    """Return the line of the template where it happened, if known."""
    found = getattr(error, "lineno", None)
    trace: types.TracebackType | None = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == _NAME:
            found = trace.tb_lineno
        trace = trace.tb_next
    return found
