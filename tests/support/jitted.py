"""`jax.jit` for functions of a rule, which no other rule's program is taken for."""

from collections.abc import Callable

import jax

from mtad_jax.decode.loop import kinds_of


def jit_of_rule(call: Callable) -> Callable:
    """Compile `call(rule, ...)`, each rule's classes apart; see `kinds_of`."""
    compiled = jax.jit(lambda *args, kinds: call(*args), static_argnames="kinds")
    return lambda rule, *args: compiled(rule, *args, kinds=kinds_of(rule))
