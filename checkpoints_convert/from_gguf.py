"""Convert a GGUF file to our format: python -m checkpoints_convert.from_gguf --help."""

import jax
from absl import flags

from checkpoints_convert import engine
from mtad_jax import cli

_SOURCE = flags.DEFINE_string("source", None, "GGUF file of a Llama.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "Folder to make.", required=True)
_DTYPE = flags.DEFINE_enum(
    "dtype", None, list(engine.DTYPES), "Round to this dtype; default: float32, which is exact."
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace a checkpoint at --output.")


def main(_: list[str]) -> None:
    """Convert as the flags say."""
    jax.config.update("jax_platforms", "cpu")  # leave the accelerator to others
    dtype = engine.DTYPES[_DTYPE.value] if _DTYPE.value else None
    done = engine.from_gguf(_SOURCE.value, _OUTPUT.value, dtype=dtype, overwrite=_OVERWRITE.value)
    print(f"{_OUTPUT.value}: {done.source} in {done.dtype} (from {done.source_dtype})")


if __name__ == "__main__":
    cli.run(main)
