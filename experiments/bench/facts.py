"""What a run was made with: `settings.json` of docs/records.md, and the line of a machine."""

import dataclasses
import hashlib
import math
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax
import jax
import jaxlib.version
import numpy as np

import mtad_jax
from mtad_jax.checkpoints.hf.families import model_of, shapes_of
from mtad_jax.checkpoints.load import LoadedModel
from mtad_jax.decode.protocols import Strategy
from mtad_jax.devices.hosts import checkpoint_digest
from mtad_jax.pipeline import Pipeline

NOT_METERED = {"source": None, "reason": "this command does not measure it", "idle_watts": None}
_GIT_SECONDS = 10.0
_CPUINFO = Path("/proc/cpuinfo")


def run_facts(
    pipe: Pipeline,
    *,
    config: Mapping[str, Any],
    seed: int | None,
    energy: Mapping[str, Any] = NOT_METERED,
) -> dict[str, Any]:
    """Return all that a run depends on, as JSON holds it.

    Args:
      pipe: the models that decode.
      config: the run's own settings, resolved.
      seed: of the run; None: it draws nothing.
      energy: where its joules are from, as `experiments.bench.energy.Meter.about` says.
    """
    draft = pipe.draft
    return {
        "command": command_line(),
        "config": plain(config),
        "seed": seed,
        "versions": versions(),
        "git": git_revision(),
        "device": device_facts(devices_of(pipe)),
        "models": {
            "target": model_facts(pipe.target),
            "draft": None if draft is None else model_facts(draft),
        },
        "energy": plain(energy),
    }


def command_line() -> str:
    """Return the command that started this process, to be given to a shell again."""
    words = [word for word in sys.orig_argv[1:] if not word.startswith("--supervisor=")]
    return shlex.join(["python", *words])


def versions() -> dict[str, str]:
    """Return the versions of what computes."""
    return {
        "mtad-jax": mtad_jax.__version__,
        "jax": jax.__version__,
        "jaxlib": jaxlib.version.__version__,
        "flax": flax.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def git_revision(file: str | Path = __file__) -> dict[str, Any] | None:
    """Return the `revision` of the checkout that a file of the code belongs to.

    `changed` says whether files that it tracks had changes. None where there is no git, and for an
    installed package, even one that lies in the folder of somebody's checkout.
    """
    file = Path(file).resolve()
    if _git(file.parent, "ls-files", "--error-unmatch", "--", file.name) is None:
        return None
    revision = _git(file.parent, "rev-parse", "HEAD")
    changes = _git(file.parent, "status", "--porcelain", "--untracked-files=no")
    if revision is None or changes is None:
        return None
    return {"revision": revision, "changed": bool(changes)}


def _git(folder: Path, *args: str) -> str | None:
    """Return what git prints in a folder; None where it fails, or there is none."""
    # In a hook, git's variables name the checkout of the hook.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", *args], cwd=folder, env=environment, text=True,
            stdin=subprocess.DEVNULL, capture_output=True, timeout=_GIT_SECONDS, errors="replace",
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def devices_of(pipe: Pipeline) -> list[Any]:
    """Return the devices that a pipeline's models lie on, those of other hosts included."""
    mesh = pipe.target.lm.mesh
    if mesh is not None:
        return list(mesh.devices.flat)
    return sorted(jax.tree.leaves(pipe.target.lm.params)[0].devices(), key=lambda d: d.id)


def device_facts(devices: Sequence[Any]) -> dict[str, Any]:
    """Return what devices of one kind are, and the processor of their host."""
    return {
        "platform": devices[0].platform,
        "kind": devices[0].device_kind,
        "count": len(devices),
        "cpu_cores": cpu_cores(),
        "processor": processor(),
    }


def cpu_cores() -> int | None:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def processor() -> str | None:
    """Return the name of the host's processor; None: the system does not say."""
    try:
        for line in _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip():
                return value.strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or None


def machine_line() -> str:
    """Return what a table's numbers were measured on."""
    found, device = versions(), device_facts(jax.devices()[:1])
    return (
        f"mtad-jax {found['mtad-jax']}, jax {found['jax']}, Python {found['python']}, "
        f"{device['platform']} ({device['kind']}), {device['cpu_cores']} CPU cores"
    )


def model_facts(model: LoadedModel) -> dict[str, Any]:
    """Return what a model is; its parameters are those of its checkpoint, tied ones once."""
    shapes = shapes_of(model_of(model.config)).values()
    try:
        digest = checkpoint_digest(model.folder)
    except OSError:  # gone since it was read
        digest = None
    return {
        "path": str(model.folder),
        "digest": digest,
        "family": model.config["model_type"],
        "parameters": sum(math.prod(shape.shape) for shape in shapes),
        "dtype": np.dtype(model.lm.dtype).name,
        "int8": sorted(getattr(model.lm.model, "int8", ())),
    }


def digest_of_arrays(strategy: Strategy) -> str:
    """Return a hash of what a rule read from files, such as a corpus; "" where that is nothing."""
    arrays = [x for x in jax.tree.leaves(strategy) if getattr(x, "ndim", 0)]
    said = b"".join(np.ascontiguousarray(x).tobytes() for x in arrays)
    return hashlib.sha256(said).hexdigest()[:12] if arrays else ""


def plain(value: Any) -> Any:
    """Return a value as JSON holds it: a number that is not finite, or any other thing, as text."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if hasattr(value, "tolist"):  # NumPy's and JAX's
        return plain(value.tolist())
    if isinstance(value, set | frozenset):
        value = sorted(value, key=str)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "items"):  # mappings, and what ml_collections has
        return {str(name): plain(item) for name, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return str(value)
