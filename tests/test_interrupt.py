"""Ctrl-C at any time ends a program with one line and code 130."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
BODY = {
    # More seconds than the grace: the compiler does not notice.
    "compiling": """
        long = jax.jit(lambda x: [x := jnp.sin(x @ x) + i for i in range(4000)][-1])
        long = long.lower(jnp.ones((8, 8)))
        print("begun", flush=True)
        long.compile()
        time.sleep(60)
    """,
    "in Python": """
        print("begun", flush=True)
        try:
            time.sleep(60)
        finally:
            print("tidied", flush=True)
    """,
}


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
@pytest.mark.parametrize("where", BODY)
def test_interrupt(where, tmp_path):
    body = textwrap.indent(textwrap.dedent(BODY[where]), "    ")
    code = (
        "import signal, time, jax, jax.numpy as jnp\nfrom mtad_jax import cli\n"
        # A shell's background job, which the tests may be, ignores it.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"def main(_):\n{body}\ncli.run(main, ['program', '--compilation_cache=off'])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout and process.stdout.readline() == "begun\n"
    time.sleep(1.0)
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert err == "error: interrupted\n"
    assert process.returncode == 130
    assert time.monotonic() - begin < 20
    assert out == ("tidied\n" if where == "in Python" else "")
