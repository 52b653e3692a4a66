import errno
import fcntl
import subprocess
import sys
import textwrap

import pytest

from mtad_jax.checkpoints import atomic
from mtad_jax.checkpoints.atomic import new_folder
from mtad_jax.checkpoints.locks import lock_file, lock_folder


def test_one_at_a_time(tmp_path):
    with open(tmp_path / "file", "w") as first, open(tmp_path / "file") as second:
        lock_file(first.fileno())
        with pytest.raises(BlockingIOError):
            lock_file(second.fileno())
        first.close()
        lock_file(second.fileno())


@pytest.mark.slow
def test_the_package_works_without_fcntl(tmp_path):
    """As on Windows, which has no module of that name."""
    code = """
        import sys
        sys.modules["fcntl"] = None
        import mtad_jax
        from mtad_jax.checkpoints.atomic import new_folder

        with new_folder("made") as folder:
            (folder / "config.json").write_text("{}")
        pipe = mtad_jax.Pipeline.shipped()
        print(pipe.encode("Once"))
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "made" / "config.json").is_file()


def test_two_runs_cannot_write_one_folder(tmp_path):
    with new_folder(tmp_path / "made"):
        with pytest.raises(ValueError, match="another run"), new_folder(tmp_path / "made"):
            pass


def test_a_run_that_ends_leaves_the_next_ones_folder_alone(tmp_path, monkeypatch):
    sync = atomic._sync_one

    def sync_and_begin_the_next(path):
        sync(path)
        if path == tmp_path:  # the first run has just renamed its folder
            (tmp_path / ".made.partial").mkdir()
            (tmp_path / ".made.partial" / "next").write_text("")

    monkeypatch.setattr(atomic, "_sync_one", sync_and_begin_the_next)
    with new_folder(tmp_path / "made") as folder:
        (folder / "config.json").write_text("{}")
    assert (tmp_path / "made" / "config.json").is_file()
    assert (tmp_path / ".made.partial" / "next").is_file()


def test_a_file_system_without_locks_is_no_other_run(tmp_path, monkeypatch):
    def no_locks(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    left = tmp_path / ".left.partial"
    left.mkdir()
    (left / "rows").write_text("")
    monkeypatch.setattr(fcntl, "flock", no_locks)
    for name in ("made", "left"):
        with pytest.raises(OSError, match=rf"{name}: .* \(No locks available\): write elsewhere"):
            with new_folder(tmp_path / name):
                pass
    assert [file.name for file in tmp_path.iterdir()] == [".left.partial"]


def test_a_folder_renamed_before_it_is_opened_is_another_runs(tmp_path):
    with pytest.raises(BlockingIOError, match="renamed by its owner"):
        lock_folder(tmp_path / "gone")
