"""Conversions as a whole: exactness, what interruptions leave, memory, and the command lines."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hf_folders import CONFIGS, LLAMA, LLAMA_TIED, OPT, random_params, random_tensors, write_folder

from checkpoints_convert import engine
from mtad_jax import cli
from mtad_jax.checkpoints import arrays, atomic
from mtad_jax.checkpoints import load as checkpoint
from mtad_jax.checkpoints.lazy import LazyTensor, from_array

pytestmark = pytest.mark.slow

SIDE = {"tokenizer_config.json": b"{}\n", "generation_config.json": b'{"eos_token_id": [2, 3]}'}


def make(folder, config=LLAMA, dtype=np.float32, **options) -> Path:
    return write_folder(folder, config, random_tensors(config, dtype), **options)


def files(folder) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in Path(folder).iterdir() if file.is_file()}


def python(*args, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *map(str, args)], capture_output=True, text=True, **options
    )


def error_line(done: subprocess.CompletedProcess) -> str:
    """Return the one line that a failed program may write."""
    assert done.returncode == 1 and done.stdout == "", done
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_way_back_is_bit_exact(tmp_path, config, dtype):
    source = make(tmp_path / "hf", config, dtype)
    for name, data in SIDE.items():
        (source / name).write_bytes(data)
    metadata = engine.from_hf(source, tmp_path / "own")
    assert metadata.source == "hf" and metadata.dtype == np.dtype(dtype).name
    engine.to_hf(tmp_path / "own", tmp_path / "back")
    assert files(tmp_path / "back") == files(source)


@pytest.mark.parametrize("config", [LLAMA_TIED, OPT], ids=["llama", "opt"])
def test_way_back_of_an_odd_export(tmp_path, config):
    """Bare keys, a tied head, buffers that are no weights, several dtypes and shards."""
    tensors = {key.removeprefix("model."): x for key, x in random_tensors(config).items()}
    table = next(key for key in tensors if "embed_tokens" in key)
    tensors["lm_head.weight"] = tensors[table]
    odd = {
        "llama": {"layers.0.self_attn.rotary_emb.inv_freq": np.arange(3.0)},
        "opt": {"decoder.version": np.array([3], np.int64)},
    }
    tensors |= odd[config["model_type"]]
    some = next(key for key in tensors if "norm" in key)
    tensors[some] = tensors[some].astype(np.float16)
    source = write_folder(tmp_path / "hf", config, tensors, shard_bytes=4000)
    assert engine.from_hf(source, tmp_path / "own").dtype == "mixed"
    engine.to_hf(tmp_path / "own", tmp_path / "back", shard_bytes=4000)
    assert files(tmp_path / "back") == files(source)
    assert checkpoint.load(tmp_path / "own").lm.dtype == jnp.float32


def test_change_of_dtype(tmp_path):
    source = make(tmp_path / "hf", LLAMA | {"dtype": "float32"})
    engine.from_hf(source, tmp_path / "own", dtype=jnp.bfloat16)
    engine.to_hf(tmp_path / "own", tmp_path / "back")
    wanted = make(tmp_path / "half", LLAMA | {"dtype": "bfloat16"}, jnp.bfloat16)
    assert files(tmp_path / "back") == files(wanted)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_way_back_of_weights_that_are_not_finite(tmp_path, value):
    own = tmp_path / "own"
    engine.from_hf(make(tmp_path / "hf"), own)
    params = random_params(LLAMA)
    params["layer_1"]["down"]["kernel"][5, 3] = value
    shutil.rmtree(own / "params")
    arrays.save(own / "params", jax.tree.map(from_array, params))
    with pytest.raises(ValueError, match=rf"layer_1/down/kernel: value {value} at \[5, 3\] in"):
        engine.to_hf(own, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_existing_output(tmp_path):
    source, out = make(tmp_path / "hf"), tmp_path / "own"
    engine.from_hf(source, out)
    with pytest.raises(ValueError, match=r"own: output exists: .* --overwrite$"):
        engine.from_hf(source, out)
    engine.from_hf(source, out, dtype=jnp.bfloat16, overwrite=True)
    assert checkpoint.read_metadata(out).dtype == "bfloat16"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["hf", "own"]


def test_what_is_no_checkpoint_is_not_replaced(tmp_path):
    source, home = make(tmp_path / "hf"), tmp_path / "home"
    home.mkdir()
    (home / "thesis").write_text("years")
    with pytest.raises(ValueError, match="something else than a checkpoint: not replaced"):
        engine.from_hf(source, home, overwrite=True)
    with pytest.raises(ValueError, match="output is not a folder"):
        engine.from_hf(source, home / "thesis", overwrite=True)
    (tmp_path / "link").symlink_to(source)
    with pytest.raises(ValueError, match="overlap"):
        engine.from_hf(source, tmp_path / "link", overwrite=True)
    for output in (source, source / "own", tmp_path):
        with pytest.raises(ValueError, match="overlap"):
            engine.from_hf(source, output, overwrite=True)
    assert (home / "thesis").read_text() == "years" and checkpoint.load(source)


def failing_read(monkeypatch, error):
    """Make the ninth read fail."""
    left = iter(range(8))
    read = LazyTensor.read

    def fail(tensor, index=None):
        if next(left, None) is None:
            raise error
        return read(tensor, index)

    monkeypatch.setattr(LazyTensor, "read", fail)


@pytest.mark.parametrize(
    "error", [ValueError("bad"), KeyboardInterrupt(), OSError(errno.EIO, "disk broke")]
)
def test_failure_leaves_the_old_output(tmp_path, monkeypatch, error):
    source, out = make(tmp_path / "hf"), tmp_path / "own"
    engine.from_hf(source, out)
    with monkeypatch.context() as patch, pytest.raises(type(error)):
        failing_read(patch, error)
        engine.from_hf(source, out, dtype=jnp.bfloat16, overwrite=True)
    with monkeypatch.context() as patch, pytest.raises(type(error)):
        failing_read(patch, error)
        engine.to_hf(out, tmp_path / "back")
    assert checkpoint.read_metadata(out).dtype == "float32" and checkpoint.load(out)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["hf", "own"]


def test_no_space(tmp_path, monkeypatch):
    source = make(tmp_path / "hf")
    with pytest.raises(OSError, match=r"no space left for .*own: about 0.02 GB needed, 0.00 GB"):
        with monkeypatch.context() as patch:
            usage = type("Usage", (), {"free": 1000})
            patch.setattr(atomic.shutil, "disk_usage", lambda _: usage)
            engine.from_hf(source, tmp_path / "own")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space left for .*own"):
        failing_read(patch, full)
        engine.from_hf(source, tmp_path / "own")
    # tensorstore's own error for a full disk
    full = ValueError("RESOURCE_EXHAUSTED: Failed to write: No space left on device [os_error=28]")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space left for .*own"):
        failing_read(patch, full)
        engine.from_hf(source, tmp_path / "own")
    assert [file.name for file in tmp_path.iterdir()] == ["hf"]


def test_replacement_cut_between_its_renames(tmp_path):
    source, out = make(tmp_path / "hf"), tmp_path / "own"
    engine.from_hf(source, out)
    out.rename(tmp_path / ".own.old")
    with pytest.raises(ValueError, match="output exists"):  # it is back
        engine.from_hf(source, out)
    assert checkpoint.load(out)


_HANG = """
import sys, time
from checkpoints_convert import engine
from mtad_jax.checkpoints.lazy import LazyTensor
read, count = LazyTensor.read, iter(range(8))
def hang(tensor, index=None):
    if next(count, None) is None:
        print("hanging", flush=True)
        time.sleep(600)
    return read(tensor, index)
LazyTensor.read = hang
engine.from_hf(*sys.argv[1:])
"""


def test_killed_run_leaves_nothing_that_loads(tmp_path):
    source, out = make(tmp_path / "hf"), tmp_path / "own"
    with subprocess.Popen(
        [sys.executable, "-c", _HANG, source, out], stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None and run.stdout.readline() == "hanging\n"
        with pytest.raises(ValueError, match="own: another run is writing it"):
            engine.from_hf(source, out)
        run.send_signal(signal.SIGKILL)
    left = tmp_path / ".own.partial"
    assert left.is_dir() and any(left.iterdir()) and not out.exists()
    for folder in (out, left):
        with pytest.raises(ValueError):
            checkpoint.load(folder)
    engine.from_hf(source, out)
    assert checkpoint.load(out) and not left.exists()


_PEAK = """
import sys, threading
from checkpoints_convert import engine
def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))
small, large, out = sys.argv[1:]
def convert(source, name):
    engine.from_hf(source, f"{out}/{name}")
    engine.to_hf(f"{out}/{name}", f"{out}/{name}_back")
convert(small, "small")  # what libraries take once
before, peak, done = anonymous(), 0, threading.Event()
def watch():
    global peak
    while not done.wait(0.001):
        peak = max(peak, anonymous())
watcher = threading.Thread(target=watch)
watcher.start()
convert(large, "large")
done.set()
watcher.join()
print((peak - before) * 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_memory_is_that_of_a_few_tensors(tmp_path):
    sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8}
    large = make(tmp_path / "large", LLAMA | sizes)
    total = (large / "model.safetensors").stat().st_size
    # One arena: the C allocator otherwise keeps what each thread has freed, up to 32 MB a piece.
    one_arena = os.environ | {"MALLOC_ARENA_MAX": "1"}
    small, out = make(tmp_path / "small"), tmp_path / "out"
    done = python("-c", _PEAK, small, large, out, env=one_arena)
    assert done.returncode == 0, done.stderr
    # Two tensors of 4 MB (one and its transpose) and about 30 MB whatever the model's size.
    assert int(done.stdout) < 0.4 * total, f"{done.stdout} bytes, all: {total}"


def test_command_lines(tmp_path):
    source, own, back = make(tmp_path / "hf", dtype=jnp.bfloat16), tmp_path / "own", tmp_path / "b"
    done = python("-m", "checkpoints_convert.from_hf", f"--source={source}", f"--output={own}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{own}: hf in bfloat16 (from bfloat16)\n"
    done = python("-m", "checkpoints_convert.to_hf", f"--source={own}", f"--output={back}")
    assert (done.returncode, done.stderr) == (0, "")
    assert files(back) == files(source)
    done = python("-m", "checkpoints_convert.to_hf", f"--source={own}", f"--output={back}")
    assert "output exists" in error_line(done)


@pytest.mark.heavy
def test_verify(tmp_path):
    pytest.importorskip("transformers")
    source, own = make(tmp_path / "hf"), tmp_path / "own"
    engine.from_hf(source, own, dtype=jnp.bfloat16)
    verify = ("-m", "checkpoints_convert.verify", f"--source={source}")
    done = python(*verify, f"--converted={own}")
    assert done.returncode == 0, done
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["1", "16", "64", "PASS"]

    tensors = random_tensors(LLAMA)
    tensors["model.layers.1.self_attn.q_proj.weight"][:, 0] *= -1
    other = write_folder(tmp_path / "other", LLAMA, tensors)
    done = python(*verify, f"--converted={other}", "--max_tokens=20")
    assert done.returncode == 1 and done.stdout.splitlines()[-1] == "FAIL"


def test_verify_bounds_its_memory(tmp_path, monkeypatch):
    from checkpoints_convert import compare

    monkeypatch.setattr(compare, "_WORKING_BYTES", 1 << 50)
    source = make(tmp_path / "hf")
    with pytest.raises(ValueError, match="about 1125899.9 GB of memory needed"):
        compare.compare(source, source)


def test_free_memory_of_any_system(tmp_path, monkeypatch):
    from checkpoints_convert import compare

    def unknown(name):
        raise ValueError("unrecognized configuration name")  # as macOS says

    monkeypatch.setattr(compare, "_WORKING_BYTES", 1 << 50)
    with monkeypatch.context() as patch:
        patch.setattr(os, "sysconf", unknown)
        (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    3000000 kB\n")
        patch.setattr(compare, "_MEMINFO", tmp_path / "meminfo")
        with pytest.raises(ValueError, match=r"GB of memory needed \(float32\), 3.1 GB free"):
            compare._check_memory(0)
    monkeypatch.setattr(compare, "_MEMINFO", tmp_path / "none")
    monkeypatch.setattr(os, "sysconf", {"SC_AVPHYS_PAGES": 1000, "SC_PAGE_SIZE": 10**6}.get)
    with pytest.raises(ValueError, match=r"1.0 GB free: verify on a larger machine"):
        compare._check_memory(0)
    monkeypatch.setattr(os, "sysconf", unknown)
    compare._check_memory(0)
    monkeypatch.delattr(os, "sysconf")  # as on Windows
    compare._check_memory(0)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("two\n  lines"), 1, "error: two lines\n"),
        (OSError(errno.ENOENT, "gone", "x"), 1, "error: [Errno 2] gone: 'x'\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
        (ValueError(), 1, "error: ValueError\n"),
    ],
)
def test_cli_errors(capsys, monkeypatch, error, code, line):
    def main(_):
        raise error

    monkeypatch.setattr(cli, "leave", sys.exit)  # it ends the process, and this is the tests'
    with pytest.raises(SystemExit) as caught:
        cli.run(main, ["program"])
    assert caught.value.code == code
    assert capsys.readouterr() == ("", line)


def test_too_little_memory_is_one_line_and_no_other_runtime_error(capsys):
    def too_large(_):
        jnp.zeros(1 << 50, jnp.int8).block_until_ready()

    def broken(_):
        raise jax.errors.JaxRuntimeError("INTERNAL: a device is gone")

    with pytest.raises(SystemExit) as caught:
        cli.run(too_large, ["program"])
    out, err = capsys.readouterr()
    assert (caught.value.code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("error: too little memory on a device (RESOURCE_EXHAUSTED: Out of memory")
    assert "lower --batch_size or --max_new_tokens" in err and "--mesh" in err
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        cli.run(broken, ["program"])


def test_cli_flags(capsys):
    for argv, wanted in (["p", "--nonsense=1"], "nonsense"), (["p", "stray"], "'stray'"):
        with pytest.raises(SystemExit) as caught:
            cli.run(lambda _: None, argv)
        out, err = capsys.readouterr()
        assert caught.value.code == 1 and out == ""
        assert err.startswith("error: ") and err.count("\n") == 1 and wanted in err


@pytest.mark.parametrize(
    ("define", "names"),
    [
        ("benchmark.define_flags(flags.FLAGS)", "plot output prompts data_dir target draft"),
        ("corpus.define_flags()", "output data_dir answers_of tokenizer_of"),
    ],
)
def test_the_home_folder_in_every_flag_that_is_a_path(define, names, tmp_path):
    """No shell expands `--plot=~/x`."""
    runner = define.split(".")[0]
    shown = "lambda _: print(*(flags.FLAGS[name].value for name in sys.argv[1].split()))"
    code = (
        f"import sys\nfrom absl import flags\nfrom experiments import {runner}\n"
        f"from mtad_jax import cli\n{define}\ncli.run({shown}, ['p', *sys.argv[2:]])"
    )
    argv = [f"--{name}=~/{name}" for name in names.split()]
    env = os.environ | {"HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = python("-c", code, names, *argv, env=env)
    wanted = " ".join(str(tmp_path / name) for name in names.split())
    assert (done.returncode, done.stdout) == (0, wanted + "\n"), done.stderr


def test_metadata_file(tmp_path):
    source = make(tmp_path / "hf")
    engine.from_hf(source, tmp_path / "own")
    text = (tmp_path / "own" / "metadata.json").read_text()
    assert str(tmp_path) not in text  # base name only
    assert json.loads(text)["layout"] == {"bare": False, "tied": [], "ignored": []}


def test_progress_counts_tensors(tmp_path, monkeypatch):
    bars = []

    class Bar:
        def __init__(self, total, **_):
            self.total, self.count = total, 0
            bars.append(self)

        def update(self):
            self.count += 1

        def close(self):
            pass

    monkeypatch.setattr(engine, "tqdm", Bar)
    source = make(tmp_path / "hf")
    engine.from_hf(source, tmp_path / "own")
    engine.to_hf(tmp_path / "own", tmp_path / "back")
    assert [(bar.count, bar.total) for bar in bars] == [(21, 21), (21, 21)]
