"""Programs that do what no answer should, each under both kinds of guard."""

import os
import stat
import time

import pytest
from sandboxes import both, kernel, run

from experiments.tasks.code_execution import Outcome

GOOD = {
    "plain": "finished = True",
    "prints": "print('x' * 10_000_000); finished = True",
    "closes its output": "import os; os.closerange(0, 3); finished = True",
    "reads no input": "import sys; finished = sys.stdin.read() == ''",
    "writes into its folder": (
        "import os, tempfile\n"
        "with open('a', 'w') as file: file.write('a')\n"
        "os.mkdir('b'); os.rename('a', 'b/c')\n"
        "with tempfile.TemporaryDirectory() as other: open(other + '/d', 'w').close()\n"
        "finished = os.listdir('.') == ['b'] and open('b/c').read() == 'a'"
    ),
    "uses the standard library": (
        "import collections, dataclasses, hashlib, heapq, itertools, math, re, typing\n"
        "@dataclasses.dataclass\nclass Point:\n    x: 'int' = 0\n"
        "finished = Point() == Point(0) and hashlib.md5(b'').hexdigest().startswith('d41d')"
    ),
    "uses the devices that all may": (
        "with open('/dev/null', 'w') as file: file.write('a')\n"
        "with open('/dev/zero', 'rb') as file: zeros = file.read(4)\n"
        "with open('/dev/urandom', 'rb') as file: finished = file.read(4) and not any(zeros)"
    ),
    "has a main of its own": "finished = True\nif __name__ == '__main__': raise SystemExit('ran')",
}  # fmt: skip


@both
@pytest.mark.parametrize("name", GOOD)
def test_a_good_program_passes(name, kind):
    assert run(GOOD[name], kind) == Outcome("passed", "")


BAD = {
    "wrong": ("finished = False", "failed", "AssertionError"),
    "no Python": ("def f(:", "failed", "SyntaxError"),
    "swallows the tests": ("finished = True\nx = '''", "failed", "SyntaxError"),
    "null byte": ("finished = True\0", "failed", "null bytes"),
    "half a surrogate": ("finished = '\ud800'", "failed", "UnicodeEncodeError"),
    "os._exit": ("import os; os._exit(0)", "died", "status 0 before"),
    "sys.exit": ("import sys; sys.exit(0)", "failed", "SystemExit: 0"),
    "SystemExit later": (
        "class Finished:\n    def __bool__(self): raise SystemExit\nfinished = Finished()",
        "failed",
        "SystemExit",
    ),
    "KeyboardInterrupt": ("raise KeyboardInterrupt", "failed", "KeyboardInterrupt"),
    "says that it passed": (
        "import os\nfor d in range(20):\n"
        "    try: os.write(d, b'[\"passed\", \"\"]')\n    except OSError: pass\nos._exit(0)",
        "died",
        "status 0",
    ),
    "closes all": ("import os; os.closerange(0, 64); finished = True", "died", "status"),
    "an error that cannot be printed": (
        "class E(Exception):\n    def __str__(self): raise E\nraise E",
        "failed",
        "E",
    ),
    "an endless error": ("raise ValueError('x' * 1_000_000)", "failed", "ValueError: xxx"),
    "recursion": ("def f(): f()\nf()", "failed", "RecursionError"),
    "crashes": ("import faulthandler; faulthandler._sigsegv()", "died", "signal 11"),
    "memory": ("x = bytearray(4 << 30)", "failed", "MemoryError"),
    "memory, bit by bit": ("x = []\nwhile True: x.append(bytes(1 << 20))", "failed", "MemoryError"),
    "fork": ("import os\nwhile True: os.fork()", "failed", "PermissionError: os.fork"),
    "subprocess": ("import subprocess; subprocess.run(['true'])", "failed", "subprocess.Popen"),
    "system": ("import os; os.system('true')", "failed", "os.system"),
    "multiprocessing": (
        "import multiprocessing as m; m.Process(target=print).start()", "failed", "Error",
    ),
    "kills its parent": ("import os; os.kill(os.getppid(), 9)", "failed", "os.kill"),
    "kills all": ("import os; os.kill(-1, 9)", "failed", "os.kill"),
    "socket": ("import socket; socket.create_connection(('1.1.1.1', 53), 1)", "failed", "Error"),
    "download": (
        "import urllib.request as u; u.urlopen('http://127.0.0.1:1', timeout=1)", "failed", "Error",
    ),
    "large file": (
        "file = open('a', 'wb', buffering=0)\nwhile True: file.write(bytes(1 << 20))",
        "failed", "File too large",
    ),
    "many open files": ("x = []\nwhile True: x.append(open('/dev/null'))", "failed", "Too many"),
}  # fmt: skip


@both
@pytest.mark.parametrize("name", BAD)
def test_a_bad_program_does_not_pass(name, kind):
    program, verdict, reason = BAD[name]
    outcome = run(program, kind)
    assert outcome.verdict == verdict and reason in outcome.reason, outcome
    assert not outcome.passed and len(outcome.reason) < 400 and "\n" not in outcome.reason


SLOW = {
    "loops": "while True: pass",
    "sleeps": "import time; time.sleep(100)",
    "ignores signals": (
        "import signal\nfor number in range(1, 64):\n"
        "    try: signal.signal(number, signal.SIG_IGN)\n    except (OSError, ValueError): pass\n"
        "while True: pass"
    ),
    "catches all": "while True:\n    try:\n        while True: pass\n"
    "    except BaseException: pass",
    "fills the report": "import os\nfor d in range(3, 20):\n"
    "    try:\n        while True: os.write(d, bytes(4096))\n    except OSError: pass\n"
    "while True: pass",
    "an error without end": "class E(Exception):\n    def __str__(self):\n"
    "        while True: pass\nraise E",
    "leaves its session": "import os\ntry: os.setsid()\nexcept OSError: pass\nwhile True: pass",
}


@pytest.mark.slow
@both
@pytest.mark.parametrize("name", SLOW)
def test_a_program_without_end_is_ended(name, kind):
    start = time.monotonic()
    outcome = run(SLOW[name], kind, seconds=0.3)
    assert outcome.verdict == "timed out" and "0.3 s" in outcome.reason, outcome
    assert time.monotonic() - start < 5


CHANGES = {
    "open": "open({!r}, 'a')",
    "os.open": "os.open({!r}, os.O_WRONLY | os.O_CREAT)",
    "remove": "os.remove({!r})",
    "rename": "os.rename({!r}, 'a')",
    "chmod": "os.chmod({!r}, 0)",
    "utime": "os.utime({!r}, (0, 0))",
    "truncate": "os.truncate({!r}, 0)",
    "path": "__import__('pathlib').Path({!r}).write_text('')",
    "link": "os.symlink({!r}, 'a'); open('a', 'w')",
    "database": "__import__('sqlite3').connect({!r}).execute('CREATE TABLE a (b)')",
}


@both
@pytest.mark.parametrize("name", CHANGES)
def test_nothing_outside_of_the_folder_is_changed(name, kind, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"")
    tmp_path.chmod(0o777)
    file.chmod(0o666)
    before = file.stat()
    outcome = run("import os\n" + CHANGES[name].format(str(file)) + "\nfinished = True", kind)
    assert outcome.verdict == "failed", outcome
    assert file.stat()[:9] == before[:9] and list(tmp_path.iterdir()) == [file]


@kernel
def test_no_process_of_the_machine_is_listed(kind):
    program = (
        "import glob\nfound = glob.glob('/proc/[0-9]*/cmdline') + glob.glob('/proc/self/*')\n"
        "assert not found, len(found)\nfinished = True"
    )
    assert run(program, kind) == Outcome("passed", "")


@kernel
def test_no_device_is_opened_but_those_that_all_may(kind):
    program = (
        "import os, stat\nopened = []\n"
        "for folder, _, names in os.walk('/dev'):\n"
        "    for path in (f'{folder}/{name}' for name in names):\n"
        "        mode = os.lstat(path).st_mode\n"
        "        if not (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)): continue\n"
        "        for way in (os.O_RDONLY, os.O_WRONLY):\n"
        "            try: os.close(os.open(path, way | os.O_NONBLOCK | os.O_NOCTTY))\n"
        "            except OSError: continue\n"
        "            opened.append(path)\n"
        "opened = set(opened) - {'/dev/null', '/dev/zero', '/dev/random', '/dev/urandom'}\n"
        "assert not opened, sorted(opened)\nfinished = True"
    )
    assert run(program, kind) == Outcome("passed", "")


@kernel
def test_a_device_outside_of_dev_is_not_opened(kind, tmp_path):
    node = tmp_path / "full"
    try:
        os.mknod(node, 0o666 | stat.S_IFCHR, os.makedev(1, 7))
        node.chmod(0o666)
        node.open("r+b", buffering=0).close()
    except OSError:
        pytest.skip("no device can be made here")
    outcome = run(f"open({str(node)!r}, 'wb')\nfinished = True", kind)
    assert outcome.verdict == "failed" and "PermissionError" in outcome.reason, outcome
