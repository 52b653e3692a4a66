"""What the kernel refuses, what is left afterwards, and what is said where nothing can be run."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from sandboxes import HOOK, both, kernel, run

from experiments.tasks import code_execution
from experiments.tasks.code_execution import Outcome, check_allowed, isolation, run_program

LIBC = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"


def processes(word: str) -> list[str]:
    """Return the command lines with a word in them."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return [line for line in found if word in line]


@kernel
@pytest.mark.parametrize("place", ["/dev/shm", "/tmp", "/var/tmp", "/"])
def test_no_folder_of_the_system_can_be_written(place, kind):
    program = f"{LIBC}finished = libc.creat(b'{place}/evil', 0o600) == -1"
    assert run(program, kind).passed
    assert not Path(place, "evil").exists()


@kernel
def test_the_kernel_refuses_what_the_hook_does_not_see(kind):
    """A program that calls the C library itself."""
    address = "b'\\x02\\0\\0\\x35\\x01\\x01\\x01\\x01' + bytes(8)"
    refused = {
        "fork": f"{LIBC}finished = libc.fork() == -1",
        "connect": f"{LIBC}socket = libc.socket(2, 1, 0)\n"
        f"finished = libc.connect(socket, {address}, 16) == -1",
        "mount": f"{LIBC}finished = libc.mount(b'none', b'/', None, 32 | 4096, None) == -1",
        "umount": f"{LIBC}finished = libc.umount2(b'.', 2) == -1",
        "kill 1": f"{LIBC}libc.kill(1, 9); finished = True",
        "kill all": f"{LIBC}libc.kill(-1, 9); finished = True",
        "see others": f"{LIBC}finished = all(libc.kill(p, 0) for p in ({os.getpid()}, 50, 1000))",
        "new namespaces": f"{LIBC}libc.unshare(0x10020000)\n"
        "finished = libc.mount(b'none', b'/', None, 32 | 4096, None) == -1",
        "sockets of services": "import os; finished = os.listdir('/run') == []",
        "limits": "import resource as r\ntry: r.setrlimit(r.RLIMIT_NPROC, (9, 9))\n"
        "except ValueError: finished = True",
    }
    for name, program in refused.items():
        assert run(program, kind) == Outcome("passed", ""), name


@kernel
def test_no_threads_start(kind):
    outcome = run("import threading; threading.Thread(target=print).start()", kind)
    assert outcome == Outcome("failed", "RuntimeError: can't start new thread")


@kernel
def test_the_folder_is_bounded(kind):
    program = (
        "i = 0\nwhile True:\n    with open(str(i), 'wb') as file: file.write(bytes(1 << 20))\n"
        "    i += 1"
    )
    outcome = run(program, kind)
    assert outcome.verdict == "failed" and "No space left" in outcome.reason, outcome


@both
def test_what_a_program_leaves_is_killed(kind):
    """Started past the hook, in a session of its own; the kernel refuses even that to others."""
    if kind == HOOK and sys.platform != "linux":
        pytest.skip("orphans can be adopted on Linux only")
    seconds = str(60_000 + os.getpid() % 10_000)
    program = (
        "import subprocess, sys\n"
        "class Quiet:\n"
        "    audit = staticmethod(lambda *_: None)\n"
        "    def __getattr__(self, name): return getattr(sys, name)\n"
        "subprocess.sys = Quiet()\n"
        f"try: subprocess.Popen(['sleep', '{seconds}'], start_new_session=True)\n"
        "except BlockingIOError: pass\n"
        "finished = True"
    )
    assert run(program, kind) == Outcome("passed", "")
    assert not processes(seconds)


@both
@pytest.mark.slow
def test_nothing_stays_when_the_caller_is_killed(kind, tmp_path):
    """Killed as by the system: the processes around the program end it, and themselves, in time."""
    code = (
        "from experiments.tasks.code_execution import run_program\n"
        f"run_program(['while True: pass'], seconds=1, isolated_by={kind!r})"
    )
    root = str(Path(code_execution.__file__).parents[2])
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    caller = subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=root)
    depth = 2 if kind == HOOK else 3
    wait_for(lambda: len(children_of(caller.pid)) == depth)
    inner = children_of(caller.pid)
    caller.kill()
    caller.wait()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in inner))


def children_of(pid: int) -> list[int]:
    """Return the processes below one."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = file.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            child = int(file.parent.name)
            found += [child, *children_of(child)]
    return found


def wait_for(condition) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@both
def test_its_folder_is_deleted(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    program = "import os\nos.makedirs('a/b')\nopen('a/b/c', 'w').close()\nos.chmod('a', 0)"
    assert run(program + "\nfinished = True", kind).passed
    assert run("open('a', 'w'); 1 / 0", kind).reason == "ZeroDivisionError: division by zero"
    assert not list(tmp_path.iterdir())


@both
def test_a_run_says_the_same_again(kind, monkeypatch):
    """Hashes of strings, and so the order of sets, do not change; nor is the environment ours."""
    monkeypatch.setenv("MTAD_SECRET", "1")
    program = "import os\nfinished = hash('a') == {} and 'MTAD_SECRET' not in os.environ"
    asked = [sys.executable, "-c", "print(hash('a'))"]
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    value = subprocess.run(asked, env=environment, capture_output=True, text=True).stdout.strip()
    assert run(program.format(value), kind).passed


@both
def test_only_the_standard_library_is_there(kind):
    for name in ("mtad_jax", "numpy"):
        outcome = run(f"import {name}", kind)
        assert outcome == Outcome("failed", f"ModuleNotFoundError: No module named '{name}'")


def test_less_memory_can_be_given():
    outcome = run_program(["x = bytearray(200 << 20)"], memory=100 << 20)
    assert outcome == Outcome("failed", "MemoryError:")


def test_a_supervisor_that_hangs_is_killed(monkeypatch):
    monkeypatch.setattr(code_execution, "_GRACE_S", 0.2)
    monkeypatch.setattr(code_execution, "_START", "import time; time.sleep(77)")
    assert run_program(["1"], seconds=0.1, isolated_by=HOOK).verdict == "timed out"
    assert not processes("time.sleep(77)")


def test_a_supervisor_that_breaks_says_why(monkeypatch):
    monkeypatch.setattr(code_execution, "_START", "1 / 0")
    outcome = run_program(["1"], isolated_by=HOOK)
    assert outcome.verdict == "died" and "division by zero" in outcome.reason
    isolation.cache_clear()
    with pytest.raises(OSError, match="no program can be run here.*division by zero"):
        isolation()
    isolation.cache_clear()


def test_refused_namespaces_leave_the_hook_and_are_told(monkeypatch, caplog):
    def run_refused(sources, *, isolated_by):
        refused = Outcome("died", "it could not be started: unshare: Operation not permitted")
        return refused if isolated_by == "namespaces" else Outcome("passed", "")

    isolation.cache_clear()
    monkeypatch.setattr(code_execution, "run_program", run_refused)
    try:
        assert isolation() == HOOK
    finally:
        isolation.cache_clear()
    assert "audit hook only" in caplog.text and "unshare" in caplog.text


def test_it_must_be_allowed():
    with pytest.raises(ValueError, match="^X runs code.*--allow_code_execution"):
        check_allowed("X", False, 1.0)
    for seconds in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="seconds="):
            check_allowed("X", True, seconds)
    check_allowed("X", True, 1.0)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0 or not Path("/usr/bin/setpriv").exists(),
    reason="only root can become another user",
)
def test_users_without_rights_have_namespaces_too():
    """The way by a user namespace, tried as another user where that one can read what it needs."""
    become = ["/usr/bin/setpriv", "--reuid=1234", "--regid=1234", "--clear-groups"]
    command = [*become, os.path.realpath("/usr/bin/python3"), "-s", "-S", "-P", "-B", "-c"]
    environment = {"PYTHONPATH": str(Path(code_execution.__file__).parents[2])}
    imports = code_execution._START.partition(";")[0]
    if subprocess.run([*command, imports], env=environment, capture_output=True).returncode:
        pytest.skip("no Python, or no checkout, that others can read")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        job = {
            "sources": [
                "import os\nassert os.getuid() == 1234 and os.getpid() == 2",
                "open('/dev/null', 'w').close()\nassert not os.listdir('/proc')",
                "try: open('/dev/full', 'w')\nexcept OSError: pass\nelse: assert False",
            ],
            "folder": folder, "seconds": 5, "memory": 1 << 30, "isolation": "namespaces",
        }  # fmt: skip
        done = subprocess.run(
            [*command, code_execution._START], input=json.dumps(job), capture_output=True,
            text=True, env=environment,
        )  # fmt: skip
    assert json.loads(done.stdout) == ["passed", ""], done
