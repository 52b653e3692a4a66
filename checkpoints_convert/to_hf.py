"""Convert our format to a Hugging Face folder: python -m checkpoints_convert.to_hf --help."""

import jax
from absl import flags

from checkpoints_convert import engine
from mtad_jax import cli

_SOURCE = flags.DEFINE_string("source", None, "Folder that from_hf wrote.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "Folder to make.", required=True)
_SHARD_GB = flags.DEFINE_float("max_shard_gb", 5.0, "Most GB in one file.", lower_bound=1e-6)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace a checkpoint at --output.")


def main(_: list[str]) -> None:
    """Convert as the flags say."""
    jax.config.update("jax_platforms", "cpu")  # leave the accelerator to others
    done = engine.to_hf(
        _SOURCE.value,
        _OUTPUT.value,
        overwrite=_OVERWRITE.value,
        shard_bytes=int(_SHARD_GB.value * 1e9),
    )
    print(f"{_OUTPUT.value}: {done.source} in {done.dtype}")


if __name__ == "__main__":
    cli.run(main)
