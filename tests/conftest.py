"""Frees compiled programs now and then: the suite makes thousands.

XLA maps memory for each program, Linux allows a process 65,530 maps, and past them the compiler
dies of a segmentation fault. Programs of one file are of little use to the next.
"""

import itertools
import os
import shutil
import time
from pathlib import Path

# Before jax is imported: with the `tpu` extra installed, every process would look for a TPU,
# complain that there is none, and lock the TPU compiler for all others.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Nearly all the time goes into compiling: keep every program for the next run. By the environment,
# so that the processes that tests start share it; `make clean` empties it.
_PROGRAMS = Path(__file__).parents[1] / ".cache/jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_PROGRAMS))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Programs here are small and run a few times: what optimizing them takes is never won back. Nor is
# what XLA's newer emitters of fused loops take: without them a program compiles in half the time.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")

import jax  # noqa: E402
import pytest  # noqa: E402

# Meshes are tested on simulated devices; what asks for none of them runs on the first.
jax.config.update("jax_num_cpu_devices", 8)

_MAPS = Path("/proc/self/maps")
_MOST_MAPS = 20_000
_MOST_BYTES = 1 << 30  # of compiled programs; a run of all tests makes 0.2 GiB


def pytest_configure(config):
    """Begin with an empty cache where earlier versions have left too much in the checkout's own."""
    if hasattr(config, "workerinput"):  # its controller has done so
        return
    if sum(file.stat().st_size for file in _PROGRAMS.glob("*")) > _MOST_BYTES:
        shutil.rmtree(_PROGRAMS)


def pytest_addoption(parser):
    """Let the conformance suite take any rule, and a run end in time."""
    parser.addoption(
        "--strategy", action="append",
        help="Rule for tests/decode/test_conformance.py: 'module:name depth=3'; repeatable.",
    )  # fmt: skip
    parser.addoption(
        "--time_budget", type=float, default=float("inf"),
        help="Seconds; tests that would begin later are skipped, and said to be.",
    )  # fmt: skip


_BEGIN = time.monotonic()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Skip what would begin after the time budget."""
    if time.monotonic() - _BEGIN > item.config.getoption("time_budget"):
        pytest.skip("would begin after the time budget")


@pytest.fixture(autouse=True, scope="module")
def programs_of_one_file():
    """Forget a file's programs after its last test."""
    yield
    jax.clear_caches()


@pytest.fixture
def optimized(monkeypatch):
    """Compile as users do, here and in the processes that a test starts."""
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "0")
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


_tests = itertools.count(1)


@pytest.fixture(autouse=True)
def room_for_programs():
    """Forget all programs where they have become too many; counting them takes milliseconds."""
    yield
    if next(_tests) % 10 == 0 and _MAPS.exists() and _MAPS.read_bytes().count(b"\n") > _MOST_MAPS:
        jax.clear_caches()
