"""Learn without the hardware whether a pair of models compiles, fits and how fast it could be.

`python -m experiments.plan --target=llama2-70b --draft=llama-68m --topology=v5p:2x2x1` compiles the
real decode for TPUs that need not be there (the `tpu` extra has the compiler) and prints what it
needs on each chip, its collectives, and a floor of its time. `docs/plan.md` says what the numbers
mean. Exit code 1 where it does not fit.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags

from configs import models as presets
from experiments.flags.acceptance import read_acceptance, rules_of
from experiments.flags.models import check_models, check_no_draft_flags, define_placement_flags
from experiments.flags.rules import define_strategy_flags, read_rule, read_strategy
from experiments.flags.warp import (
    define_draft_warp_flags,
    define_warp_flags,
    read_draft_warp,
    read_warp,
)
from mtad_jax import cli
from mtad_jax.calibration.candidates import Candidate
from mtad_jax.checkpoints.atomic import new_file
from mtad_jax.checkpoints.hf.families import model_of
from mtad_jax.checkpoints.hf.read import read_json
from mtad_jax.decode.request import Request
from mtad_jax.devices.sharding import parse_mesh
from mtad_jax.models.linen import LinenLM
from mtad_jax.planning import topology
from mtad_jax.planning.job import Job, choose_mesh, make_job
from mtad_jax.planning.plan import Plan, make_plan, verified
from mtad_jax.planning.report import as_json, lines_of
from mtad_jax.planning.topology import Machine

_DTYPES = ("bfloat16", "float32")


def define_flags(values: flags.FlagValues) -> None:
    """Define the program's flags."""
    text, whole, real = flags.DEFINE_string, flags.DEFINE_integer, flags.DEFINE_float
    switch = flags.DEFINE_bool
    name = "preset such as llama2-70b, or a folder with a config.json"
    text("target", None, f"Large model: a {name}.", flag_values=values)
    text("draft", None, f"Small model: a {name}.", flag_values=values)
    text("topology", None, "TPUs, kind:shape, such as v5p:2x2x1, v5e:4x4, v6e:2x4, v4:2x2x1.",
         flag_values=values)  # fmt: skip
    text("backend", None, "Instead: cpu or gpu, the devices of this machine.", flag_values=values)
    define_placement_flags(values, mesh_default="chosen")
    flags.DEFINE_enum("dtype", "bfloat16", _DTYPES, "Of weights and caches.", flag_values=values)
    define_warp_flags(values)
    define_draft_warp_flags(values)
    whole("batch_size", 1, "Rows decoded together.", flag_values=values)
    whole("context", 2048, "Cache slots of a row: prompt, text and scratch.", flag_values=values)
    whole("prompt", None, "Tokens of the longest prompt. Default: 512, at most half the context.",
          flag_values=values)  # fmt: skip
    flags.DEFINE_list("trace", None, "Outputs of experiments.generate: how many tokens a call "
                      "of the target gave.", flag_values=values)  # fmt: skip
    flags.DEFINE_list("acceptance_rate", None, "Chance that a drafted token is accepted: 0.7, or "
                      "by rule: speculative:0.6,mtad:0.8.", flag_values=values)  # fmt: skip
    real("watts", None, "Power of a chip. Default: see docs/plan.md.", flag_values=values)
    real("efficiency", 1.0, "Share of the floor's speed that is reached.", flag_values=values)
    switch("estimates", False, "Compile lone calls too, for the compiler's estimates of them.",
           flag_values=values)  # fmt: skip
    switch("verify", False, "Compile the largest batch and context, too.", flag_values=values)
    text("output", None, "JSON file to write.", flag_values=values)
    switch("overwrite", False, "Replace an output that exists.", flag_values=values)
    define_strategy_flags(values)


def plan(values: flags.FlagValues) -> Plan:
    """Make the plan that the flags ask for, and print it.

    Raises:
      ValueError: wrong input, before anything is compiled; or it does not fit.
      OSError: a file cannot be read or written.
    """
    _check(values)
    # Before JAX is first used; see there.
    topology.use_platform("cuda,cpu" if values.backend == "gpu" else "cpu")
    machine = _machine(values)
    job, why = _job(values, machine)
    known = read_acceptance(values)
    candidate = _candidate(values)
    made = make_plan(
        job,
        machine,
        candidate,
        names=[x for x in (values.target, values.draft) if x],
        rules=[(rule, known.tokens(rule)) for rule in rules_of(candidate, known)],
        why=why,
        watts=values.watts,
        efficiency=values.efficiency,
        estimates=values.estimates,
    )
    print("\n".join(lines_of(made)), flush=True)
    _write(values, made)
    _finish(values, made)
    return made


def _finish(values: flags.FlagValues, made: Plan) -> None:
    """Compile the largest sizes if asked to.

    Raises:
      ValueError: the plan does not fit.
    """
    fit = made.fit
    if not fit.fits:
        cures = "; or ".join(fit.cures) or "use larger chips"
        raise ValueError(f"{made.machine.name}: {fit.verdict}: {cures}")
    for line in verified(made) if values.verify else ():
        print(line, flush=True)


def _check(values: flags.FlagValues) -> None:
    """Raise ValueError on flags that contradict each other or are out of range."""
    if values.target is None:
        raise ValueError("--target is missing: give a preset or a folder: --target=llama2-70b")
    if (values.topology is None) == (values.backend is None):
        raise ValueError(
            "give one of --topology (TPUs, e.g. v5p:2x2x1) and --backend (cpu or gpu, this machine)"
        )
    strategy = read_strategy(values)
    check_models(values, strategy.needs_draft)
    if not strategy.needs_draft:
        check_no_draft_flags(values)
    for name in ("efficiency", "watts"):
        value = values[name].value
        if value is not None and not (0 < value and math.isfinite(value)):
            raise ValueError(f"--{name}={value} must be finite and > 0")
    if values.estimates and not (values.topology or "").startswith("v5p"):
        raise ValueError(
            "--estimates: the compiler's are of use for v5p only: leave it out, or plan for v5p"
        )
    if values.efficiency > 1:
        raise ValueError(f"--efficiency={values.efficiency} must be <= 1, the floor's own speed")
    if values.output is None and values.overwrite:
        raise ValueError("--overwrite needs --output=FILE.json")
    if values.output is not None and Path(values.output).exists() and not values.overwrite:
        raise ValueError(f"{values.output}: output exists: use another name or --overwrite")


def _machine(values: flags.FlagValues) -> Machine:
    """Return the devices that the flags name."""
    if values.topology is not None:
        return topology.tpu(values.topology)
    asked = None if values.mesh is None else math.prod(parse_mesh(values.mesh).values())
    return topology.local(values.backend, asked)


def _model(name: str, int8: str) -> LinenLM:
    """Return the model of a preset, or of a folder's `config.json`.

    Raises:
      ValueError: neither, or a config that is not supported.
    """
    config: Mapping[str, Any] | None
    if Path(name).is_dir():
        config = read_json(Path(name), "config.json")
        if config is None:
            raise ValueError(f"{name}: no config.json: give a checkpoint folder or a preset")
    else:
        config = presets.read(name)
    return model_of(config).quantized(int8)


def _candidate(values: flags.FlagValues) -> Candidate:
    """Return the rule with its settings as given, for its label."""
    rule = read_rule(values)
    return Candidate.of(rule.pop("strategy"), **rule)


def _job(values: flags.FlagValues, machine: Machine) -> tuple[Job, str]:
    """Return the decode that the flags ask for, and why its mesh is as it is."""
    warp = read_warp(values, greedy=values.strategy == "greedy")
    draft_warp = read_draft_warp(values, warp)
    request = Request(top_k=warp.top_k, draft_top_k=(draft_warp or warp).top_k)
    strategy = read_strategy(values, request)
    target = _model(values.target, values.target_int8)
    draft = _model(values.draft, values.draft_int8) if values.draft else None
    if values.mesh is None:
        mesh, why = choose_mesh(target, values.batch_size, len(machine.devices))
    else:
        mesh, why = parse_mesh(values.mesh), ""
    settings: dict[str, Any] = {"warp": warp, "eos_id": 2}
    if draft_warp is not None:
        settings["draft_warp"] = draft_warp
    job = make_job(
        target, draft, strategy=strategy, mesh=mesh, devices=machine.devices,
        batch=values.batch_size, slots=values.context, prompt=values.prompt, dtype=values.dtype,
        shard_draft=values.shard_draft, settings=settings,
    )  # fmt: skip
    return job, why


def _write(values: flags.FlagValues, made: Plan) -> None:
    if values.output is not None:
        with new_file(values.output, overwrite=values.overwrite) as path:
            path.write_text(json.dumps(as_json(made), indent=1) + "\n", encoding="utf-8")


def main(argv: list[str]) -> None:
    """Run the program on the command line's flags."""
    del argv
    plan(flags.FLAGS)


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    cli.run(main)
