"""Programs under each kind of guard of `experiments.tasks.code_execution`."""

import pytest

from experiments.tasks.code_execution import Isolation, Outcome, isolation, run_program

HOOK: Isolation = "audit hook"
REFUSED = isolation() == HOOK
KINDS = [
    pytest.param("namespaces", marks=pytest.mark.skipif(REFUSED, reason="no namespaces here")),
    # The variant, where there is the other.
    pytest.param(HOOK, marks=[] if REFUSED else [pytest.mark.slow]),
]
both = pytest.mark.parametrize("kind", KINDS)
kernel = pytest.mark.parametrize("kind", KINDS[:1])


def run(program: str, kind: Isolation, seconds: float = 10.0) -> Outcome:
    """Run a program with a last part, as tests are, that is not reached if it ends before."""
    return run_program([program, "assert finished"], seconds=seconds, isolated_by=kind)
