"""The small protocols that a decoding rule is made of."""

from typing import Any, Protocol

from flax import struct

from mtad_jax.decode.state import Controls, DecodeState
from mtad_jax.models.base import BoundLM
from mtad_jax.tree import Draft
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

    def check(self, vocab: int, top_k: int) -> None:
        """Raise ValueError on settings that this vocabulary or top-k cannot honour."""
        ...

    def propose(
        self, lm: BoundLM | None, state: DecodeState, controls: Controls
    ) -> tuple[Draft, Any]:
        """Return the draft and the draft model's cache."""
        ...


class Verifier(Protocol):
    """Decides how much of a draft stays, from the target's warped log-probabilities."""

    def check(self) -> None:
        """Raise ValueError on settings out of range."""
        ...

    def verify(
        self,
        draft: Draft,
        logp: Float[Array, "B N V"],
        keys: Key[Array, " B"],
        controls: Controls,
    ) -> Verdict:
        """Judge a draft; `logp[b, n]` is the target's distribution after node n's path."""
        ...


class Strategy(Protocol):
    """A whole decoding rule, as the loop sees it."""

    @property
    def depth(self) -> int:
        """K, width of the per-position counters."""
        ...

    @property
    def needs_draft(self) -> bool:
        """Whether a draft model must be given."""
        ...

    def scratch(self, max_new_tokens: int) -> int:
        """Cache slots needed beyond the committed text."""
        ...

    def check(self, vocab: int, top_k: int) -> None:
        """Raise ValueError on settings out of range, before anything is compiled."""
        ...

    def start(self, state: DecodeState) -> DecodeState:
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
