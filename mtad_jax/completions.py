"""What a prompt gets: its text, cut where it stops, and its counters."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from operator import itemgetter

import numpy as np

from mtad_jax.decode.result import ENDINGS, Block, DecodeResult
from mtad_jax.text.stream import StopTrimmer
from mtad_jax.views.escaping import safe
from mtad_jax.views.marking import CSS, LEGEND, marked_html

_SHOWN = 60  # characters of a text that its `repr` repeats


@dataclasses.dataclass(frozen=True)
class RowStats:
    """Counters of one text; see `mtad_jax.decode.result.DecodeStats`.

    Attributes:
      rounds: calls of the target.
      accepted: drafted tokens that are part of the text.
      drafted: tokens of the candidates.
      block_efficiency: 1 + accepted / rounds.
      acceptance_by_position: share of rounds in which at least i + 1 drafted tokens were accepted.
      endings: how many rounds a rejection, the draft's depth, the text's end or its limit ended.
    """

    rounds: int
    accepted: int
    drafted: int
    block_efficiency: float
    acceptance_by_position: list[float]
    endings: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Completion:
    """One text that a prompt got.

    Attributes:
      prompt_ids: the prompt, start token included.
      tokens: generated ids, end token included; cut before a stop string.
      text: their text, without special tokens; empty where there is no tokenizer.
      logp: log-probability of each token under the target with all controls: penalty, bans, warp.
      logp_raw: log-probability of each token under the target alone.
      stats: counters, cut like the tokens.
      finish_reason: "end" (end token), "stop" (stop string) or "length".
      blocks: the rounds in order, cut like the tokens; the first `accepted` tokens of one are those
        that the draft proposed.
      pieces: what each token adds to the text, "" for one that is special or part of a character;
        empty where there is no tokenizer.
    """

    prompt_ids: list[int]
    tokens: list[int]
    text: str
    logp: list[float]
    logp_raw: list[float]
    stats: RowStats
    finish_reason: str
    blocks: list[Block] = dataclasses.field(default_factory=list)
    pieces: list[str] = dataclasses.field(default_factory=list)

    def __repr__(self) -> str:
        text = self.text if self.text or not self.tokens else f"ids {self.tokens}"
        shown = repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")
        return f"Completion({shown}, {self._facts()})"

    def _repr_html_(self) -> str:
        return self.html()

    def html(self, title: str = "", *, legend: bool = True) -> str:
        """Return the text marked by who wrote each token, as notebooks show it.

        Without a tokenizer ids take the place of tokens. What models and users wrote is escaped.

        Args:
          title: a name over it.
          legend: whether to say what the marks mean.
        """
        pieces, text = self.pieces, self.text
        if not pieces and not text:
            pieces = [f"{token} " for token in self.tokens]
            text = "".join(pieces)
        blocks = [(b.start, b.tokens, b.accepted, b.candidate) for b in self.blocks]
        marked = marked_html(text, pieces, blocks)
        return (
            f"<style>{CSS}</style>\n<div><strong>{safe(title)}</strong> "
            f"<small>{safe(self._facts())}</small>\n"
            f'<p class="tokens">{safe(text) if marked is None else marked}</p>\n'
            f"{f'<small>{LEGEND}</small>' if legend else ''}</div>"
        )

    def _facts(self) -> str:
        """Return the counters in words."""
        stats = self.stats
        said = f"{len(self.tokens)} tokens in {stats.rounds} target calls"
        if stats.drafted:
            said += f", {stats.accepted} of {stats.drafted} drafted tokens accepted"
        return f"{said}, finish_reason={self.finish_reason!r}"


@dataclasses.dataclass(frozen=True)
class TimedCompletions:
    """The texts of one batch and the time that they took.

    Attributes:
      completions: a text for each prompt and sample.
      prefill_seconds: wall time of running the prompts through the models.
      seconds: wall time of all rounds, and of the handling of the text meanwhile.
    """

    completions: list[Completion]
    prefill_seconds: float
    seconds: float


class Piece(str):
    """A piece of a text that is being made.

    Attributes:
      spans: its parts in order, (text, drafted): whether the draft proposed the tokens that a part
        came from, or the target added them of its own. Rules that decode the target's own beams
        accept nothing from a draft, and all of their text is the target's. Empty for a piece that
        was not made by `of`.
    """

    spans: tuple[tuple[str, bool], ...] = ()

    @classmethod
    def of(cls, parts: Iterable[tuple[str, bool]]) -> "Piece":
        """Return the parts as one piece, neighbours of one kind joined."""
        spans = tuple(
            ("".join(text for text, _ in group), drafted)
            for drafted, group in itertools.groupby(filter(itemgetter(0), parts), itemgetter(1))
        )
        piece = cls("".join(text for text, _ in spans))
        piece.spans = spans
        return piece


class TextStream(Iterator[Piece]):
    """Pieces of one text as they become final; `completion` is set after the last."""

    completion: Completion | None = None

    def __init__(self, pieces: Iterator[tuple[Piece, Completion | None]]):
        self._pieces = pieces

    def __next__(self) -> Piece:
        piece, completion = next(self._pieces)
        self.completion = completion
        return piece


def follow(
    results: Iterator[DecodeResult],
    prompts: list[list[int]],
    trimmers: list[StopTrimmer | None],
    eos: list[int],
) -> Iterator[tuple[list[Piece], list[Completion]]]:
    """Yield each step's new text of every row, and with the last step the completions."""
    seen = [0] * len(prompts)
    texts: list[list[tuple[str, int]]] = [[] for _ in prompts]
    for result in results:
        tokens, lengths = np.asarray(result.tokens), np.asarray(result.length)
        done = np.asarray(result.done).copy()
        drafted = np.asarray(result.trace.place) > 0
        pieces = [Piece()] * len(prompts)
        for row, trimmer in enumerate(trimmers):
            if trimmer is not None:
                trimmer.push(tokens[row, seen[row] : lengths[row]].tolist())
                parts = trimmer.parts
                if done[row]:
                    trimmer.flush()
                    parts = parts + trimmer.parts
                pieces[row] = Piece.of((text, bool(drafted[row, at])) for at, text in parts)
                texts[row] += [(text, at) for at, text in parts]
                done[row] |= trimmer.stopped
            seen[row] = int(lengths[row])
        if done.all():
            yield pieces, _completions(result, prompts, texts, trimmers, eos)
            return
        yield pieces, []


def _completions(
    result: DecodeResult,
    prompts: list[list[int]],
    texts: list[list[tuple[str, int]]],
    trimmers: list[StopTrimmer | None],
    eos: list[int],
) -> list[Completion]:
    """Cut every row at its stop string and gather what is known of it."""
    kept = np.asarray(result.length).copy()
    for row, trimmer in enumerate(trimmers):
        if trimmer is not None and trimmer.stopped:
            kept[row] = trimmer.kept_tokens
    stats, blocks = result.stats(kept), result.blocks(kept)
    tokens = np.asarray(result.tokens)
    logp, logp_raw = np.asarray(result.trace.logp), np.asarray(result.trace.logp_raw)
    completions = []
    for row, (n, trimmer) in enumerate(zip(kept, trimmers, strict=True)):
        stopped = trimmer is not None and trimmer.stopped
        ended = n > 0 and int(tokens[row, n - 1]) in eos
        counters = RowStats(
            rounds=int(stats.rounds[row]),
            accepted=int(stats.accepted[row]),
            drafted=int(stats.drafted[row]),
            block_efficiency=float(stats.block_efficiency[row]),
            acceptance_by_position=stats.acceptance_by_position[row].tolist(),
            endings=dict(zip(ENDINGS.values(), stats.endings[row].tolist(), strict=True)),
        )
        completions.append(
            Completion(
                prompt_ids=prompts[row],
                tokens=tokens[row, :n].tolist(),
                text="".join(text for text, _ in texts[row]),
                logp=logp[row, :n].tolist(),
                logp_raw=logp_raw[row, :n].tolist(),
                stats=counters,
                finish_reason="stop" if stopped else "end" if ended else "length",
                blocks=blocks[row],
                pieces=_by_token(texts[row], int(n)) if trimmer is not None else [],
            )
        )
    return completions


def _by_token(parts: list[tuple[str, int]], count: int) -> list[str]:
    """Return what each token adds; what a token gave that a stop string cut, the last one has."""
    pieces = [""] * count
    for text, at in parts:
        if count:
            pieces[min(at, count - 1)] += text
    return pieces
