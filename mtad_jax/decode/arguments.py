"""Whether each argument is the kind of thing that it should be: one line with the cure.

These are the mistakes of callers: a name for a rule, a dictionary for a warp, a loaded folder for a
model, a call inside `jit`. Whether values are in range and fit each other is checked after this, in
`mtad_jax.decode.checks`.
"""

import inspect
import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtad_jax.decode.protocols import Strategy
from mtad_jax.decode.request import refuse_traced
from mtad_jax.decode.result import DecodeResult
from mtad_jax.decode.warp import Warp
from mtad_jax.models.protocol import BoundLM, CausalLM

_RULE = ("check", "start", "step", "finish", "scratch")
_RULE += ("depth", "lookahead", "needs_draft", "lossless", "bound")
_SHOWN = 40  # characters of a value that a message repeats
_ELSEWHERE = {
    **dict.fromkeys(Warp.__annotations__, "warp=Warp({name}=...)"),
    **dict.fromkeys(("depth", "width", "tau", "draw"), "strategy=recipes.mmtad({name}=...)"),
    **dict.fromkeys(("max_tokens", "max_length", "num_tokens"), "max_new_tokens=..."),
    **dict.fromkeys(("num_return_sequences", "n"), "samples=..."),
    **dict.fromkeys(("eos_token_id", "eos_ids"), "eos_id=..."),
    **dict.fromkeys(("rng", "key", "seeds"), "seed=..., an integer"),
    "bad_words_ids": "banned_ids=[...]",
    "do_sample": "strategy=recipes.sample() or recipes.greedy()",
    "num_beams": "strategy=recipes.beam(width=...)",
    "stop": "stop=[...] to a Pipeline: generate knows ids only",
    "mesh": "the mesh when loading: mtad_jax.load(path, mesh=...)",
    "batch_size": "batch_size=... to a Pipeline's call: generate takes one batch",
    "draft": "the draft to the Pipeline: Pipeline(target, draft)",
}  # names of other places and of other libraries, and what to write here


def shown(value: Any) -> str:
    """Return a value as a message repeats it: one line, and not a long one."""
    text = " ".join(repr(value).split())
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def check_concrete(arguments: Mapping[str, Any]) -> None:
    """Check that no argument is traced.

    Raises:
      ValueError: one is: the call is inside `jit`, `vmap` or `grad`.
    """
    for name, value in arguments.items():
        for leaf in jax.tree.leaves(value):
            refuse_traced(name, leaf)


def check_model(name: str, lm: Any) -> None:
    """Check that an argument is a model with its parameters.

    Raises:
      TypeError: it is something else, such as a `LoadedModel` or bare parameters.
    """
    if isinstance(lm, BoundLM):
        return
    if isinstance(getattr(lm, "lm", None), BoundLM):
        cure = f"give its model: {name}=<{type(lm).__name__}>.lm"
    elif isinstance(getattr(getattr(lm, "target", None), "lm", None), BoundLM):
        cure = f"call it, pipe(prompts, ...), or give {name}=pipe.{name}.lm"
    elif isinstance(lm, CausalLM):
        cure = f"give its parameters too: {name}=mtad_jax.BoundLM(params, model)"
    elif isinstance(lm, Mapping):
        cure = f"parameters alone are no model: give {name}=mtad_jax.BoundLM(params, model)"
    else:
        cure = f"load one: {name}=mtad_jax.load(folder).lm"
    raise TypeError(f"{name} is a {type(lm).__name__}, not a BoundLM: {cure}")


def is_strategy(value: Any) -> bool:
    """Return whether a value has all that `Strategy` has; nothing of it is computed.

    A `bound` may be: reading it opens JAX's devices, too early for a program that chooses them.
    """
    missing = object()
    found = (inspect.getattr_static(value, name, missing) for name in _RULE)
    return not isinstance(value, type) and all(x is not missing for x in found)


def check_strategy(strategy: Strategy) -> None:
    """Check that an argument is a decoding rule.

    Raises:
      TypeError: it is something else, such as a rule's name or its recipe.
    """
    if is_strategy(strategy):
        return
    what, cure = shown(strategy), "give one, such as recipes.mmtad(depth=4)"
    if isinstance(strategy, str):
        cure = f"give the rule itself: recipes.{strategy if strategy.isidentifier() else 'mmtad'}()"
    elif callable(strategy):
        what = getattr(strategy, "__name__", what)
        cure = f"call it: strategy={what}(...)"
    elif hasattr(strategy, "strategy"):
        what, cure = f"<{type(strategy).__name__}>", "give its rule: <it>.strategy"
    raise TypeError(f"strategy={what} is no decoding rule: {cure}")


def check_warp_kind(name: str, warp: Any) -> None:
    """Check that a setting is a warp, or None for none.

    Raises:
      TypeError: it is something else, such as a dictionary or a temperature.
    """
    if warp is None or isinstance(warp, Warp):
        return
    values = f"**{shown(warp)}" if isinstance(warp, Mapping) else "temperature=0.7, top_p=0.9"
    raise TypeError(f"{name}={shown(warp)} must be a Warp: write {name}=mtad_jax.Warp({values})")


def check_names(settings: Mapping[str, Any], known: Iterable[str]) -> None:
    """Check the names of settings, as a function's own keywords would be.

    Raises:
      TypeError: there is no such setting, or no `max_new_tokens`.
    """
    for name in sorted(settings.keys() - set(known)):
        if name in _ELSEWHERE:
            cure = f"give {_ELSEWHERE[name].format(name=name)}"
        else:
            cure = f"there are {', '.join(known)}"
        raise TypeError(f"no setting is called {name}: {cure}")
    if "max_new_tokens" not in settings:
        raise TypeError("max_new_tokens is missing: give the most tokens that a row gets")


def check_seed_kind(seed: Any) -> None:
    """Check that a seed is no key of JAX.

    Raises:
      TypeError: it is one, new or old style.
      ValueError: it is traced.
    """
    refuse_traced("seed", seed)
    dtype = getattr(seed, "dtype", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    raw = isinstance(seed, jax.Array) and dtype == np.uint32 and seed.shape == (2,)
    if typed or raw:
        raise TypeError(
            "seed is a random key of JAX: give an integer, such as seed=0; every row's key is made "
            "of it"
        )


def check_result(result: Any) -> None:
    """Check that an argument is a result of `generate`.

    Raises:
      TypeError: it is something else, such as a pipeline's completion.
    """
    if not isinstance(result, DecodeResult):
        raise TypeError(
            f"result is a {type(result).__name__}, not a DecodeResult: give what "
            "mtad_jax.generate returned, or an item of pipe.results(prompts, rounds=..., ...)"
        )


def as_prompts(prompts: Any) -> list[str | list[int]]:
    """Return a pipeline's prompts as a list; a bare text is one prompt.

    Raises:
      TypeError: there is something that is neither text nor token ids.
      ValueError: there is no prompt.
    """
    if isinstance(prompts, str):
        return [prompts]
    if isinstance(prompts, bytes | Mapping | set | frozenset) or not isinstance(prompts, Iterable):
        raise TypeError(
            f"prompts={shown(prompts)} is a {type(prompts).__name__}: give a list of texts, or of "
            "lists of token ids"
        )
    refuse_traced("prompts", prompts)
    found = list(prompts)
    if not found:
        raise ValueError("prompts is empty: give at least one")
    return [as_prompt(item, f"prompts[{i}]") for i, item in enumerate(found)]


def as_prompt(prompt: Any, name: str = "prompt") -> str | list[int]:
    """Return one prompt, ids as Python's integers.

    Raises:
      TypeError: it is neither text nor token ids.
    """
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, bytes):
        raise TypeError(f"{name} is bytes: give text: prompt.decode()")
    refuse_traced(name, prompt)
    ids = prompt.tolist() if isinstance(prompt, np.ndarray | jax.Array) else prompt
    if isinstance(ids, int):
        raise TypeError(f"{name}={shown(ids)} is a number: one prompt of token ids is [[5, 6, 7]]")
    if isinstance(ids, Sequence):
        wrong = [i for i in ids if not isinstance(i, numbers.Integral) or isinstance(i, bool)]
        if not wrong:
            return [int(i) for i in ids]
        if isinstance(wrong[0], str):
            raise TypeError(
                f"{name}={shown(prompt)} is a list that holds text, not one prompt: give its text, "
                "or a list of token ids"
            )
        ids = wrong[0]
        name = f"{name} holds {shown(ids)}, which"
    if isinstance(ids, Mapping):
        raise TypeError(
            f"{name} is a {type(ids).__name__}, as chats have: give the messages to Pipeline.chat"
        )
    raise TypeError(f"{name} is a {type(ids).__name__}: give text, or a list of token ids")
