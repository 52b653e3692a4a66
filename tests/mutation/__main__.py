"""Run the fast tests of the decoding rules against mutants of them: `make mutants`.

Each mutant is written into a copy of the package outside the checkout, and the fast tests run
against it in a fork of a process that has jax loaded, the files nearest to the module first, until
one fails. What was found is kept in `.cache/mutants/`: a second run goes on where the first was
stopped, and runs again what survived once tests have changed, and what was killed once the test
that did it has.
"""

import argparse
import collections
import compileall
import concurrent.futures
import hashlib
import json
import os
import py_compile
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

# Before jax is imported; as in tests/conftest.py.
os.environ.update(
    JAX_PLATFORMS="cpu",
    JAX_DISABLE_MOST_OPTIMIZATIONS="1",
    XLA_FLAGS="--xla_cpu_use_fusion_emitters=false",
    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
    JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES="-1",
)
import flax.linen  # noqa: E402, F401
import hypothesis  # noqa: E402
import jax  # noqa: E402
import mutants as faults  # noqa: E402
import pytest  # noqa: E402
import transformers.generation.logits_process  # noqa: E402, F401

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache/mutants"
EQUIVALENT = Path(__file__).with_name("equivalent.json")
SLOWEST = 300  # seconds that one test may take; a fault may make a loop endless
TESTS = ROOT / "tests/decode"
# The first that fails decides, so the cheapest come first, before all those nearest to a mutant's
# module, and the others last. Left out: the rules against the oracle and the exact laws, which take
# minutes.
ORDER = (
    "test_draft", "test_commit", "test_beams", "test_loop", "test_logits", "test_result",
    "test_boundaries", "test_verifier_checks", "test_random", "test_warp", "test_verifiers",
    "test_generate_errors", "test_conformance",
)  # fmt: skip
NEAREST = {
    "arguments": ("test_arguments",),
    "beams": ("test_beams",),
    "certificate": ("test_boundaries", "test_result"),
    "checks": ("test_generate_errors",),
    "draft": ("test_draft",),
    "drafters/beam": ("test_beams",),
    "drafters/corpus": ("test_suffix",),
    "drafters/recycling": ("test_recycling",),
    "drafters/suffix": ("test_suffix",),
    "drafters/pairs": ("test_beams", "test_dsbd"),
    "drafters/stochastic": ("test_drafters", "test_beams"),
    "drafters": ("test_loop", "test_drafters"),
    "engine": ("test_generate_errors", "test_loop"),
    "explain": ("test_explain",),
    "explained": ("test_explain",),
    "logits": ("test_logits",),
    "loop": ("test_loop",),
    "random": ("test_random",),
    "request": ("test_verifier_checks", "test_generate_errors", "test_mtjd"),
    "result": ("test_result",),
    "settings": ("test_generate_errors",),
    "target_beams/beam_search": ("test_beam_search",),
    "target_beams/mtjd": ("test_mtjd",),
    "target_beams": ("test_speculative_beams", "test_beam_search"),
    "verifiers/dsbd": ("test_dsbd",),
    "verifiers/lossless/points": ("test_recycling",),
    "verifiers/pair_tests": ("test_boundaries", "test_dsbd"),
    "verifiers/cascade": ("test_towards",),
    "verifiers/fuzzy": ("test_towards",),
    "verifiers/mentored": ("test_towards",),
    "verifiers/nearest": ("test_nearest", "test_towards"),
    "verifiers/towards": ("test_towards", "test_boundaries", "test_verifiers"),
    "verifiers": ("test_boundaries", "test_verifiers", "test_verifier_checks"),
    "warp": ("test_warp",),
}


def tests_for(path: Path) -> list[str]:
    """Return the fast tests of a module, the nearest first, and after them all others."""
    module = path.relative_to(faults.ROOM).with_suffix("").as_posix()
    near = next((NEAREST[k] for k in (module, module.split("/")[0]) if k in NEAREST), ())
    names = dict.fromkeys((*near, *ORDER, *sorted(file.stem for file in TESTS.glob("test_*.py"))))
    return [str(TESTS / f"{name}.py") for name in names]


class _Watch:
    """Ends the process where a test hangs, and writes down the first test that fails."""

    def __init__(self, report: Path):
        self.report = report

    def pytest_runtest_protocol(self, item):
        self.report.write_text(f"hung: {item.nodeid}")
        signal.alarm(SLOWEST)

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self._failed(report)

    def pytest_collectreport(self, report):
        if report.failed:
            self._failed(report)

    def _failed(self, report):
        signal.alarm(0)
        if not self.report.read_text().startswith("failed"):
            self.report.write_text(f"failed: {report.nodeid}")


def run_tests(folder: Path, files: list[str], log: Path, report: Path) -> int:
    """Run tests against the package in `folder`; in a child that ends with them."""
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE / "programs")
    jax.config.update("jax_compilation_cache_dir", str(CACHE / "programs"))
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    # A failure is enough: no smaller example is looked for.
    phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
    hypothesis.settings.register_profile("mutants", phases=phases, database=None)
    hypothesis.settings.load_profile("mutants")
    out = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    import mtad_jax

    assert Path(mtad_jax.__file__).is_relative_to(folder), mtad_jax.__file__
    options = [
        "-x",
        "-q",
        "-m",
        "not slow and not heavy",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
    ]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    return pytest.main([*options, f"--rootdir={ROOT}", *files], plugins=[_Watch(report)])


def forked(folder: Path, files: list[str]) -> str:
    """Run tests in a fork; return what ended them: a test that failed or hung, or nothing.

    Raises:
      RuntimeError: the process was ended from outside, as for memory: that is no verdict.
    """
    report = folder / "report"
    report.write_text("failed: to import")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no back end of jax is up here: forking is safe
        child = os.fork()
    if not child:
        code = 70
        try:
            code = run_tests(folder, files, folder / "log", report)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status < 0 and status != -signal.SIGALRM:
        raise RuntimeError(f"{report.read_text()}: ended by signal {-status}: use fewer --jobs")
    return "" if status == 0 else report.read_text().removeprefix("failed: ")


def copy_package(folder: Path) -> Path:
    """Copy the package, compiled, so that a child compiles the mutant alone."""
    package = folder / "mtad_jax"
    ignore = shutil.ignore_patterns("__pycache__", "assets")
    shutil.copytree(ROOT / "mtad_jax", package, ignore=ignore)
    (package / "assets").symlink_to(ROOT / "mtad_jax/assets")
    mode = py_compile.PycInvalidationMode.CHECKED_HASH
    compileall.compile_dir(package, quiet=1, invalidation_mode=mode)
    return folder


def judge(folder: Path, mutant: faults.Mutant) -> dict:
    """Run one mutant; the copy is as before afterwards."""
    target, start = folder / mutant.path, time.monotonic()
    whole = target.read_text(encoding="utf-8")
    target.write_text(mutant.source, encoding="utf-8")
    try:
        by = forked(folder, tests_for(mutant.path))
    finally:
        target.write_text(whole, encoding="utf-8")
    seconds = round(time.monotonic() - start, 1)
    return {
        "name": mutant.name,
        "by": by,
        "seconds": seconds,
        "source": digest(mutant.source),
        "file": digest_of_killer(by),
    }


def digest_of_killer(by: str) -> str:
    """Return a hash of the file of tests that killed a mutant; "" where there is none."""
    file = ROOT / by.removeprefix("hung: ").split("::")[0]
    return digest(file.read_text(encoding="utf-8")) if by and file.is_file() else ""


def digest(*texts: str) -> str:
    """Return a short hash."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]


def digest_of_tests() -> str:
    """Return a hash of all that the tests are made of."""
    files = [*TESTS.rglob("*.py"), *(ROOT / "tests/support").rglob("*.py")]
    return digest(*(path.read_text(encoding="utf-8") for path in sorted(files)))


def known(log: Path, tests: str) -> dict[str, dict]:
    """Return what earlier runs found and still holds, by name."""
    found = {}
    for line in log.read_text().splitlines() if log.exists() else ():
        row = json.loads(line)
        found.pop(row["name"], None)
        if row["tests"] == tests or row["by"] and row.get("file") == digest_of_killer(row["by"]):
            found[row["name"]] = row
    return found


def run_all(chosen: list[faults.Mutant], log: Path, jobs: int) -> dict[str, dict]:
    """Run what is not known yet; return what was found of all, by name."""
    tests = digest_of_tests()
    found = known(log, tests)
    left = [m for m in chosen if found.get(m.name, {}).get("source") != digest(m.source)]
    with tempfile.TemporaryDirectory(prefix="mutants-") as temporary:
        folders = []
        for job in range(jobs if left else 0):
            folders.append(Path(temporary, str(job)))
            folders[-1].mkdir()
            copy_package(folders[-1])
        if left:
            files = dict.fromkeys(f for m in left for f in tests_for(m.path))
            print(f"the tests without a mutant, {len(files)} files ...", flush=True)
            if by := forked(folders[0], list(files)):
                print((folders[0] / "log").read_text())
                sys.exit(f"error: {by} fails without a mutant: mend it first")
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            free = collections.deque(folders)

            def one(mutant: faults.Mutant) -> dict:
                folder = free.popleft()
                row = judge(folder, mutant) | {"tests": tests}
                free.append(folder)
                return row

            for i, row in enumerate(pool.map(one, left), 1):
                found[row["name"]] = row
                with log.open("a") as out:
                    out.write(json.dumps(row) + "\n")
                verdict = f"killed by {row['by'].split('/')[-1]}" if row["by"] else "SURVIVED"
                print(f"{i}/{len(left)} {row['name']}: {verdict} ({row['seconds']} s)", flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/mutation", description=__doc__)
    parser.add_argument("--only", default="", help="mutants whose name holds this text")
    parser.add_argument("--jobs", "-j", type=int, default=1, help="mutants at a time")
    parser.add_argument("--list", action="store_true", help="list them and run nothing")
    arguments = parser.parse_args()
    chosen = [m for m in faults.sample(ROOT) if arguments.only in m.name]
    equivalent = json.loads(EQUIVALENT.read_text())
    if arguments.list:
        print(*chosen, sep="\n")
        return 0
    CACHE.mkdir(parents=True, exist_ok=True)
    found = run_all(chosen, CACHE / "found.jsonl", arguments.jobs)
    alive = [m for m in chosen if not found[m.name]["by"]]
    for mutant in alive:
        print(f"\nsurvived: {mutant}\n  {equivalent.get(mutant.name, 'not explained')}")
    unexplained = [m for m in alive if m.name not in equivalent]
    hung = sum(found[m.name]["by"].startswith("hung") for m in chosen)
    killed = len(chosen) - len(alive)
    print(
        f"\n{killed} of {len(chosen)} mutants killed ({100 * killed / len(chosen):.1f} %), {hung} "
        f"of them by a test that hung; {len(alive) - len(unexplained)} survivors explained, "
        f"{len(unexplained)} not"
    )
    return bool(unexplained)


if __name__ == "__main__":
    sys.exit(main())
