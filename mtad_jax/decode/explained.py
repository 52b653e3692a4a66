"""One round laid open: the tree of the draft, what both models say of it, and the verdict."""

import dataclasses

from mtad_jax.views.escaping import safe
from mtad_jax.views.tables import table_html, table_text

_HEAD = ("node", "after", "token", "log p", "log q", "log p/q of the path", "verdict")


@dataclasses.dataclass(frozen=True)
class Node:
    """A token that the draft proposed. Log-probabilities are natural, after controls and warp.

    Attributes:
      index: its place in the tree, from 1 on; 0 is the last token of the text before the round.
      parent: the node that it comes after.
      depth: its level, from 1 on.
      token: its id.
      piece: what the token adds to a text.
      log_p, log_q: of the token after its parent's path, by target and draft; log_q is None where
        the rule has no draft model.
      joint_p, joint_q: the same summed over the path down to the node.
      reference: the log q that the rule compares `joint_p` with: see `DraftTree.reference`.
      passes: whether `log_ratio` is above the rule's bound; None where it has none.
      candidate: whether the node is on the candidate x*; False in a draft that has none.
      accepted: whether the round keeps it.
    """

    index: int
    parent: int
    depth: int
    token: int
    piece: str
    log_p: float
    log_q: float | None
    joint_p: float
    joint_q: float | None
    reference: float
    passes: bool | None
    candidate: bool
    accepted: bool

    @property
    def log_ratio(self) -> float:
        """Log p of the path less the log q that it is compared with."""
        return self.joint_p - self.reference

    @property
    def verdict(self) -> str:
        """What became of it, in words."""
        if self.accepted:
            return "accepted"
        return {True: "passes, not taken", False: "fails", None: "not taken"}[self.passes]


@dataclasses.dataclass(frozen=True)
class ExplainedRound:
    """A round of one text.

    Attributes:
      round: its number, from 0 on.
      start: tokens of the text before it, without the prompt.
      root: piece of the token that the tree hangs from.
      nodes: what the draft proposed, in topological order; places that hold no text are left out.
      bound: log tau, which the log-ratio of an accepted block is above; None: nothing promised.
      accepted: how many drafted tokens the round gives.
      bonus: piece of the token that the target adds; None where the text ended before.
      log_ratio: of what was accepted; 0 where nothing was.
      ending: why the round ended: see `Block.ending`.
    """

    round: int
    start: int
    root: str
    nodes: tuple[Node, ...]
    bound: float | None
    accepted: int
    bonus: str | None
    log_ratio: float
    ending: str

    @property
    def depth(self) -> int:
        """The deepest level that holds text."""
        return max((node.depth for node in self.nodes), default=0)

    def __repr__(self) -> str:
        kept = f"{self.accepted} of {len(self.nodes)} drafted tokens"
        return f"ExplainedRound({self.round}, {kept}, bonus {self.bonus!r}, {self.ending})"

    def __str__(self) -> str:
        return "\n".join([self.summary, "", table_text(_HEAD, self._cells())])

    def _repr_html_(self) -> str:
        return f"<p>{safe(self.summary)}</p>\n{table_html(_HEAD, self._cells())}"

    @property
    def summary(self) -> str:
        """The verdict in a sentence."""
        deep = [node.depth for node in self.nodes if node.passes]
        rule = ""
        if self.bound is not None:
            rule = f"A path passes if its log p/q is above log tau = {self.bound:.3f}; "
            rule += f"the deepest that passes has {max(deep)} tokens. " if deep else "none does. "
        bonus = "no token of the target's own" if self.bonus is None else "one of the target's own"
        return (
            f"Round {self.round}: {len(self.nodes)} drafted tokens, one target call. {rule}"
            f"The text gets {self.accepted} of them and {bonus}; the round ended by: {self.ending}."
        )

    def _cells(self) -> list[list[str]]:
        return [
            [
                str(node.index),
                str(node.parent),
                repr(node.piece),
                f"{node.log_p:.3f}",
                "-" if node.log_q is None else f"{node.log_q:.3f}",
                f"{node.log_ratio:+.3f}",
                node.verdict + (", x*" if node.candidate else ""),
            ]
            for node in self.nodes
        ]
