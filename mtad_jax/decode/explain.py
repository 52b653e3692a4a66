"""Lays one round of a call open, by the functions of the loop."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtad_jax.decode import checks
from mtad_jax.decode.arguments import check_strategy
from mtad_jax.decode.draft import node_logp, path_sum, path_to
from mtad_jax.decode.draft_verify import DraftVerify, run_nodes
from mtad_jax.decode.engine import Call
from mtad_jax.decode.explained import ExplainedRound, Node
from mtad_jax.decode.logits import law, node_history
from mtad_jax.decode.loop import kinds_of
from mtad_jax.decode.protocols import Strategy
from mtad_jax.decode.result import ENDINGS
from mtad_jax.decode.state import Controls, DecodeState
from mtad_jax.models.protocol import BoundLM


def check_explained(strategy: Strategy, rows: int) -> DraftVerify:
    """Return the rule, whose rounds on so many rows can be laid open.

    Raises:
      ValueError: it decides by the target's own beams, or there are several texts.
      TypeError: it is no rule.
    """
    check_strategy(strategy)
    if not isinstance(strategy, DraftVerify):
        raise ValueError(
            f"strategy={type(strategy).__name__} drafts no tree that one verdict is about: give a "
            "rule that does, such as recipes.mmtad()"
        )
    if rows != 1:
        raise ValueError(f"prompts * samples = {rows}: a round is one text's: give one prompt")
    return strategy


def explain(call: Call, round: int = 0, spell: Callable[[int], str] = str) -> ExplainedRound:
    """Lay one round of a prepared call open; the call cannot be run again.

    The rounds before it run as always. The round itself runs by the same functions as in the loop,
    in a program of its own, and the draft model once more on the whole tree for its log q.

    Args:
      call: of `mtad_jax.decode.engine.prepare`, on one row.
      round: its number, from 0 on.
      spell: what a token adds to a text.

    Raises:
      ValueError: the rule has no such rounds, or the text ends before this one.
    """
    strategy = check_explained(call.strategy, call.state.length.shape[0])
    round = checks.check_count("round", round, 0)
    state = call.advance(call.state, round)
    if bool(state.done[0]):
        ran = int(state.rounds)
        raise ValueError(f"round={round}: the text ended after {ran}: give one below {ran}")
    kinds = kinds_of(strategy)
    found = _opened(call.target, call.draft, strategy, call.controls, state, kinds=kinds)
    values = {name: np.asarray(value)[0].tolist() for name, value in found.items()}
    given = values["new"] - (values["place"] == 0)  # without the bonus
    path = [n for n in values["path"] if n and values["text"][n]][:given]
    bound = strategy.bound
    return ExplainedRound(
        round=round,
        start=int(state.length[0] - call.prompt_length[0]),
        root=spell(values["tokens"][0]),
        nodes=_nodes(values, path, strategy, spell),
        bound=None if bound is None else float(bound),
        accepted=given,
        bonus=spell(values["last"]) if values["place"] == 0 else None,
        log_ratio=values["log_ratio"],
        ending=ENDINGS[values["ending"]],
    )


@functools.partial(jax.jit, static_argnames=("kinds",))
def _opened(
    target: BoundLM,
    draft: BoundLM | None,
    strategy: DraftVerify,
    controls: Controls,
    state: DecodeState,
    *,
    kinds: int,
) -> dict[str, Any]:
    """Return what is known of a round, arrays [B, ...] by name; `kinds` as for `run_rounds`."""
    judged = strategy.judge(target, draft, state, controls)
    tree = judged.tree
    own = node_logp(tree, judged.logp)
    joint = path_sum(tree, own)
    after = judged.commit(target, draft, state, controls)
    rows = jnp.arange(state.length.shape[0])
    found = {
        "tokens": tree.tokens,
        "parent": tree.parent,
        "depth": jnp.broadcast_to(jnp.asarray(tree.depth), tree.tokens.shape),
        "valid": tree.valid,
        "text": tree.valid & ~tree.filler,
        "reference": tree.reference,
        "log_p": own,
        "joint_p": joint,
        "path": path_to(tree, judged.verdict.leaf),
        "new": after.length - state.length,
        "last": after.tokens[rows, after.length - 1],
        "place": after.trace.place[rows, after.length - 1],
        "log_ratio": after.trace.log_ratio[rows, state.length],
        "ending": after.trace.ending[rows, state.length],
    }
    if strategy.bound is not None:
        found["passes"] = tree.valid & (joint - tree.reference > strategy.bound)
    if draft is not None:
        logits, _ = run_nodes(draft, tree, state, judged.draft_cache)
        past = node_history(tree, state, controls, draft.vocab_size)
        found["log_q"] = node_logp(tree, law(logits, past, controls, controls.draft_warp))
        found["joint_q"] = path_sum(tree, found["log_q"])
    return found


def _nodes(
    values: dict[str, Any], path: Sequence[int], strategy: DraftVerify, spell: Callable[[int], str]
) -> tuple[Node, ...]:
    """Return the nodes that hold text, with what became of them; `path` is what the round keeps."""
    candidate = _candidate(values, strategy)
    log_q, joint_q = values.get("log_q"), values.get("joint_q")
    return tuple(
        Node(
            index=n,
            parent=values["parent"][n],
            depth=values["depth"][n],
            token=values["tokens"][n],
            piece=spell(values["tokens"][n]),
            log_p=values["log_p"][n],
            log_q=None if log_q is None else log_q[n],
            joint_p=values["joint_p"][n],
            joint_q=None if joint_q is None else joint_q[n],
            reference=values["reference"][n],
            passes=values["passes"][n] if "passes" in values else None,
            candidate=n in candidate,
            accepted=n in path,
        )
        for n, holds_text in enumerate(values["text"])
        if holds_text
    )


def _candidate(values: dict[str, Any], strategy: DraftVerify) -> set[int]:
    """Return the nodes of x*: a chain is its own; of a lattice, the likeliest beam at its end."""
    if strategy.drafter.chain:
        return {n for n, valid in enumerate(values["valid"]) if valid}
    if not strategy.drafter.candidate:
        return set()
    deepest = values["depth"][-1]
    ends = [n for n, valid in enumerate(values["valid"]) if valid and values["depth"][n] == deepest]
    node = max(ends, key=lambda n: values["joint_q"][n])
    found = set()
    while node:
        found.add(node)
        node = values["parent"][node]
    return found
