"""lm-evaluation-harness with `mtad_jax` among its models; every argument is one of `lm_eval`'s.

    python -m experiments.lm_eval --model mtad_jax --model_args target=DIR,draft=DIR --tasks gsm8k

Releases of lm_eval up to 0.4.13 know their own models alone, whatever is installed: a model from
outside has to be imported before lm_eval's command runs, which is all that this does. Later ones
find it by its entry point, and plain `lm_eval` is the same.
"""

import logging
import sys

from mtad_jax import cli
from mtad_jax.errors import install_hint


def main() -> int:
    """Run lm_eval's command line; return the exit code.

    Wrong input ends in one line; with LMEVAL_LOG_LEVEL=DEBUG in the environment it keeps its
    traceback.
    """
    try:
        from lm_eval.__main__ import cli_evaluate

        import mtad_jax.integrations.lm_eval.model  # noqa: F401  registers itself
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "lm_eval":
            raise
        return cli.tell(ValueError(f"lm_eval is not installed: {install_hint('lm-eval')}"))
    try:
        with cli.memory_told():
            cli_evaluate()
    except cli.EXPECTED as error:
        if logging.getLogger().isEnabledFor(logging.DEBUG):
            raise
        return cli.tell(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
