"""The commands of an installed package: `python -m mtad_jax COMMAND --flag=value ...`.

In a checkout the commands are the top-level folders, and `python -m experiments.generate` is the
same as `python -m mtad_jax generate`. A wheel has them inside the package, so that it puts no
package called `experiments` beside those of others.
"""

import os
import runpy
import sys
from pathlib import Path

COMMANDS = {
    "generate": "experiments.generate",
    "demo": "experiments.demo",
    "benchmark": "experiments.benchmark",
    "calibrate": "experiments.calibrate",
    "plan": "experiments.plan",
    "quantization": "experiments.quantization",
    "answers": "experiments.answers",
    "evaluate": "experiments.evaluate",
    "reproduce": "experiments.reproduce",
    "report": "experiments.report",
    "corpus": "experiments.corpus",
    "own_answers": "experiments.own_answers",
    "train": "experiments.train",
    "lm_eval": "experiments.lm_eval",
    "from_hf": "checkpoints_convert.from_hf",
    "from_gguf": "checkpoints_convert.from_gguf",
    "to_hf": "checkpoints_convert.to_hf",
    "verify": "checkpoints_convert.verify",
}
"""Each command's module."""


def commands_folder() -> Path:
    """Return the folder that `experiments` and the others lie in."""
    package = Path(__file__).resolve().parent
    inside = package / "_commands"
    return inside if inside.is_dir() else package.parent


def main() -> None:
    """Run the command that the first argument names.

    Raises:
      SystemExit: the command's; 0 after --help, 1 where there is no such command.
    """
    names = ", ".join(COMMANDS)
    given = sys.argv[1:2]
    if not given or given[0] in ("--help", "-h", "help"):
        print(f"python -m mtad_jax COMMAND --flag=value ... (--help has its flags)\n{names}")
        sys.exit(0 if given else 1)
    if given[0] not in COMMANDS:
        print(f"error: {given[0]!r} is no command: give one of {names}", file=sys.stderr)
        sys.exit(1)
    folder = str(commands_folder())
    # First, also for the processes that a command starts: another `experiments` may be anywhere.
    sys.path.insert(0, folder)
    paths = [folder, *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    del sys.argv[0]
    runpy.run_module(COMMANDS[given[0]], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
