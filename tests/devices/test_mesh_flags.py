"""--mesh and --shard_draft of every runner: wrong ones are refused before weights are read."""

import pytest
from absl import flags
from generate_flags import run
from hf_folders import LLAMA, random_tensors, write_folder

from experiments import benchmark, calibrate, demo, generate
from experiments.flags.models import load_models
from experiments.flags.settings import setting_flags
from mtad_jax.checkpoints import load as checkpoint
from mtad_jax.devices.sharding import make_mesh

PROMPT = "--prompt_ids=1,5"
MESH = "--mesh=data:4,fsdp:2"


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "hf", LLAMA, random_tensors(LLAMA))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--shard_draft"], "--shard_draft needs --mesh, e.g. --mesh=model:4"),
        (["--mesh=model:3"], "mesh=model:3 is for 3 devices, but there are 8"),
        (["--mesh=model=8"], "'model=8' is no axis:size: write e.g. data:1,model:4"),
        (["--mesh=heads:8"], "mesh axis 'heads' is unknown: use data, fsdp, model"),
        (["--mesh=model:8"], "does not divide num_heads=4: use one of model:1,2,4"),
        ([MESH], "splits rows over data:4, which does not divide --batch_size=1 * --samples=1"),
        ([MESH, "--samples=2", "--output=x"], "divide --batch_size=1 * --samples=2: raise it"),
        (
            [MESH, "--samples=4", "--output=x", "--strategy=sample", "--shard_draft"],
            "--shard_draft means nothing to --strategy=sample, which has no draft model",
        ),
    ],
)
def test_refused_before_weights_are_read(args, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoint, "load", None)
    with pytest.raises(ValueError) as caught:
        run(PROMPT, *args)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("program", [benchmark, calibrate, demo, generate])
def test_every_runner_loads_onto_a_mesh(program, folder):
    def load(*args):
        values = flags.FlagValues()
        program.define_flags(values)
        values(["program", f"--target={folder}", *args])
        return load_models(values)

    pipe = load("--mesh=fsdp:4,model:2", f"--draft={folder}")
    assert pipe.target.lm.mesh == make_mesh("fsdp:4,model:2") and pipe.draft is not None
    assert pipe.draft.lm.params["embed"]["table"].sharding.is_fully_replicated
    with pytest.raises(ValueError, match="--shard_draft needs a draft: give --draft=DIR"):
        load("--mesh=fsdp:4,model:2", "--shard_draft")
    with pytest.raises(ValueError, match="splits rows over data:4"):
        load(MESH)


def test_rows_do_not_depend_on_the_mesh():
    assert {"target", "draft", "depth"} <= set(setting_flags())
    assert not {"mesh", "shard_draft"} & set(setting_flags())
