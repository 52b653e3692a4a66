"""The strategy that nearly every rule is: a drafter, one target call, a verifier."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from mtad_jax.decode import random
from mtad_jax.decode.commit import commit
from mtad_jax.decode.draft import DraftTree, take
from mtad_jax.decode.logits import History, law, node_history
from mtad_jax.decode.protocols import Drafter, Learner, Verdict, Verifier
from mtad_jax.decode.request import Request, check_draws
from mtad_jax.decode.state import Controls, DecodeState
from mtad_jax.decode.warp import check_temperature
from mtad_jax.models.protocol import BoundLM
from mtad_jax.types import Array, Float, Int


@struct.dataclass
class Judged:
    """A round before it is committed.

    Attributes:
      tree: the draft.
      logits: [B, N, V] the target's after each node's path.
      logp: [B, N, V] its law there, controls and warp applied.
      verdict: what stays.
      target_cache, draft_cache: with the nodes in their scratch slots.
    """

    tree: DraftTree
    logits: Float[Array, "B N V"]
    logp: Float[Array, "B N V"]
    verdict: Verdict
    target_cache: Any
    draft_cache: Any

    def commit(
        self, target: BoundLM, draft: BoundLM | None, state: DecodeState, controls: Controls
    ) -> DecodeState:
        """Turn the verdict on a round of `state` into text."""
        return commit(
            state,
            self.tree,
            self.verdict,
            target=target,
            draft=draft,
            target_cache=self.target_cache,
            draft_cache=self.draft_cache,
            logits=self.logits,
            logp=self.logp,
            controls=controls,
        )


def run_nodes(
    lm: BoundLM, tree: DraftTree, state: DecodeState, cache: Any
) -> tuple[Float[Array, "B N V"], Any]:
    """Run a model once on all nodes of a draft; return its logits and the cache."""
    first = state.length - 1
    logits, cache = lm.model.apply(
        lm.params,
        tree.tokens,
        positions=first[:, None] + jnp.asarray(tree.depth),
        write_at=first,
        prefix=first,
        window=tree.window,
        cache=cache,
    )
    return logits[:, :, : lm.vocab_size], cache


@struct.dataclass
class DraftVerify:
    """One round: draft a tree, run the target once on all its nodes, accept, commit.

    Attributes:
      drafter: proposes the tree.
      verifier: decides how much of it stays.
      bonus_temperature: temperature of the bonus alone, for verifiers with a plain bonus: the
        warp's other settings stay, and so do p and q in the tests; 0: the likeliest token. None:
        the warp's temperature. Traced. Goes beyond the paper.
    """

    drafter: Drafter
    verifier: Verifier
    bonus_temperature: float | Float[Array, ""] | None = None

    @property
    def depth(self) -> int:
        """K, the most drafted tokens that a round can accept."""
        return self.drafter.depth

    @property
    def lookahead(self) -> int:
        """The target runs all that is drafted."""
        return self.drafter.depth

    @property
    def needs_draft(self) -> bool:
        """Whether a draft model must be given."""
        return self.drafter.needs_draft

    def scratch(self, max_new_tokens: int) -> int:
        """Cache slots needed beyond the committed text."""
        return self.drafter.nodes

    @property
    def lossless(self) -> bool:
        """Whether the text has the law of sampling from the warped target."""
        return self.verifier.lossless

    @property
    def bound(self) -> Float[Array, ""] | None:
        """The verifier's promise of every accepted block's log-ratio, if it gives one."""
        return self.verifier.bound

    def check(self, request: Request) -> None:
        """Raise ValueError on settings out of range."""
        self.drafter.check(request)
        self.verifier.check(self.drafter, request)
        if self.bonus_temperature is None:
            return
        check_temperature("bonus_temperature", self.bonus_temperature)
        if not self.verifier.plain_bonus:
            raise ValueError(
                f"bonus_temperature={self.bonus_temperature}: what follows is drawn from what the "
                f"tests of {type(self.verifier).__name__} left, or not drawn: leave it out or use "
                "mtad or mmtad"
            )
        if self.drafter.deterministic and self.bonus_temperature == 0:
            check_draws(request, "use a bonus_temperature above 0")

    def start(self, state: DecodeState, controls: Controls, vocab: int) -> DecodeState:
        """Add the drafter's memory, if it has one; nothing else is carried between rounds."""
        if not isinstance(self.drafter, Learner):
            return state
        return dataclasses.replace(state, extra=self.drafter.start(len(state.length), vocab))

    def step(
        self, target: BoundLM, draft: BoundLM | None, state: DecodeState, controls: Controls
    ) -> DecodeState:
        """Run one round."""
        judged = self.judge(target, draft, state, controls)
        if isinstance(self.drafter, Learner):
            memory = self.drafter.learn(state.extra, judged.tree, judged.logits)
            state = dataclasses.replace(state, extra=memory)
        return judged.commit(target, draft, state, controls)

    def judge(
        self, target: BoundLM, draft: BoundLM | None, state: DecodeState, controls: Controls
    ) -> Judged:
        """Run a round up to its verdict; nothing is committed."""
        lm = target if draft is None else draft
        tree, draft_cache = self.drafter.propose(lm, state, controls)
        logits, target_cache = run_nodes(target, tree, state, state.target_cache)
        past = node_history(tree, state, controls, target.vocab_size)
        logp = law(logits, past, controls, controls.warp)
        keys = random.round_keys(state.key, state.length, random.ACCEPT)
        verdict = self.verifier.verify(tree, logp, logits, keys, controls)
        if self.bonus_temperature is not None:
            bonus = self._bonus(verdict.leaf, logits, past, controls)
            verdict = dataclasses.replace(verdict, bonus=bonus)
        return Judged(tree, logits, logp, verdict, target_cache, draft_cache)

    def _bonus(
        self,
        leaf: Int[Array, " B"],
        logits: Float[Array, "B N V"],
        past: History,
        controls: Controls,
    ) -> Float[Array, "B V"]:
        """Return the target's law after the leaf at the bonus's own temperature."""
        warp = dataclasses.replace(controls.warp, temperature=self.bonus_temperature)
        logits, past = jax.tree.map(lambda x: take(x, leaf[:, None]), (logits, past))
        return law(logits, past, controls, warp)[:, 0]

    def finish(self, state: DecodeState) -> DecodeState:
        """All text is written already."""
        return state
