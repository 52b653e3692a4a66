"""A run of several local processes: one process's output, and one clear line when it fails."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import cast

import jax
import pytest
from absl import flags
from generate_flags import read, run
from ports import free_port
from tiny_pair import write_ids_only_pair

import experiments
import mtad_jax
from checkpoints_convert.engine import from_hf
from experiments import benchmark
from experiments import generate as program
from experiments.launch import supervise
from experiments.launch.worker import Child
from mtad_jax.devices.hosts import checkpoint_digest, code_digest, find_place, first_difference
from mtad_jax.pipeline import Pipeline

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
RAGGED = ["Once upon a time", "The king", "A fox and a crow were sitting in a tree.", "In"]
TOKENS = [[1, *range(3, 4 + 5 * i)] for i in range(4)]
COMMON = ("--max_new_tokens=24", "--batch_size=4")
SLOW_S = 150  # no process of a test runs longer


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return write_ids_only_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def own(pair, tmp_path_factory):
    """The target in our own format, which several processes read by orbax together."""
    folder = tmp_path_factory.mktemp("own") / "target"
    from_hf(pair[0], folder)
    return folder


class Processes:
    """The processes of one run; none outlives the `with` block, nor any child of theirs."""

    def __init__(self, folder: Path, *args, count=2, devices=1, only=None, folders=None):
        port, self.folder = free_port(), folder
        xla_flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
        env = {**os.environ, "XLA_FLAGS": xla_flags}
        command = [sys.executable, "-m", "experiments.generate", f"--coordinator=127.0.0.1:{port}"]
        command += [f"--num_processes={count}", "--join_timeout=100", *map(str, args)]
        self.all = {}
        for i in range(count) if only is None else only:
            with (folder / f"err{i}").open("wb") as err, (folder / f"out{i}").open("wb") as out:
                self.all[i] = subprocess.Popen(
                    [*command, f"--process_id={i}"],
                    cwd=(folders or {}).get(i, ROOT), env=env, stdout=out, stderr=err,
                )  # fmt: skip

    def __enter__(self):
        return self

    def __exit__(self, *error):
        parents = [process.pid for process in self.all.values()]
        for process in self.all.values():
            process.kill()
            process.wait()
        end = time.monotonic() + 10
        while any(map(children, parents)):
            assert time.monotonic() < end, "a child outlives its parent"
            time.sleep(0.05)

    def codes(self):
        return [process.wait(SLOW_S) for process in self.all.values()]

    def errors(self):
        """The lines of stderr of each process."""
        self.codes()
        return [(self.folder / f"err{i}").read_text().splitlines() for i in self.all]


def children(parent: int) -> list[int]:
    """The processes that this parent supervises."""
    mark, found = f"--supervisor={parent}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "cmdline").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            pass
    return found


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def texts(path):
    """What must be equal token for token; log-probabilities may round otherwise."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: row[k] for k in ("prompt_ids", "tokens", "text", "stats")} for row in rows]


@pytest.mark.parametrize(
    ("count", "devices", "mesh", "shipped"),
    [
        (2, 2, "data:2,model:2", True),
        pytest.param(4, 1, "data:4", False, marks=pytest.mark.heavy),
    ],
)
def test_several_processes_write_what_one_does(count, devices, mesh, shipped, own, tmp_path):
    rows = [{"prompt": x} for x in RAGGED] if shipped else [{"prompt_ids": x} for x in TOKENS]
    mmtad = ["--strategy=mmtad", "--depth=3", "--width=2"]
    args = mmtad if shipped else ["--strategy=sample", f"--target={own}"]
    args += [*COMMON, f"--prompts={write_rows(tmp_path / 'prompts.jsonl', rows)}"]
    out, alone = tmp_path / "out.jsonl", tmp_path / "alone.jsonl"
    flags_ = (*args, f"--mesh={mesh}", f"--output={out}")
    with Processes(tmp_path, *flags_, count=count, devices=devices) as processes:
        run(*args, f"--output={alone}")
        assert processes.codes() == [0] * count, processes.errors()
    assert texts(out) == texts(alone)
    for i in range(count):
        assert not (tmp_path / f"out{i}").read_text()
        bar = (tmp_path / f"err{i}").read_text()
        assert ("4/4" in bar) == (i == 0) and "Gloo" not in bar, bar


@pytest.mark.heavy
def test_a_killed_process_ends_all_and_its_rows_are_gone_on_from(pair, tmp_path):
    rows = [{"prompt_ids": [1, *range(3, 4 + i % 5)]} for i in range(16)]
    prompts = write_rows(tmp_path / "prompts.jsonl", rows)
    args = (
        f"--target={pair[0]}", "--strategy=sample", "--max_new_tokens=150", "--ignore_eos",
        f"--prompts={prompts}", "--batch_size=2",
    )  # fmt: skip
    out, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"
    with Processes(tmp_path, *args, "--mesh=data:2", f"--output={out}") as processes:
        end = time.monotonic() + SLOW_S
        while not partial.exists() or not partial.stat().st_size:
            assert time.monotonic() < end and processes.all[0].poll() is None, processes.errors()
            time.sleep(0.01)
        os.kill(children(processes.all[1].pid)[0], signal.SIGKILL)
        begin = time.monotonic()
        assert processes.codes() == [1, 1]
        assert time.monotonic() - begin < 20  # stated: 5 s, where the machine has nothing else
        lines = [lines[-1] for lines in processes.errors()]
    kept = partial.read_text().count("\n")
    assert not out.exists() and 0 < kept < len(rows)
    assert lines[1].startswith("error: process 1: ended by SIGKILL")
    assert lines[0] == f"{lines[1]}; {kept} rows are in {partial}: --resume goes on"
    assert not any("Traceback" in line or "@  " in line for line in sum(processes.errors(), []))

    with Processes(tmp_path, *args, "--mesh=data:2", f"--output={out}", "--resume") as processes:
        assert processes.codes() == [0, 0], processes.errors()
    run(*args, f"--output={tmp_path / 'alone.jsonl'}")
    assert texts(out) == texts(tmp_path / "alone.jsonl")


@pytest.mark.parametrize("present", [0, 1])
def test_a_process_that_never_joins(present, tmp_path):
    args = ("--prompt=Once", "--mesh=data:2", "--join_timeout=0.5")
    with Processes(tmp_path, *args, only=[present]) as processes:
        assert processes.codes() == [1]
        (line,) = processes.errors()[0]
    absent = "process 1 of 2 never joined within 0.5 s", "process 0 never answered at 127.0.0.1:"
    assert line.startswith(f"error: {absent[present]}") and "--join_timeout" in line


def test_other_code_is_refused(tmp_path):
    copy = tmp_path / "copy"
    ignored = shutil.ignore_patterns("assets", "__pycache__")
    for package in ("mtad_jax", "experiments"):
        shutil.copytree(ROOT / package, copy / package, ignore=ignored)
    (copy / "mtad_jax" / "assets").symlink_to(ROOT / "mtad_jax" / "assets")
    with (copy / "mtad_jax" / "warp.py").open("a") as file:
        file.write("# one comment more\n")
    args = ("--prompt=Once", "--mesh=data:2")
    with Processes(tmp_path, *args, folders={1: copy}) as processes:
        assert processes.codes() == [1, 1]
        first, second = processes.errors()
    assert first == second and len(first) == 1
    assert first[0].startswith("error: process 1 differs from process 0 in the code of mtad_jax")


def test_the_runtimes_chatter_is_left_out_wherever_it_comes(capfdbinary):
    chatter = b"Rank 0 is connected to 1 peer ranks. Expected number of peer ranks is : 1\n"
    child = Child(cast(asyncio.subprocess.Process, None))
    for line in (b"[Gloo] " + chatter, b"\r  0%|   | 0/4 [Gloo] " + chatter, chatter[5:], b"end\n"):
        child._line(line)
    assert capfdbinary.readouterr().err == b"\r  0%|   | 0/4 end\n"


@pytest.mark.parametrize(("processes", "decoded"), [(1, 1), (2, 5)])
def test_a_reader_that_has_seen_enough(processes, decoded, monkeypatch):
    """With others who wait for it, the first process decodes to the end; alone it stops."""
    made = []

    class Pipe:
        def stream(self, ids, **settings):
            return (made.append(i) or "piece" for i in range(5))

    reading, writing = os.pipe()
    os.close(reading)
    monkeypatch.setattr(program.measure, "warm_up", lambda *args: None)
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    with os.fdopen(writing, "w") as broken:
        monkeypatch.setattr(sys, "stdout", broken)
        program.stream_text(cast(Pipeline, Pipe()), [1], read("--prompt=Once"))
        monkeypatch.undo()
    assert len(made) == decoded


def facts(*args, define=program.define_flags):
    values = flags.FlagValues()
    define(values)
    values(["generate", "--coordinator=h:1", "--num_processes=2", "--process_id=0", *args])
    place = supervise.read_place(values)
    assert place is not None
    return supervise._facts(place, values, define)


def test_flags_and_checkpoints_that_differ_are_named(pair, tmp_path):
    mine = facts("--mesh=data:2", "--top_p=0.9")
    same = facts("--mesh=data:2", "--top_p=0.9", "--output=x", "--resume", "--join_timeout=5")
    assert first_difference(mine, same) is None
    theirs = facts("--mesh=data:2", "--top_p=0.8")
    assert first_difference(mine, theirs) == "--top_p: 0.8, not 0.9"
    many = facts("--mesh=data:2", f"--banned_ids={','.join(map(str, range(30_000)))}")
    assert "a value of digest" in many["--banned_ids"]  # a message of the roll has a limit
    copy = shutil.copytree(pair[0], tmp_path / "target")
    models = [facts("--mesh=data:2", f"--target={path}") for path in (pair[0], copy, pair[1])]
    assert first_difference(models[0], models[1]) is None
    assert "checkpoint --target" in (first_difference(models[0], models[2]) or "")
    assert "checkpoint --target" in (first_difference(facts("--mesh=data:2"), models[0]) or "")
    prompts = [write_rows(tmp_path / f"{i}.jsonl", [{"prompt": "x" * i}]) for i in (1, 2)]
    two = [facts("--mesh=data:2", f"--prompts={path}") for path in prompts]
    assert "--prompts: a file of digest" in (first_difference(*two) or "")
    assert facts("--mesh=data:2", "--prompt=a\nb")["--prompt"].isprintable()  # one line says it
    same = shutil.copy(prompts[0], tmp_path / "same")
    chats = [facts("--mesh=data:2", f"--chat_template={path}") for path in (*prompts, same)]
    assert "--chat_template: a file of digest" in (first_difference(*chats[:2]) or "")
    assert first_difference(chats[0], chats[2]) is None
    for rule in ("--strategy=suffix --corpus", "--strategy=recycle --table"):
        files = [facts("--mesh=data:2", *f"{rule}={path}".split()) for path in (*prompts, same)]
        assert ": a file of digest" in (first_difference(*files[:2]) or "")
        assert first_difference(files[0], files[2]) is None


def test_versions_and_stories_that_differ_are_named(tmp_path, monkeypatch):
    both = []
    for i in range(2):
        file = tmp_path / str(i) / "corpora" / "fairytaleqa" / "test.txt"
        file.parent.mkdir(parents=True)
        file.write_text("a story")
        both.append(file)
    of = partial(facts, "--mesh=data:2", define=benchmark.define_flags)
    mine, theirs = (of(f"--data_dir={tmp_path / str(i)}") for i in range(2))
    assert first_difference(mine, theirs) is None
    both[1].write_text("another story")
    theirs = of(f"--data_dir={tmp_path / '1'}")
    assert "--data_dir: a file of digest" in (first_difference(mine, theirs) or "")
    found = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "0.1" if name == "qwix" else found(name))
    theirs = of(f"--data_dir={tmp_path / '0'}")
    assert (first_difference(mine, theirs) or "").startswith("the version of qwix: 0.1, not ")


def test_digests_see_one_byte(tmp_path):
    (tmp_path / "params" / "d").mkdir(parents=True)
    for name, size in (("config.json", 10), ("params/d/weights", 3 << 20)):
        (tmp_path / name).write_bytes(bytes(size))
        before = checkpoint_digest(tmp_path)
        for at in (0, size - 1):
            data = bytearray(size)
            data[at] = 1
            (tmp_path / name).write_bytes(data)
            assert checkpoint_digest(tmp_path) != before
    before = checkpoint_digest(tmp_path)
    (tmp_path / "README.md").write_text("of no weight")
    assert checkpoint_digest(tmp_path) == before
    package = Path(mtad_jax.__path__[0]), Path(experiments.__path__[0])
    assert code_digest(package) != code_digest(package[:1])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--num_processes=2"], "--num_processes=2 needs --coordinator"),
        (["--process_id=0"], "--process_id=0 needs --coordinator"),
        (["--supervisor=1"], "--supervisor=1 needs --coordinator"),
        (["--coordinator=h:1"], "needs --num_processes=N and --process_id"),
        (["--coordinator=h", "--num_processes=2", "--process_id=0"], "is no HOST:PORT"),
        (["--coordinator=h:65535", "--num_processes=2", "--process_id=0"], "is no HOST:PORT"),
        (["--coordinator=h:1", "--num_processes=0", "--process_id=0"], "must be >= 1"),
        (["--coordinator=h:1", "--num_processes=2", "--process_id=2"], "between 0 and 1"),
        (["--coordinator=h:1", "--num_processes=2", "--process_id=-1"], "between 0 and 1"),
        (["--coordinator=h:1", "--num_processes=2", "--process_id=0"], "2 processes need --mesh"),
        (["--coordinator=auto", "--num_processes=2"], "finds --num_processes and"),
        (["--coordinator=auto"], "found no TPU pod, Slurm"),
        (["--coordinator=h:1", "--join_timeout=0"], "--join_timeout=0 must be > 0"),
        (["--coordinator=h:1", "--supervisor=1"], "leave it out"),
    ],
)
def test_wrong_places_are_refused_before_anything_starts(args, message):
    values = flags.FlagValues()
    program.define_flags(values)
    values(["generate", *args])
    with pytest.raises(ValueError, match=message):
        supervise.run(values, program.define_flags, lambda _: pytest.fail("started"))


def test_slurm_is_found(monkeypatch):
    slurm = {"JOB_ID": 4095, "STEP_NODELIST": "node[07-09]", "NTASKS": 3, "PROCID": 2, "LOCALID": 0}
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    place = find_place("auto", None, None)
    assert (place.host, place.port + 1) == ("node07", 65535)
    assert (place.processes, place.index) == (3, 2)
