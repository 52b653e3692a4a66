"""The small protocols that a decoding rule is made of."""

from typing import Any, Protocol, runtime_checkable

from flax import struct

from mtad_jax.decode.draft import DraftTree
from mtad_jax.decode.request import Request
from mtad_jax.decode.state import Controls, DecodeState
from mtad_jax.models.protocol import BoundLM
from mtad_jax.types import Array, Float, Int, Key


@struct.dataclass
class Verdict:
    """What a verifier decided.

    Attributes:
      leaf: [B] deepest accepted node; 0: nothing was accepted.
      bonus: [B, V] log-weights, not necessarily normalised, of the token that follows it.
    """

    leaf: Int[Array, " B"]
    bonus: Float[Array, "B V"]


class Drafter(Protocol):
    """Proposes candidates. Frozen; shape-changing ints static, the rest traced."""

    @property
    def depth(self) -> int:
        """K, the most tokens a round can accept."""
        ...

    @property
    def nodes(self) -> int:
        """N, scratch slots that the draft and its verification need in either cache."""
        ...

    @property
    def needs_draft(self) -> bool:
        """Whether a draft model must be given."""
        ...

    @property
    def chain(self) -> bool:
        """Whether the draft is a chain: one node a level, no window."""
        ...

    @property
    def candidate(self) -> bool:
        """Whether `DraftTree.reference` is that of one candidate x*; a chain is its own."""
        ...

    @property
    def drawn(self) -> bool:
        """Whether nodes are drawn from q at their parent (`DraftTree.logq`), siblings in order.

        The lossless rules need it; beams and other chosen drafts are not. A tree says more of its
        draws in `branching` (children a node, level by level) and `replace`.
        """
        ...

    @property
    def deterministic(self) -> bool:
        """Whether nothing is drawn: the same text always gets the same draft."""
        ...

    def check(self, request: Request) -> None:
        """Raise ValueError on settings out of range, or that cannot honour the request."""
        ...

    def propose(
        self, lm: BoundLM | None, state: DecodeState, controls: Controls
    ) -> tuple[DraftTree, Any]:
        """Return the draft and the draft model's cache.

        `lm` is the draft model; where the rule needs none, the target, for its vocabulary.
        `state.extra` is the memory of a `Learner`.
        """
        ...


@runtime_checkable
class Learner(Drafter, Protocol):
    """A drafter with a memory: what it keeps from round to round, `state.extra` in `propose`.

    Its arrays have a first dimension of B: a row learns from itself alone, so that it decodes to
    the same tokens in any batch.
    """

    def start(self, rows: int, vocab: int) -> Any:
        """Return the memory before the first round."""
        ...

    def learn(self, memory: Any, tree: DraftTree, logits: Float[Array, "B N V"]) -> Any:
        """Return the memory after a round; `logits[b, n]` is the target's after node n's path.

        Un-warped, and no control has touched them. Nodes that were not drafted hold anything.
        """
        ...


class Verifier(Protocol):
    """Decides how much of a draft stays, from the target's warped log-probabilities."""

    @property
    def lossless(self) -> bool:
        """Whether the text has the law of sampling from the warped target; on the host only."""
        ...

    @property
    def bound(self) -> Float[Array, ""] | None:
        """What the log-ratio of every accepted block is above (log tau); None: nothing promised."""
        ...

    @property
    def plain_bonus(self) -> bool:
        """Whether the bonus follows the target's law after the leaf, not what tests left of it.

        Then, and only then, it may have a temperature of its own.
        """
        ...

    def check(self, drafter: Drafter, request: Request) -> None:
        """Raise ValueError on settings out of range, or a drafter or request it cannot honour."""
        ...

    def verify(
        self,
        tree: DraftTree,
        logp: Float[Array, "B N V"],
        logits: Float[Array, "B N V"],
        keys: Key[Array, " B"],
        controls: Controls,
    ) -> Verdict:
        """Judge a draft.

        `logp[b, n]` is the target's law after node n's path, `logits[b, n]` what it was made of;
        the keys are for the tests of chance.
        """
        ...


class Strategy(Protocol):
    """A whole decoding rule, as the loop sees it."""

    @property
    def depth(self) -> int:
        """K, width of the per-position counters."""
        ...

    @property
    def lookahead(self) -> int:
        """Positions past the last committed token that a model runs in a round."""
        ...

    @property
    def needs_draft(self) -> bool:
        """Whether a draft model must be given."""
        ...

    def scratch(self, max_new_tokens: int) -> int:
        """Cache slots needed beyond the committed text."""
        ...

    @property
    def lossless(self) -> bool:
        """Whether the text has the law of sampling from the warped target; on the host only."""
        ...

    @property
    def bound(self) -> Float[Array, ""] | None:
        """What the log-ratio of every accepted block is above (log tau); None: nothing promised."""
        ...

    def check(self, request: Request) -> None:
        """Raise ValueError on settings out of range, before anything is compiled."""
        ...

    def start(self, state: DecodeState, controls: Controls, vocab: int) -> DecodeState:
        """Add what the strategy carries between rounds (`state.extra`)."""
        ...

    def step(
        self, target: BoundLM, draft: BoundLM | None, state: DecodeState, controls: Controls
    ) -> DecodeState:
        """Run one round on every row that is not done."""
        ...

    def finish(self, state: DecodeState) -> DecodeState:
        """Write what is only known at the end into the state's text."""
        ...
