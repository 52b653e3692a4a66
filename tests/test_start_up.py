"""What the user sees, and waits for, before any work is done."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import mtad_jax
from mtad_jax.devices.platforms import _tpu_signs, platforms_without_tpu

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
HEAVY = (
    "orbax", "qwix", "sentencepiece", "tokenizers", "transformers", "tensorstore", "torch",
    "flax.nnx",
)  # fmt: skip


def python(*args: str, **environment: str) -> subprocess.CompletedProcess:
    """Run python in the checkout, as if JAX_PLATFORMS had not been set by the tests."""
    env = {k: v for k, v in os.environ.items() if k != "JAX_PLATFORMS" and k[:4] != "TPU_"}
    return subprocess.run(
        [sys.executable, *args], cwd=ROOT, env=env | environment, capture_output=True, text=True
    )


def test_importing_loads_no_heavy_library():
    run = python("-c", f"import sys, mtad_jax; print([m for m in {HEAVY} if m in sys.modules])")
    assert (run.stdout.strip(), run.stderr) == ("[]", "")


def test_the_version_is_the_installed_one():
    assert mtad_jax.__version__.split(".")[:2] == ["0", "1"]
    assert (Path(mtad_jax.__file__).parent / "py.typed").is_file()


no_tpu = pytest.mark.skipif(any(_tpu_signs()), reason="there may be a TPU here")


@no_tpu
@pytest.mark.parametrize(
    "command",
    [
        ("-c", "import mtad_jax; mtad_jax.Pipeline.shipped()"),
        ("-c", "import mtad_jax, jax; assert jax.devices()[0].platform != 'tpu'"),
        ("-c", "import experiments.plan"),
    ],
)
def test_the_terminal_stays_quiet_without_a_tpu(command):
    run = python(*command)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    assert "Failed to find host bounds" not in run.stdout


@no_tpu
def test_what_the_user_says_of_platforms_wins():
    code = "import mtad_jax, jax; print(jax.config.jax_platforms)"
    assert python("-c", code, JAX_PLATFORMS="cuda,cpu").stdout == "cuda,cpu\n"
    code = "import jax; jax.config.update('jax_platforms', 'tpu'); " + code
    assert python("-c", code).stdout == "tpu\n"


def test_no_real_device_is_hidden():
    assert platforms_without_tpu([]) == ["cpu"]
    assert platforms_without_tpu(["xla_cuda13"]) == ["cuda", "cpu"]
    assert platforms_without_tpu(["xla_rocm7", "xla_cuda13"]) == ["cuda", "rocm", "cpu"]
    assert platforms_without_tpu(["xla_cuda13", "somebodys_chip"]) is None


def test_signs_of_a_tpu(tmp_path, monkeypatch):
    for name in list(os.environ):
        if name.startswith("TPU_"):
            monkeypatch.delenv(name)
    vendor = tmp_path / "sys/bus/pci/devices/0000:00:05.0/vendor"
    vendor.parent.mkdir(parents=True)
    vendor.write_text("0x10de\n")
    assert not any(_tpu_signs(tmp_path))
    vendor.write_text("0x1ae0\n")
    assert list(_tpu_signs(tmp_path)) == [str(vendor)]
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/accel0").touch()
    assert len(list(_tpu_signs(tmp_path))) == 2
    vendor.write_text("0x10de\n")
    (tmp_path / "dev/accel0").unlink()
    monkeypatch.setenv("TPU_NAME", "local")
    assert list(_tpu_signs(tmp_path)) == ["TPU_NAME"]
