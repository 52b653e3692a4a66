"""Check a conversion against transformers: python -m checkpoints_convert.verify --help."""

import jax
from absl import flags

from checkpoints_convert import compare
from mtad_jax import cli

_SOURCE = flags.DEFINE_string("source", None, "Hugging Face folder, or GGUF file.", required=True)
_CONVERTED = flags.DEFINE_string("converted", None, "What was made of it.", required=True)
_MAX_TOKENS = flags.DEFINE_integer("max_tokens", 2048, "Longest prompt.", lower_bound=2)
_TOLERANCE = flags.DEFINE_float(
    "tolerance", 1e-4, "Largest difference, relative to the largest logit.", lower_bound=0
)


def main(_: list[str]) -> int:
    """Print the comparison; the exit code is 1 if it fails."""
    jax.config.update("jax_platforms", "cpu")  # compare in plain float32
    rows = compare.compare(_SOURCE.value, _CONVERTED.value, max_tokens=_MAX_TOKENS.value)
    print(compare.table(rows, _TOLERANCE.value))
    passed = all(row.passes(_TOLERANCE.value) for row in rows)
    print("PASS" if passed else "FAIL")
    return 0 if passed else 1


if __name__ == "__main__":
    cli.run(main)
